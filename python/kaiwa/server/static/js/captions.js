// The transcript: pieces of the model's text are joined as they come; a pause begins a new line.

const PAUSE_MS = 1600;
const LINE_MAX = 600; // characters, then a new line begins
const KEPT = 8192; // characters on the page
const SPEAK_MS = 1500; // between phrases for screen readers, which would stumble over pieces of words

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export class Captions {
  #log;
  #spoken;
  #latest;
  #empty;
  #line = null;
  #last = 0;
  #kept = 0;
  #follow = true;
  #at = 0; // scroll position of the log when it was last looked at
  #unspoken = "";
  #speaking = 0;
  #quiet = 0;

  constructor({ log, spoken, latest }) {
    this.#log = log;
    this.#spoken = spoken;
    this.#latest = latest;
    this.#empty = log.firstElementChild;
    log.addEventListener("scroll", () => this.#look());
    latest.addEventListener("click", () => {
      this.#follow = true;
      latest.hidden = true;
      this.#scroll();
      log.focus();
    });
  }

  clear() {
    this.#log.replaceChildren(this.#empty);
    this.#spoken.replaceChildren();
    this.#latest.hidden = true;
    this.#line = null;
    this.#kept = 0;
    this.#follow = true;
    this.#at = 0;
    this.#unspoken = "";
  }

  add(text, seconds) {
    this.#look();
    const now = performance.now();
    const words = this.#line?.words;
    if (!words || now - this.#last > PAUSE_MS || words.data.length > LINE_MAX) {
      this.#begin(text.trimStart(), seconds);
    } else {
      words.appendData(text);
      this.#kept += text.length;
    }
    this.#last = now;
    clearTimeout(this.#quiet);
    this.#quiet = setTimeout(() => this.#rest(), PAUSE_MS);
    this.#forget();
    this.#scroll();
    this.#speak(text);
  }

  /** A line about the call itself, such as a restored connection. */
  note(text) {
    this.#look();
    this.#rest();
    this.#line = null;
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = text;
    this.#append(note);
    this.#speak(` ${text}.`);
  }

  /** The newest line is complete. */
  #rest() {
    this.#line?.row.classList.remove("now");
  }

  #begin(text, seconds) {
    this.#rest();
    const row = document.createElement("div");
    row.className = "utterance now";
    const time = document.createElement("time");
    time.textContent = clock(seconds);
    const paragraph = document.createElement("p");
    const words = document.createTextNode(text);
    paragraph.append(words);
    row.append(time, paragraph);
    this.#line = { row, words };
    this.#kept += text.length;
    this.#append(row);
  }

  #append(row) {
    this.#empty.remove();
    this.#log.append(row);
    this.#scroll();
  }

  #forget() {
    while (this.#kept > KEPT || this.#log.childElementCount > 200) {
      const oldest = this.#log.firstElementChild;
      if (!oldest || oldest === this.#line?.row) return;
      this.#kept -= oldest.querySelector("p")?.textContent.length ?? 0;
      oldest.remove();
    }
  }

  /** Finds out whether the reader has scrolled away. Also called before words are added: the scroll
   * event may come later, and new words must not pull the reader back. */
  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#log;
    if (scrollTop === this.#at) return;
    this.#at = scrollTop;
    this.#follow = scrollHeight - scrollTop - clientHeight < 40;
    if (this.#follow) this.#latest.hidden = true;
  }

  #scroll() {
    if (!this.#follow) {
      this.#latest.hidden = false;
      return;
    }
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#at = this.#log.scrollTop;
  }

  #speak(text) {
    this.#unspoken = (this.#unspoken + text).slice(-1000);
    if (this.#speaking) return;
    this.#speaking = setTimeout(() => {
      this.#speaking = 0;
      // Only whole words: the last one may still be growing.
      const end = this.#unspoken.length > 200 ? 200 : this.#unspoken.lastIndexOf(" ");
      const cut = performance.now() - this.#last > SPEAK_MS || end <= 0 ? undefined : end;
      const phrase = this.#unspoken.slice(0, cut);
      this.#unspoken = cut === undefined ? "" : this.#unspoken.slice(cut);
      const line = document.createElement("p");
      line.textContent = phrase.trim();
      this.#spoken.append(line);
      while (this.#spoken.childElementCount > 5) this.#spoken.firstElementChild.remove();
      if (this.#unspoken.trim()) this.#speak("");
    }, SPEAK_MS);
  }
}
