const LEAST_MS = 500;
const MOST_MS = 24 * 3600_000;

/** In how many ms to ask for a fresh token: after four fifths of what is left, so that some tries fit in the rest. */
export function tokenDelay(until: number, now: number): number {
  return Math.min(MOST_MS, Math.max(LEAST_MS, (until - now) * 0.8));
}
