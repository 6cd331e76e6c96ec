// What the page shows of a call, whatever carries it.

const CAPTIONS_MAX = 8192; // characters

/** Root of the mean square of samples; 0 of none. */
export const rms = (samples) => {
  let sum = 0;
  for (const value of samples) sum += value * value;
  return samples.length ? Math.sqrt(sum / samples.length) : 0;
};

/** State and figures of a call. */
export class CallProgress {
  state = "idle";
  detail = {};
  framesSent = 0;
  framesReceived = 0;
  bufferMs = 0;
  marginMs = 0;
  rttMs = 0;
  outputRms = 0;
  peakOutputRms = 0;
  captions = "";
  underruns = 0;
  droppedMs = 0;
  unsent = 0;
  format = "";
  sessionId = "";
  resumed = 0;
  startedAt = 0;
  endedAt = 0;
  maxSeconds = null;
  muted = false;

  get over() {
    return this.state === "ended" || this.state === "error";
  }

  get seconds() {
    if (!this.startedAt) return 0;
    return ((this.endedAt || performance.now()) - this.startedAt) / 1000;
  }

  /** Adds what is said; the oldest goes. */
  addCaption(text) {
    this.captions = (this.captions + text).slice(-CAPTIONS_MAX);
  }
}
