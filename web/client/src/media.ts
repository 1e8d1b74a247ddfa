/** What to send: `true` for the default device, a `deviceId` for a certain one. */
export interface Wanted {
  audio: boolean | string;
  video: boolean | string;
}

export type Kind = "audio" | "video";

/** Tracks of the microphone and the camera. Rejects with what the browser says, `NotAllowedError` for one. */
export function capture({ audio, video }: Wanted): Promise<MediaStream> {
  return navigator.mediaDevices.getUserMedia({ audio: device(audio), video: device(video) });
}

/** As {@link capture}, instead of `old`. Many phones let only one camera be open: then it is stopped first. */
export async function captureInstead(wanted: Wanted, old: MediaStreamTrack[]): Promise<MediaStream> {
  try {
    return await capture(wanted);
  } catch (error) {
    if ((error as { name?: string }).name !== "NotReadableError" || old.length === 0) {
      throw error;
    }
    stop(old);
    return await capture(wanted);
  }
}

/** As {@link capture}, but without what is not there: a call needs neither camera nor microphone. */
export async function captureWhatIsThere(wanted: Wanted): Promise<MediaStream> {
  const tries: Wanted[] = [wanted, { ...wanted, video: false }, { ...wanted, audio: false }];
  for (const one of tries) {
    if (one.audio || one.video) {
      try {
        return await capture(one);
      } catch (error) {
        console.debug("no media", one, error);
      }
    }
  }
  return new MediaStream();
}

/** Close the devices of these tracks. */
export function stop(tracks: MediaStreamTrack[]): void {
  tracks.forEach((track) => track.stop());
}

function device(wanted: boolean | string): boolean | MediaTrackConstraints {
  return typeof wanted === "string" ? { deviceId: { exact: wanted } } : wanted;
}
