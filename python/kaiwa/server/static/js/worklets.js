// Runs on the audio thread: cuts the microphone's audio into frames, and plays the model's audio
// through a jitter buffer.

import { Resampler } from "./resampler.js";

/** Posts frames of the microphone at the model's rate. */
class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate, frame } }) {
    super();
    this.resampler = new Resampler(sampleRate, rate);
    this.frame = new Float32Array(frame);
    this.filled = 0;
    this.over = false;
    this.port.onmessage = () => {
      this.over = true;
    };
  }

  process([input]) {
    if (this.over) return false;
    if (!input.length) return true;
    const samples = this.resampler.process(input[0]);
    for (let at = 0; at < samples.length; ) {
      const n = Math.min(samples.length - at, this.frame.length - this.filled);
      this.frame.set(samples.subarray(at, at + n), this.filled);
      this.filled += n;
      at += n;
      if (this.filled === this.frame.length) {
        const full = this.frame;
        this.frame = new Float32Array(full.length);
        this.filled = 0;
        this.port.postMessage(full, [full.buffer]);
      }
    }
    return true;
  }
}

// Of the jitter buffer, in seconds.
const MARGIN_MIN = 0.06;
const MARGIN_START = 0.07;
const MARGIN_MAX = 0.24;
const MARGIN_GROWTH = 0.04; // added after each underrun
const MARGIN_DECAY = 0.001; // taken away for each second without an underrun
const CHUNK = 0.08; // audio in a message, by which the level goes up and down
const HEADROOM = 0.16; // above margin and chunk; what is beyond is dropped, oldest first
const STANDING = 0.03; // above the margin for all of WATCH: a little is dropped
const WATCH = 3; // how long the lowest level is watched
const FADE = 0.005; // length of fades, which keep cuts from clicking
const REPORT = 0.08; // between reports to the page
const CAPACITY = 2; // of the whole buffer

/**
 * The jitter buffer. `margin` is the audio that should be left when the next chunk arrives: it
 * grows when the buffer runs dry, and shrinks slowly afterwards.
 */
class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.ring = new Float32Array(Math.round(CAPACITY * sampleRate));
    this.read = 0;
    this.level = 0;
    this.margin = MARGIN_START;
    this.playing = false;
    this.hold = -1; // samples until playing starts; -1 while there is nothing to play
    this.gapExpected = false;
    this.gain = 0;
    this.skip = 0; // samples that the cross-fade under way leaves out
    this.cross = 0; // samples of the cross-fade that are left
    this.fade = Math.round(FADE * sampleRate);
    this.lowest = Infinity;
    this.watched = 0;
    this.resampler = null;
    this.rate = 0;
    this.underruns = 0;
    this.dropped = 0;
    this.sum = 0;
    this.counted = 0;
    this.levels = 0;
    this.over = false;
    this.port.onmessage = ({ data }) => {
      if (data.samples) this.write(data.samples, data.rate);
      else if (data.type === "gap") this.gapExpected = true;
      else if (data.type === "close") this.over = true;
    };
  }

  write(samples, rate) {
    if (rate !== this.rate) {
      this.resampler = new Resampler(rate, sampleRate);
      this.rate = rate;
    }
    const data = this.resampler.process(samples);
    const size = this.ring.length;
    const excess = this.level + data.length - size;
    if (excess > 0) this.forget(excess);
    let at = (this.read + this.level) % size;
    for (let i = Math.max(0, data.length - size); i < data.length; i++) {
      this.ring[at] = data[i];
      at = at + 1 === size ? 0 : at + 1;
    }
    this.level = Math.min(size, this.level + data.length);
    if (!this.playing && this.hold < 0) this.hold = Math.round(this.margin * sampleRate);
    this.trim();
  }

  /** Drops the oldest audio without a fade: before playing has begun, or when the buffer is full. */
  forget(count) {
    const n = Math.min(count, this.level);
    this.read = (this.read + n) % this.ring.length;
    this.level -= n;
    this.dropped += n;
    this.cross = 0;
    if (this.playing) this.gain = 0;
  }

  /** Shortens a delay that has grown too long, at once. */
  trim() {
    const keep = (this.margin + CHUNK) * sampleRate;
    if (this.level <= keep + HEADROOM * sampleRate) return;
    const n = Math.round(this.level - keep);
    if (this.playing) this.crossOver(n);
    else this.forget(n);
  }

  crossOver(count) {
    if (this.cross || count <= 0 || this.level < count + this.fade) return;
    this.skip = count;
    this.cross = this.fade;
  }

  /** Shortens a delay that stays slightly too long, a few milliseconds at a time. */
  watch(samples) {
    this.lowest = Math.min(this.lowest, this.level);
    this.watched += samples;
    if (this.watched < WATCH * sampleRate) return;
    this.margin = Math.max(MARGIN_MIN, this.margin - MARGIN_DECAY * WATCH);
    const excess = this.lowest - this.margin * sampleRate;
    if (excess > STANDING * sampleRate) {
      this.crossOver(Math.round(Math.min(excess, 0.02 * sampleRate)));
    }
    this.watched = 0;
    this.lowest = Infinity;
  }

  next() {
    const size = this.ring.length;
    let value = this.ring[this.read];
    if (this.cross) {
      const t = 1 - this.cross / this.fade;
      value = value * (1 - t) + this.ring[(this.read + this.skip) % size] * t;
      if (--this.cross === 0) {
        this.read = (this.read + this.skip) % size;
        this.level -= this.skip;
        this.dropped += this.skip;
      }
    }
    this.read = this.read + 1 === size ? 0 : this.read + 1;
    this.level--;
    return value;
  }

  process(_inputs, [output]) {
    if (this.over) return false;
    const out = output[0];
    const step = 1 / this.fade;
    const enough = (this.margin + CHUNK) * sampleRate;
    for (let i = 0; i < out.length; i++) {
      if (!this.playing && this.hold >= 0 && (this.hold-- === 0 || this.level >= enough)) {
        this.playing = true;
        this.gapExpected = false;
        this.lowest = Infinity;
        this.watched = 0;
      }
      if (!this.playing) continue; // `out` is silence
      const left = this.cross ? this.level - this.skip : this.level;
      this.gain = Math.min(1, this.gain + step, left * step);
      const value = this.next() * this.gain;
      out[i] = value;
      this.sum += value * value;
      if (this.level <= 0) this.runDry();
    }
    for (let c = 1; c < output.length; c++) output[c].set(out);
    if (this.playing) this.watch(out.length);
    this.report(out.length);
    return true;
  }

  runDry() {
    this.playing = false;
    this.hold = -1;
    this.gain = 0;
    this.cross = 0;
    if (this.gapExpected) return;
    this.underruns++;
    this.margin = Math.min(MARGIN_MAX, this.margin + MARGIN_GROWTH);
  }

  report(samples) {
    this.counted += samples;
    this.levels += this.level * samples;
    if (this.counted < REPORT * sampleRate) return;
    this.port.postMessage({
      rms: Math.sqrt(this.sum / this.counted),
      bufferMs: (1000 * this.levels) / this.counted / sampleRate,
      marginMs: 1000 * this.margin,
      underruns: this.underruns,
      droppedMs: (1000 * this.dropped) / sampleRate,
      playing: this.playing,
    });
    this.sum = 0;
    this.counted = 0;
    this.levels = 0;
  }
}

registerProcessor("kaiwa-capture", Capture);
registerProcessor("kaiwa-playback", Playback);
