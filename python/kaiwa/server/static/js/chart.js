// Step times of the last two minutes, each a thin bar, against the budget and the deadline.

const SPAN = 120; // seconds
const DEADLINE = 0.08; // seconds: a frame's length
const MAX_STEPS = 6000;

export class StepChart {
  #canvas;
  #context;
  #steps = []; // [seconds since start, batch, seconds taken], oldest first
  #now = 0;
  #budget = 0.06;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Adds the steps of a poll to those of earlier polls. */
  add(history, now, budget) {
    if (now < this.#now) this.#steps = []; // another server, or the same one restarted
    this.#now = now;
    this.#budget = budget;
    const known = this.#steps.length ? this.#steps.at(-1)[0] : -Infinity;
    for (const step of history) if (step[0] > known) this.#steps.push(step);
    const oldest = now - SPAN;
    const from = this.#steps.findIndex(([time]) => time >= oldest);
    this.#steps = from < 0 ? [] : this.#steps.slice(Math.max(from, this.#steps.length - MAX_STEPS));
    this.draw();
  }

  get slowest() {
    return this.#steps.reduce((most, [, , taken]) => Math.max(most, taken), 0);
  }

  draw() {
    const canvas = this.#canvas;
    const scale = Math.min(3, window.devicePixelRatio || 1);
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width || !height) return;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const c = this.#context;
    c.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const box = { left: 34, right: width - 2, top: 8, bottom: height - 50 };
    const strip = { top: height - 38, bottom: height - 18 };
    const most = Math.max(0.1, this.slowest * 1.12);
    const x = (time) => box.right - ((this.#now - time) / SPAN) * (box.right - box.left);
    const y = (taken) => box.bottom - (taken / most) * (box.bottom - box.top);
    c.font = `11px ${style.getPropertyValue("--sans")}`;
    c.textBaseline = "middle";

    this.#grid(c, { box, strip, most, y, colour });
    this.#bars(c, { box, strip, x, y, colour });

    c.lineWidth = 1.5;
    for (const [value, name, dash] of [
      [this.#budget, "warn", [5, 4]],
      [DEADLINE, "bad", []],
    ]) {
      c.strokeStyle = colour(name);
      c.setLineDash(dash);
      c.beginPath();
      c.moveTo(box.left, y(value));
      c.lineTo(box.right, y(value));
      c.stroke();
    }
    c.setLineDash([]);
  }

  #grid(c, { box, strip, most, y, colour }) {
    c.strokeStyle = colour("line");
    c.fillStyle = colour("soft");
    c.lineWidth = 1;
    c.textAlign = "right";
    const every = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((step) => most / step <= 6) ?? 10;
    for (let value = 0; value < most; value += every) {
      const at = Math.round(y(value)) + 0.5;
      c.beginPath();
      c.moveTo(box.left, at);
      c.lineTo(box.right, at);
      c.stroke();
      c.fillText(String(Math.round(value * 1000)), box.left - 7, at);
    }
    c.fillText("calls", box.left - 7, (strip.top + strip.bottom) / 2);
    const labels = box.right - box.left > 500 ? [120, 90, 60, 30] : [120, 60];
    for (const ago of labels) {
      const at = box.right - (ago / SPAN) * (box.right - box.left);
      c.textAlign = ago === SPAN ? "left" : "center";
      c.fillText(`${ago} s ago`, at, strip.bottom + 10);
    }
    c.textAlign = "right";
    c.fillText("now", box.right, strip.bottom + 10);
  }

  /** One bar for every two pixels: the slowest step and the largest batch in that time. */
  #bars(c, { box, strip, x, y, colour }) {
    const columns = new Map();
    let fullest = 1;
    for (const [time, batch, taken] of this.#steps) {
      const column = Math.floor(x(time) / 2) * 2;
      if (column < box.left) continue;
      const old = columns.get(column);
      columns.set(column, {
        taken: Math.max(taken, old?.taken ?? 0),
        batch: Math.max(batch, old?.batch ?? 0),
      });
      fullest = Math.max(fullest, batch);
    }
    const inks = { fine: colour("you"), warn: colour("warn"), bad: colour("bad") };
    for (const [column, { taken, batch }] of columns) {
      c.fillStyle = taken > DEADLINE ? inks.bad : taken > this.#budget ? inks.warn : inks.fine;
      c.globalAlpha = 0.85;
      const top = y(taken);
      c.fillRect(column, top, 1.5, Math.max(1, box.bottom - top));
      c.fillStyle = inks.fine;
      c.globalAlpha = 0.35;
      const size = (batch / fullest) * (strip.bottom - strip.top);
      c.fillRect(column, strip.bottom - size, 2, size);
    }
    c.globalAlpha = 1;
  }
}
