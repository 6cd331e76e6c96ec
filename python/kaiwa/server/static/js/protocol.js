// The websocket protocol: message types, the address of a call, and what a close means.

import { REASONS } from "./reasons.js";

export const TYPE = { HANDSHAKE: 0, AUDIO: 1, TEXT: 2, CONTROL: 3, METADATA: 4, ERROR: 5, PING: 6 };

export function message(type, payload) {
  const out = new Uint8Array(1 + payload.length);
  out[0] = type;
  out.set(payload, 1);
  return out;
}

/** A message of the server as a sentence for people. */
export function sentenceOf(text) {
  const said = text.trim().slice(0, 500);
  if (!said) return "";
  return said[0].toUpperCase() + said.slice(1) + (/[.!?…]$/.test(said) ? "" : ".");
}

/** An address of this server; the page may be served under a path prefix. */
export const address = (path) => new URL(path, document.baseURI);

export function chatAddress({ sampling, format, resume, token }) {
  const url = address("api/chat");
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const query = { client: "kaiwa", resumable: "1", ...sampling };
  if (format === "pcm") query.format = "pcm";
  if (resume) query.resume = resume;
  if (token) query.token = token;
  url.search = new URLSearchParams(query).toString();
  return url.href;
}

/**
 * What follows from a reason of the table, and what to show. `then` is "end" (the call is over) or
 * "again" (a new one begins when the server is back). Null for a reason that is not in the table.
 */
export function verdictOf(name, sentence) {
  if (!Object.hasOwn(REASONS, name)) return null;
  const { kind, title, sentence: standard } = REASONS[name];
  const then = kind === "restarting" || kind === "starting" ? "again" : "end";
  return { then, kind, title, detail: sentence || sentenceOf(standard) };
}

/**
 * What the close of a websocket means: a verdict as above, whose `then` may also be "resume" (the
 * connection was lost and the same call can be taken up again). Reasons that are not in the table
 * come from proxies and from the websocket layer itself; they are judged by the close code.
 */
export function meaning(code, reason, sentence) {
  const known = verdictOf(reason, sentence);
  if (known) return known;
  const end = (kind, title, detail = "") => ({
    then: "end",
    kind,
    title,
    detail: sentence || detail,
  });
  switch (code) {
    case 1000:
      return end("over", "Call ended");
    case 1002:
    case 1003:
    case 1007:
    case 1009:
      return end(
        "failed",
        "The server did not understand this page",
        "Reload it and call again.",
      );
    case 1008:
      return end("failed", "The server refused the call", "Reload the page and try again.");
    case 1012:
      return verdictOf("drain", sentence);
    case 1013:
      return end("busy", "Server busy", "Try again in a moment.");
    default:
      if (sentence) return end("failed", "Call ended");
      return { then: "resume", kind: "lost", title: "Connection lost", detail: "" };
  }
}

/** One websocket, from opening to close. After `close()` no callback is called any more. */
export class Link {
  #socket;
  #listener;
  #sentence = "";
  #opened = false;
  #opening;
  #heard = performance.now();
  #watchdog;

  constructor(url, listener) {
    this.#listener = listener;
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => {
      this.#opened = true;
      this.#heard = performance.now();
      clearTimeout(this.#opening);
    };
    this.#socket.onmessage = ({ data }) => this.#receive(data);
    this.#socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#opening = setTimeout(() => this.#abandon(), 10000);
    this.#watchdog = setInterval(() => {
      // The server sends something at least every five seconds, also while one waits.
      if (this.#opened && performance.now() - this.#heard > 15000) this.#abandon();
    }, 1000);
  }

  #receive(data) {
    this.#heard = performance.now();
    if (typeof data === "string" || data.byteLength === 0) return;
    const bytes = new Uint8Array(data);
    const payload = bytes.subarray(1);
    const on = this.#listener;
    switch (bytes[0]) {
      case TYPE.HANDSHAKE:
        return on.handshake();
      case TYPE.AUDIO:
        return on.audio(payload);
      case TYPE.TEXT:
        return on.text(new TextDecoder().decode(payload));
      case TYPE.METADATA:
        return this.#metadata(payload);
      case TYPE.ERROR:
        this.#sentence = sentenceOf(new TextDecoder().decode(payload));
        return undefined;
      case TYPE.PING:
        if (payload.length) on.pong(payload);
        return undefined;
      default:
        return undefined; // a type that only newer servers send
    }
  }

  #metadata(payload) {
    let data;
    try {
      data = JSON.parse(new TextDecoder().decode(payload));
    } catch {
      return;
    }
    if (!data || typeof data !== "object") return;
    if (data.session_id === undefined && data.state !== undefined) this.#listener.state(data);
    else this.#listener.metadata(data);
  }

  /** Gives up a connection from which nothing comes although it counts as open. */
  #abandon() {
    this.#closed(1006, "");
  }

  #closed(code, reason) {
    const on = this.#listener;
    if (!on) return;
    this.close();
    on.closed({ code, reason, sentence: this.#sentence, opened: this.#opened });
  }

  get open() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  /** Bytes that the network has not taken yet. */
  get waiting() {
    return this.#socket.bufferedAmount;
  }

  send(type, payload) {
    if (this.open) this.#socket.send(message(type, payload));
  }

  close() {
    clearTimeout(this.#opening);
    clearInterval(this.#watchdog);
    this.#listener = null;
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.close(1000);
  }
}
