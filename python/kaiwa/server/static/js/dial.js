// The ring around the button: the last seconds of both voices. The newest is at the top; the
// caller's flows down the left side, the model's down the right.

const TICKS = 58;
const FIRST = 5; // degrees between the top and the newest tick
const STEP = (180 - 2 * FIRST) / (TICKS - 1);
const FRAME_MS = 80;
const WIDE = 0.85; // radius of the ring around the button, as a share of half the canvas
const NARROW = 0.64; // the same in a call, around the clock

/** Loudness as it is perceived, 0 to 1: decibels between silence and full speech. */
export function loudness(rms) {
  if (rms < 1e-4) return 0;
  const level = (20 * Math.log10(rms) + 56) / 46;
  return Math.max(0, Math.min(1, level)) ** 1.3;
}

export class Dial {
  #canvas;
  #context;
  #sides = ["you", "them"].map((name) => ({
    name,
    levels: new Float32Array(TICKS + 1),
    at: 0,
    colour: "",
  }));
  #rest = "";
  #mode = "idle"; // or waiting, live
  #wide = true; // around the button, or around the clock
  #inner = WIDE;
  #running = false;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    new ResizeObserver(() => this.#resize()).observe(canvas);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", () => this.#colours());
    this.#colours();
  }

  #colours() {
    const style = getComputedStyle(document.documentElement);
    for (const side of this.#sides) side.colour = style.getPropertyValue(`--${side.name}`).trim();
    this.#rest = style.getPropertyValue("--soft").trim();
    this.#draw(performance.now());
  }

  #resize() {
    const scale = Math.min(3, window.devicePixelRatio || 1);
    const { clientWidth, clientHeight } = this.#canvas;
    this.#canvas.width = Math.round(clientWidth * scale);
    this.#canvas.height = Math.round(clientHeight * scale);
    this.#draw(performance.now());
  }

  set(mode, wide) {
    if (mode === this.#mode && wide === this.#wide) return;
    this.#wide = wide;
    if (mode === "live" && this.#mode === "idle") {
      for (const side of this.#sides) side.levels.fill(0);
    }
    this.#mode = mode;
    if (!this.#running) {
      this.#running = true;
      requestAnimationFrame(this.#tick);
    }
    this.#draw(performance.now());
  }

  /** Adds the loudness of one frame: index 0 is the caller, 1 the model. */
  push(index, rms) {
    const side = this.#sides[index];
    side.levels.copyWithin(1, 0);
    side.levels[0] = loudness(rms);
    side.at = performance.now();
  }

  #tick = (now) => {
    const target = this.#wide ? WIDE : NARROW;
    const far = target - this.#inner;
    this.#inner = Math.abs(far) < 0.002 || this.#still.matches ? target : this.#inner + far * 0.16;
    this.#draw(now);
    if (this.#mode === "idle" && this.#inner === target) {
      this.#running = false;
      return;
    }
    requestAnimationFrame(this.#tick);
  };

  #draw(now) {
    const { width, height } = this.#canvas;
    if (!width) return;
    const c = this.#context;
    const radius = Math.min(width, height) / 2;
    const inner = radius * this.#inner;
    const longest = radius * 0.31;
    const thick = Math.max(2, radius * 0.0165);
    c.clearRect(0, 0, width, height);
    c.save();
    c.translate(width / 2, height / 2);
    c.lineCap = "round";
    c.lineWidth = thick;
    const live = this.#mode === "live";
    for (const [i, side] of this.#sides.entries()) {
      const sign = i === 0 ? -1 : 1;
      const flow =
        live && !this.#still.matches ? Math.min(1, Math.max(0, (now - side.at) / FRAME_MS)) : 0;
      for (let k = 0; k < TICKS; k++) {
        const place = k + flow;
        const angle = (sign * (FIRST + place * STEP) * Math.PI) / 180;
        const level = live ? side.levels[k] : 0;
        const age = place / TICKS;
        c.strokeStyle = live ? side.colour : this.#rest;
        c.globalAlpha = live ? 0.18 + 0.82 * (1 - age) * Math.min(1, 0.35 + 3 * level) : 0.3;
        if (k === TICKS - 1) c.globalAlpha *= 1 - flow;
        if (k === 0 && live) c.globalAlpha *= this.#still.matches ? 1 : 0.3 + 0.7 * flow;
        if (this.#mode === "waiting") c.globalAlpha = this.#wave(now, angle);
        const sin = Math.sin(angle);
        const cos = -Math.cos(angle);
        const from = inner;
        const to = inner + Math.max(0.01, level * longest);
        c.beginPath();
        c.moveTo(sin * from, cos * from);
        c.lineTo(sin * to, cos * to);
        c.stroke();
      }
    }
    c.restore();
  }

  /** Brightness while the caller waits: a light that runs around the ring. */
  #wave(now, angle) {
    if (this.#still.matches) return 0.45;
    const at = ((now / 2400) % 1) * 2 * Math.PI;
    return 0.2 + 0.65 * ((1 + Math.cos(angle - at)) / 2) ** 4;
  }
}
