import { expect, test } from "vitest";
import { refreshDelay } from "../src/ice.js";
import { summarize } from "../src/stats.js";

test("a report becomes a summary", () => {
  const report = new Map<string, Record<string, unknown>>([
    ["a", { type: "inbound-rtp", kind: "audio", packetsReceived: 10, packetsLost: 1, bytesReceived: 100, jitter: 0.002, audioLevel: 0.5 }],
    ["v", { type: "inbound-rtp", kind: "video", packetsReceived: 20, packetsLost: 0, bytesReceived: 1000, framesDecoded: 7 }],
    ["o", { type: "outbound-rtp", bytesSent: 50 }],
    ["p", { type: "candidate-pair", nominated: true, state: "succeeded", currentRoundTripTime: 0.01, localCandidateId: "l", remoteCandidateId: "r" }],
    ["l", { type: "local-candidate", candidateType: "relay" }],
    ["r", { type: "remote-candidate", candidateType: "host" }],
  ]);
  expect(summarize(report)).toEqual({
    roundTripMs: 10, jitterMs: 2, packetsReceived: 30, packetsLost: 1, bytesReceived: 1100, bytesSent: 50,
    framesDecoded: 7, audioLevel: 0.5, relayed: true,
  });
});

test("credentials are renewed before they expire, and never in a hurry", () => {
  expect(refreshDelay(1_000_000, 0)).toBe(800_000);
  expect(refreshDelay(0, 1_000_000)).toBe(30_000);
  expect(refreshDelay(1e15, 0)).toBe(24 * 3600_000);
});
