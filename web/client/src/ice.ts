const LEAST_MS = 30_000;
const MOST_MS = 24 * 3600_000;

/** In how many ms to ask for new credentials: after four fifths of what is left, but never in a hurry. */
export function refreshDelay(expiresAt: number, now: number): number {
  return Math.min(MOST_MS, Math.max(LEAST_MS, (expiresAt - now) * 0.8));
}
