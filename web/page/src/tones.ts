/** Ring tone and ring-back, made rather than played from a file. Silent until the browser lets a page sound. */
export class Tones {
  #context: AudioContext | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  #ringsBack = false;

  /** Somebody calls: three rising notes, again and again. */
  ring(): void {
    this.#repeat(2600, (at) => [523, 659, 784].forEach((pitch, n) => this.#note(pitch, at + n * 0.22, 0.32, 0.16)));
    navigator.vibrate?.([300, 200, 300]);
  }

  /** Whether it rings at the other side: the usual long tone. */
  ringingBack(on: boolean): void {
    if (on && !this.#ringsBack) {
      this.#repeat(4000, (at) => [400, 450].forEach((pitch) => this.#note(pitch, at, 1.2, 0.05)));
      this.#ringsBack = true;
    } else if (!on && this.#ringsBack) {
      this.stop();
    }
  }

  /** The call is over. */
  over(): void {
    this.stop();
    this.#play((at) => [440, 330].forEach((pitch, n) => this.#note(pitch, at + n * 0.16, 0.2, 0.08)));
  }

  stop(): void {
    this.#ringsBack = false;
    clearInterval(this.#timer);
    this.#timer = undefined;
    void this.#context?.close();
    this.#context = undefined;
  }

  #repeat(ms: number, play: (at: number) => void): void {
    this.stop();
    this.#play(play);
    this.#timer = setInterval(() => this.#play(play), ms);
  }

  #play(play: (at: number) => void): void {
    this.#context ??= new AudioContext();
    play(this.#context.currentTime + 0.05);
  }

  #note(pitch: number, at: number, seconds: number, volume: number): void {
    const context = this.#context!;
    const gain = context.createGain();
    gain.gain.setValueAtTime(0, at);
    gain.gain.linearRampToValueAtTime(volume, at + 0.02);
    gain.gain.setValueAtTime(volume, at + seconds * 0.6);
    gain.gain.linearRampToValueAtTime(0, at + seconds);
    const tone = context.createOscillator();
    tone.frequency.value = pitch;
    tone.connect(gain).connect(context.destination);
    tone.start(at);
    tone.stop(at + seconds);
  }
}
