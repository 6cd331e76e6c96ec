// Streaming conversion between sample rates: a polyphase filter of windowed sincs.

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

/** Modified Bessel function of the first kind, order 0: what the Kaiser window is made of. */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-9 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

export class Resampler {
  #up;
  #down;
  #taps;
  #filter; // one row of taps per phase
  #history;
  #phase = 0;

  constructor(from, to) {
    const common = gcd(Math.round(from), Math.round(to));
    this.#up = Math.round(to) / common;
    this.#down = Math.round(from) / common;
    if (this.#up === this.#down) return;
    const { filter, taps } = Resampler.#design(this.#up, this.#down);
    this.#filter = filter;
    this.#taps = taps;
    this.#history = new Float32Array(taps - 1);
  }

  static #design(up, down) {
    const widest = Math.max(up, down);
    const taps = 2 * Math.ceil((16 * widest) / up);
    const length = taps * up;
    const middle = (length - 1) / 2;
    const cutoff = 0.93 / widest; // of half the common rate
    const beta = 8;
    const filter = new Float32Array(length);
    for (let i = 0; i < length; i++) {
      const t = i - middle;
      const sinc = t === 0 ? cutoff : Math.sin(Math.PI * cutoff * t) / (Math.PI * t);
      const window = bessel(beta * Math.sqrt(1 - (t / (middle + 0.5)) ** 2)) / bessel(beta);
      filter[(i % up) * taps + Math.floor(i / up)] = sinc * window * up;
    }
    return { filter, taps };
  }

  /** Converts the next piece; the filter's delay is a fraction of a millisecond. */
  process(input) {
    if (this.#up === this.#down) return input.slice();
    const taps = this.#taps;
    const data = new Float32Array(this.#history.length + input.length);
    data.set(this.#history);
    data.set(input, this.#history.length);
    const count = Math.ceil((input.length * this.#up - this.#phase) / this.#down);
    const out = new Float32Array(Math.max(0, count));
    let phase = this.#phase; // position of the next output, in steps of 1/up input samples
    for (let n = 0; n < out.length; n++) {
      const row = (phase % this.#up) * taps;
      const newest = Math.floor(phase / this.#up) + taps - 1;
      let sum = 0;
      for (let k = 0; k < taps; k++) sum += this.#filter[row + k] * data[newest - k];
      out[n] = sum;
      phase += this.#down;
    }
    this.#phase = phase - input.length * this.#up;
    this.#history = data.slice(data.length - (taps - 1));
    return out;
  }
}
