// One call, from the button to the end, over as many connections as it takes: it is resumed after
// a lost connection, and begun anew after a restart of the server.

import { AudioDevice, AudioProblem, audioProblem } from "./audio.js";
import { OpusReceiver, OpusSender, PcmReceiver, PcmSender, RATE, opusSupport } from "./codec.js";
import { CallProgress, rms } from "./progress.js";
import { Link, TYPE, address, chatAddress, meaning, sentenceOf, verdictOf } from "./protocol.js";

const AGAIN_SECONDS = 60; // for which a new call is tried after the old one was lost
const BACKOFF_FIRST = 250;
const BACKOFF_MAX = 4000;
const UNSENT_MAX = { opus: 8000, pcm: 64000 }; // bytes waiting for the network: more than a second

/** `POST /v1/tokens` was refused, with what follows from it (see `verdictOf`). */
class TokenRefused extends Error {
  constructor(verdict) {
    super(verdict.title);
    this.verdict = verdict;
  }
}

async function fetchToken(key) {
  const response = await fetch(address("v1/tokens"), {
    method: "POST",
    headers: { Authorization: `Bearer ${key}` },
    cache: "no-store",
    signal: AbortSignal.timeout(10000),
  });
  const body = await response.json().catch(() => ({}));
  if (response.ok && body?.token) return body.token;
  const said = sentenceOf(String(body?.error?.message ?? ""));
  const known = verdictOf(body?.error?.code, said);
  if (known) throw new TokenRefused(known);
  // Not from this server: from a proxy before it.
  if (response.status === 429) throw new TokenRefused(meaning(1013, "", said));
  if (response.status === 401 || response.status === 403) {
    throw new TokenRefused(meaning(1008, "", said));
  }
  throw new Error(`${response.status}`); // a proxy without a server: it may be back soon
}

/**
 * States: idle, permission, connecting, queued, active, resuming, restarting, ended, error.
 * `listener` is told of `state`, `ready`, `text`, `note`, `input`, `output` and `metadata`.
 */
export class Call extends CallProgress {
  #options;
  #on;
  #opus = null;
  #audio;
  #link = null;
  #sender = null;
  #receiver = null;
  #received = 0; // seconds of audio from the model
  #talking = false; // the handshake of this connection has come
  #resume = null; // {token, seconds}: how the call can be taken up again
  #recovery = null; // set from the loss of the connection until a call goes on
  #attempt = 0; // number of the newest connection; what comes from older ones is ignored
  #retry;
  #ping;
  #pings = 0;
  #microphoneBack = null;

