// The wire: message types, the address of a call, and what a close means for the caller.

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

/** An address beside this page, which may lie under a prefix. */
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
 * What a close means. `then`: "end" is over, "resume" takes the conversation up again, "again"
 * begins a new one when the server is back. `kind` says how to show it.
 */
export function meaning(code, reason, sentence) {
  const over = (kind, title, detail) => ({ then: "end", kind, title, detail: sentence || detail });
  switch (code) {
    case 1000:
      if (reason === "expired" || /time limit/i.test(sentence)) {
        return over("calm", "Time limit reached", "A call on this server lasts only so long.");
      }
      if (reason === "idle") {
        return over("calm", "Call ended", "No sound arrived for a minute.");
      }
      if (reason === "closed") return over("calm", "Call ended", "The operator ended this call.");
      return over("calm", "Call ended", "");
    case 1003:
    case 1009:
      return over("bad", "The server did not understand this page", "Reload it and call again.");
    case 1008:
      switch (reason) {
        case "input_too_fast":
          return over("bad", "Call ended", "Sound was sent faster than time passes.");
        case "slow_consumer":
          return over("bad", "Call ended", "This connection is too slow for a conversation.");
        case "revoked":
          return over("key", "This key is no longer valid", "Ask for a new one.");
        case "origin":
          return over("bad", "Refused", "The server does not take calls from this address.");
        case "unauthorized":
        case "token":
          return over("key", "This key is not known", "Check it and try again.");
        default:
          return over("bad", "The server refused the call", "");
      }
    case 1012:
      return { then: "again", kind: "restart", detail: sentence };
    case 1013:
      switch (reason) {
        case "starting":
          return { then: "again", kind: "starting", detail: sentence };
        case "drain":
        case "draining":
          return { then: "again", kind: "restart", detail: sentence };
        case "full":
          return over("full", "Server full", "Every line is taken. Try again in a moment.");
        case "overloaded":
          return over("full", "Server busy", "It has no time for one more call. Try again soon.");
        case "shed":
          return over("bad", "Call ended", "The server was overloaded and had to end this call.");
        case "lost":
          return over("lost", "Connection lost", "The conversation could not be taken up again.");
        default:
          return over("full", "Server busy", "Try again in a moment.");
      }
    case 1011:
      if (reason === "error" || sentence) {
        return over("bad", "Something failed on the server", "Call again.");
      }
      return { then: "resume", kind: "lost", detail: "" };
    default:
      if (sentence) return over("bad", "Call ended", "");
      return { then: "resume", kind: "lost", detail: "" };
  }
}

/** One websocket, from opening to close. Every callback stops once it is closed from here. */
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
        return undefined; // from a newer server
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

  /** For a connection that is dead without knowing it. */
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
