import type { StatsSummary } from "../../client/src/index.js";

export type Level = "good" | "fair" | "poor";

/** How good a connection has been between two looks at its figures, and in words. */
export function quality(now: StatsSummary, before: StatsSummary | undefined): { level: Level; text: string } {
  const received = now.packetsReceived - (before?.packetsReceived ?? 0);
  const lost = Math.max(0, now.packetsLost - (before?.packetsLost ?? 0));
  const loss = received + lost > 0 ? lost / (received + lost) : 0;
  const trip = now.roundTripMs ?? 0;
  const level: Level = loss > 0.08 || trip > 500 ? "poor" : loss > 0.02 || trip > 250 ? "fair" : "good";
  const word = { good: "Good", fair: "Fair", poor: "Poor" }[level];
  return { level, text: `${word} connection, ${Math.round(trip)} ms, ${Math.round(loss * 100)} % lost` };
}