  constructor(options, listener) {
    super();
    this.#options = options;
    this.#on = listener;
    this.#audio = new AudioDevice({
      onFrame: (frame) => this.#frame(frame),
      onReport: (report) => this.#report(report),
      onLost: () => this.#microphoneLost(),
      onPaused: (paused) => this.#soundPaused(paused),
    });
  }

  #enter(state, detail = {}) {
    this.state = state;
    this.detail = detail;
    this.#on.state(state, detail);
  }

  async start() {
    this.#enter("permission");
    const { device, rate, format } = this.#options;
    try {
      const opened = this.#audio.open({ device, rate });
      const opus = format === "pcm" ? null : await opusSupport();
      await opened;
      if (this.over) return;
      if (!opus && format === "opus") {
        throw new AudioProblem("This browser has no Opus", "Call without asking for it.");
      }
      this.#opus = opus;
      this.format = opus ? "opus" : "pcm";
    } catch (error) {
      if (this.over) return;
      const { title, detail } = audioProblem(error);
      this.#finish("error", { kind: "microphone", title, detail });
      return;
    }
    this.#on.ready();
    window.addEventListener("online", this.#online);
    this.#ping = setInterval(() => this.#sendPing(), 1000);
    this.#enter("connecting");
    await this.#connect();
  }

  end() {
    if (!this.over) this.#finish("ended", { kind: "over", title: "Call ended", detail: "" });
  }

  setMuted(muted) {
    this.muted = muted;
    this.#audio.muted = muted;
  }

  useMicrophone(device) {
    this.#options.device = device;
    return this.#audio.replaceMicrophone(device);
  }

  // ---- connection ----

  async #connect() {
    const attempt = ++this.#attempt;
    const recovery = this.#recovery;
    const resume =
      recovery && this.#resume && performance.now() < recovery.resumeUntil ? this.#resume.token : "";
    let token = "";
    if (this.#options.auth === "key") {
      try {
        token = await fetchToken(this.#options.key);
      } catch (error) {
        if (attempt !== this.#attempt || this.over) return;
        if (error instanceof TokenRefused) this.#judge(error.verdict, "");
        else this.#closed({ code: 1006, reason: "", sentence: "", opened: false }, resume);
        return;
      }
      if (attempt !== this.#attempt || this.over) return;
    }
    const url = chatAddress({
      sampling: this.#options.sampling,
      format: this.format,
      resume,
      token,
    });
    this.#link = new Link(url, {
      handshake: () => this.#handshake(),
      audio: (payload) => this.#heard(payload),
      text: (text) => this.#text(text),
      metadata: (data) => this.#metadata(data, resume),
      state: (data) => this.#serverState(data),
      pong: (payload) => this.#pong(payload),
      closed: (how) => this.#closed(how, resume),
    });
  }

  #handshake() {
    this.#talking = true;
    const failed = (error) => this.#opusFailed(error);
    const send = (bytes) => this.#link?.send(TYPE.AUDIO, bytes);
    const play = (samples, rate) => this.#play(samples, rate);
    this.#closeCodec();
    if (this.format === "pcm") {
      this.#sender = new PcmSender(send);
      this.#receiver = new PcmReceiver(play);
    } else {
      this.#sender = new OpusSender(this.#opus.encoder, send, failed);
      this.#receiver = new OpusReceiver(this.#opus.decoder, play, failed);
    }
    if (!this.startedAt) this.startedAt = performance.now();
    if (!this.#recovery) this.#enter("active");
    else this.#recovery.timer = setTimeout(() => this.#recovered(false), 2000); // without metadata
  }

  #metadata(data, resume) {
    this.sessionId = String(data.session_id ?? "");
    this.maxSeconds = data.max_seconds ?? null;
    this.#resume = data.resume_token
      ? { token: data.resume_token, seconds: Number(data.resume_seconds) || 0 }
      : null;
    if (this.#recovery) this.#recovered(Boolean(resume && data.resumed));
    this.#on.metadata(data);
  }

  #recovered(same) {
    const hadCall = this.#recovery?.hadCall;
    this.#stopRecovery();
    if (same) {
      this.resumed++;
      this.#on.note("Connection restored");
    } else if (hadCall) {
      this.startedAt = performance.now();
      this.#on.note("A new conversation began: what was said before is forgotten");
    }
    this.#enter("active", { resumed: same, renewed: !same && Boolean(hadCall) });
  }

  #serverState(data) {
    if (data.state === "queued" && !this.#talking) {
      this.#enter("queued", { position: Number(data.position) || 0 });
    } else if (data.state === "draining" || data.state === "drain") {
      this.#on.note("The server will restart soon");
    }
  }

  #closed(how, resume) {
    this.#link = null;
    const { code, reason, sentence, opened } = how;
    const verdict = meaning(code, reason, sentence);
    if (!opened && !this.#recovery) {
      if (this.startedAt === 0) {
        this.#finish("error", {
          kind: "failed",
          title: "The server cannot be reached",
          detail: "Check the connection of this device, and try again.",
        });
        return;
      }
    }
    this.#judge(verdict, resume, opened);
  }

  /** Decides what follows the end of a connection. */
  #judge(verdict, resume, opened = true) {
    const talked = this.#talking;
    this.#talking = false;
    this.#closeCodec();
    this.#audio.expectGap();
    const recovery = this.#recovery;
    if (recovery) {
      clearTimeout(recovery.timer);
      if (resume && opened && verdict.then === "end" && verdict.kind !== "key" && !talked) {
        // The held conversation is gone; the caller still wants one.
        recovery.resumeUntil = 0;
        verdict = { then: "resume", kind: "lost", detail: "" };
      } else if (verdict.kind === "busy") {
        verdict = { then: "again", kind: recovery.kind, detail: verdict.detail };
      }
    }
    if (verdict.then === "end") {
      this.#finish(verdict.kind === "over" ? "ended" : "error", verdict);
      return;
    }
    this.#recover(verdict, talked);
  }

  #recover(verdict, talked) {
    const now = performance.now();
    if (!this.#recovery || talked) {
      const hold = verdict.then === "resume" && this.#resume ? this.#resume.seconds * 1000 : 0;
      this.#recovery = {
        kind: verdict.kind,
        hadCall: this.#recovery?.hadCall || this.startedAt > 0,
        resumeUntil: now + hold,
        until: now + hold + AGAIN_SECONDS * 1000,
        attempts: 0,
      };
    } else if (verdict.then === "again") {
      this.#recovery.kind = verdict.kind;
      this.#recovery.resumeUntil = 0;
    }
    const recovery = this.#recovery;
    if (now > recovery.until) {
      this.#finish("error", {
        kind: "failed",
        title: recovery.kind === "lost" ? "Connection lost" : "The server is not back yet",
        detail: "It was tried for a minute. Try again later.",
      });
      return;
    }
    const state = recovery.kind === "lost" ? "resuming" : "restarting";
    if (this.state !== state) this.#enter(state, { kind: recovery.kind, detail: verdict.detail });
    const wait = Math.min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** recovery.attempts++);
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#connect(), wait * (0.8 + 0.4 * Math.random()));
  }

  #online = () => {
    if (!this.#recovery || this.#link || this.over) return;
    clearTimeout(this.#retry);
    void this.#connect();
  };

  #stopRecovery() {
    clearTimeout(this.#recovery?.timer);
    this.#recovery = null;
  }

  #finish(state, detail) {
    clearTimeout(this.#retry);
    clearInterval(this.#ping);
    window.removeEventListener("online", this.#online);
    this.#stopRecovery();
    this.#attempt++;
    this.#talking = false;
    this.#link?.close();
    this.#link = null;
    this.#closeCodec();
    this.#audio.close();
    this.endedAt = performance.now();
    this.outputRms = 0;
    this.bufferMs = 0;
    this.#enter(state, detail);
  }

  // ---- audio ----

  #frame(frame) {
    this.#on.input(this.muted ? 0 : rms(frame));
    if (!this.#talking || !this.#link) return;
    if (this.#link.waiting > UNSENT_MAX[this.format] || this.#sender.waiting > 12) {
      this.unsent++; // the network is too slow: drop this frame rather than let the delay grow
      return;
    }
    this.#sender.send(frame);
    this.framesSent++;
  }

  #heard(payload) {
    this.#receiver?.push(payload);
  }

  #play(samples, rate) {
    this.#received += samples.length / rate;
    this.framesReceived = Math.floor((this.#received * RATE) / 1920 + 1e-6);
    this.#audio.play(samples, rate);
  }

  #report(report) {
    this.bufferMs = report.bufferMs;
    this.marginMs = report.marginMs;
    this.underruns = report.underruns;
    this.droppedMs = report.droppedMs;
    this.outputRms = report.rms;
    this.peakOutputRms = Math.max(this.peakOutputRms, report.rms);
    this.#on.output(report.rms);
  }

  #opusFailed() {
    if (this.over || this.format === "pcm") return;
    // The browser's Opus codec failed: reconnect, and go on with the same conversation as PCM.
    this.format = "pcm";
    this.#link?.close();
    this.#link = null;
    this.#judge({ then: "resume", kind: "lost", detail: "" }, "");
  }

  #closeCodec() {
    this.#sender?.close();
    this.#receiver?.close();
    this.#sender = null;
    this.#receiver = null;
  }

  async #microphoneLost() {
    if (this.#microphoneBack || this.over) return;
    this.#on.note("The microphone was disconnected: taking another");
    this.#microphoneBack = this.#audio.replaceMicrophone("");
    try {
      await this.#microphoneBack;
    } catch (error) {
      if (!this.over) {
        const { title, detail } = audioProblem(error);
        this.#finish("error", { kind: "microphone", title, detail });
      }
    } finally {
      this.#microphoneBack = null;
    }
  }

  #soundPaused(paused) {
    if (this.over) return;
    this.#on.note(
      paused
        ? "This device stopped the sound, as for a phone call: tap the page to go on"
        : "The sound is back",
    );
  }

  // ---- text and time ----

  #text(text) {
    this.addCaption(text);
    this.#on.text(text);
  }

  #sendPing() {
    if (!this.#talking || !this.#link) return;
    const payload = new Uint8Array(12);
    const view = new DataView(payload.buffer);
    view.setUint32(0, this.#pings++, true);
    view.setFloat64(4, performance.now(), true);
    this.#link.send(TYPE.PING, payload);
  }

  #pong(payload) {
    if (payload.length !== 12) return;
    const sent = new DataView(payload.buffer, payload.byteOffset, 12).getFloat64(4, true);
    const rtt = performance.now() - sent;
    if (!(rtt >= 0 && rtt < 60000)) return;
    this.rttMs = rtt;
  }
}
