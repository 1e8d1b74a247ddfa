/** How a call is doing. Bytes and packets count from its beginning; `undefined` is not known (yet). */
export interface StatsSummary {
  roundTripMs: number | undefined;
  jitterMs: number | undefined;
  packetsReceived: number;
  packetsLost: number;
  bytesReceived: number;
  bytesSent: number;
  framesDecoded: number;
  audioLevel: number | undefined;
  /** Whether the media goes through a TURN server. */
  relayed: boolean;
}

/** The figures of a `getStats` report that matter to people. */
export function summarize(report: Iterable<[string, Record<string, unknown>]>): StatsSummary {
  const entries = new Map(report);
  const summary: StatsSummary = {
    roundTripMs: undefined, jitterMs: undefined, packetsReceived: 0, packetsLost: 0, bytesReceived: 0,
    bytesSent: 0, framesDecoded: 0, audioLevel: undefined, relayed: false,
  };
  for (const entry of entries.values()) {
    if (entry.type === "inbound-rtp") {
      summary.packetsReceived += number(entry.packetsReceived) ?? 0;
      summary.packetsLost += number(entry.packetsLost) ?? 0;
      summary.bytesReceived += number(entry.bytesReceived) ?? 0;
      summary.framesDecoded += number(entry.framesDecoded) ?? 0;
      if (entry.kind === "audio") {
        summary.audioLevel = number(entry.audioLevel);
        summary.jitterMs = millis(entry.jitter);
      }
    } else if (entry.type === "outbound-rtp") {
      summary.bytesSent += number(entry.bytesSent) ?? 0;
    } else if (entry.type === "candidate-pair" && entry.nominated === true && entry.state === "succeeded") {
      summary.roundTripMs = millis(entry.currentRoundTripTime);
      const ends = [entry.localCandidateId, entry.remoteCandidateId].map((id) => entries.get(String(id)));
      summary.relayed = ends.some((end) => end?.candidateType === "relay");
    }
  }
  return summary;
}

const number = (value: unknown) => (typeof value === "number" ? value : undefined);
const millis = (seconds: unknown) => (typeof seconds === "number" ? seconds * 1000 : undefined);
