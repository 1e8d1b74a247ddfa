import { expect, test, vi } from "vitest";
import { CandidateBatch, CandidateQueue, type Candidate } from "../src/candidates.js";
import { Negotiation, type Signal } from "../src/negotiation.js";
import { FakePeer } from "./fake_peer.mjs";

const settled = () => new Promise((resolve) => setTimeout(resolve, 80));

function pair(waits = false) {
  const failures: unknown[] = [];
  const sent: string[] = [];
  const peers = [new FakePeer(), new FakePeer()] as const;
  const ends: Negotiation[] = peers.map((peer, n) => {
    const send = (signal: Signal) => {
      sent.push("candidates" in signal ? "candidates" : signal.description.type);
      setTimeout(() => void ends[1 - n]?.receive(signal), 2);
    };
    const role = { polite: n === 1, waits: waits && n === 1 };
    return new Negotiation(peer as unknown as RTCPeerConnection, role, send, (error) => failures.push(error));
  });
  return { peers, ends, sent, failures };
}

test("an offer is answered and candidates follow, with their end", async () => {
  const { peers, sent, failures } = pair();
  peers[0].need();
  await settled();
  expect(peers.map((peer) => peer.signalingState)).toEqual(["stable", "stable"]);
  expect(sent.slice(0, 1)).toEqual(["offer"]);
  expect(peers[1].candidates).toEqual([{ candidate: `of ${peers[0].localDescription!.sdp}` }, null]);
  expect(failures).toEqual([]);
});

test("of two offers at once the impolite one holds", async () => {
  const { peers, failures } = pair();
  peers[0].need();
  await settled();
  peers[0].need();
  peers[1].need();
  await settled();
  expect(peers.map((peer) => peer.rollbacks)).toEqual([0, 1]);
  expect(peers[0].localDescription!.type).toBe("offer");
  expect(peers.map((peer) => peer.remoteDescription!.sdp)).toEqual([
    peers[1].localDescription!.sdp,
    peers[0].localDescription!.sdp,
  ]);
  expect(failures).toEqual([]);
});

test("of two first offers at once the polite side answers on another connection, and says no more on this one", async () => {
  for (const crossing of [0, 80]) {
    const { end, peer, sent, renewed } = one();
    peer.need();
    await new Promise((resolve) => setTimeout(resolve, crossing)); // while it is made, or when it is on its way
    const before = sent.length;
    const taken = end.receive({ description: { type: "offer", sdp: sdp("A1") } });
    await taken;
    end.stop();
    await settled();
    expect(renewed).toEqual([sdp("A1")]);
    expect([peer.rollbacks, peer.remoteDescription, sent.length]).toEqual([0, null, before]);
  }
});

test("who is called leaves the first offer to the caller", async () => {
  const { peers, sent } = pair(true);
  peers[1].need();
  await settled();
  expect(sent).toEqual([]);
  peers[0].need();
  await settled();
  peers[1].need();
  await settled();
  expect(sent.filter((what) => what === "offer")).toHaveLength(2);
});

test("a copy of an answer is nothing", async () => {
  const { peers, ends, failures } = pair();
  peers[0].need();
  await settled();
  await ends[0]!.receive({ description: { type: "answer", sdp: "again" } });
  expect(failures).toEqual([]);
  expect(peers[0].remoteDescription!.sdp).not.toBe("again");
});

test("negotiating anew sends an open offer again, and restarts ICE otherwise", async () => {
  const sent: Signal[] = [];
  const peer = new FakePeer();
  const role = { polite: true, waits: false };
  const end = new Negotiation(peer as unknown as RTCPeerConnection, role, (s) => sent.push(s), () => undefined);
  peer.need();
  await settled();
  end.again();
  const offers = sent.filter((signal) => "description" in signal);
  expect(offers).toHaveLength(2);
  expect(offers[1]).toEqual(offers[0]);
  await end.receive({ description: { type: "answer", sdp: "a" } });
  end.again();
  expect(peer.restarts).toBe(1);
});

test("candidates wait for a remote description, and a bad one does not stop the others", async () => {
  const added: unknown[] = [];
  const peer = {
    remoteDescription: null as RTCSessionDescription | null,
    addIceCandidate: async (candidate: unknown) => {
      if ((candidate as { candidate: string } | null)?.candidate === "bad") {
        throw new Error("bad");
      }
      added.push(candidate);
    },
  };
  const queue = new CandidateQueue(peer as never);
  const many = Array.from({ length: 300 }, (_, n): Candidate => ({ candidate: String(n) }));
  await queue.add(many);
  await queue.add([{ candidate: "bad" }, null]);
  expect(added).toEqual([]);
  peer.remoteDescription = {} as RTCSessionDescription;
  await queue.release();
  expect(added).toHaveLength(255);
  expect(added.at(-1)).toBeNull();
});

test("candidates go in batches of at most 64, and at once with the last", () => {
  vi.useFakeTimers();
  const sizes: number[] = [];
  const batch = new CandidateBatch((candidates) => sizes.push(candidates.length));
  for (let n = 0; n < 70; n += 1) {
    batch.add({ candidate: String(n) });
  }
  expect(sizes).toEqual([64]);
  vi.advanceTimersByTime(100);
  expect(sizes).toEqual([64, 6]);
  batch.add(null);
  expect(sizes).toEqual([64, 6, 1]);
  vi.useRealTimers();
});

const sdp = (connection: string) => `v=0\r\na=fingerprint:sha-256 ${connection}\r\n`;

function one(polite = true) {
  const sent: { type?: string; peer?: string }[] = [];
  const renewed: (string | undefined)[] = [];
  const peer = new FakePeer();
  const end = new Negotiation(
    peer as unknown as RTCPeerConnection,
    { polite, waits: false },
    (signal) => "description" in signal && sent.push(signal.description),
    (error) => { throw error; },
    (offer) => void renewed.push(offer && "description" in offer ? offer.description.sdp : undefined),
  );
  return { end, peer, sent, renewed };
}

test("a description says for which connection it is, once that is known", async () => {
  const { end, peer, sent } = one();
  peer.need();
  await settled();
  await end.receive({ description: { type: "answer", sdp: sdp("A1") } });
  peer.need();
  await settled();
  expect(sent.map((description) => description.peer)).toEqual([undefined, "sha-256 A1"]);
});

test("a peer with another connection asks for another of ours, also in the middle of an offer, polite or not", async () => {
  for (const polite of [true, false]) {
    const { end, peer, renewed } = one(polite);
    await end.receive({ description: { type: "offer", sdp: sdp("A1") } });
    peer.need();
    await settled();
    expect(peer.signalingState).toBe("have-local-offer");
    await end.receive({ description: { type: "offer", sdp: sdp("A2") } });
    await end.receive({ description: { type: "answer", sdp: sdp("A2") } });
    expect(renewed).toEqual([sdp("A2"), undefined]);
    expect(peer.remoteDescription!.sdp).toBe(sdp("A1"));
  }
});

test("what was meant for a connection of before is dropped", async () => {
  const { end, peer, sent } = one();
  peer.need();
  await settled();
  await end.receive({ description: { type: "answer", sdp: sdp("A1"), peer: "sha-256 B0" } });
  await end.receive({ description: { type: "offer", sdp: sdp("A1"), peer: "sha-256 B0" } });
  expect(peer.signalingState).toBe("have-local-offer");
  expect(sent).toHaveLength(1);
});
