// One call by WebRTC: the browser itself encodes, sends and plays the sound; events come over a data
// channel. It is not resumed: WebRTC finds other ways for its packets by itself, as long as it can.

import { audioProblem, openMicrophone } from "./audio.js";
import { CallProgress, rms } from "./progress.js";
import { address, meaning, sentenceOf, verdictOf } from "./protocol.js";

const CONNECT_MS = 15000;
const FRAME_MS = 80;
const LIMIT_MAX = 30 * 86400; // seconds; a session that ends later has no limit

const level = (analyser) => {
  const samples = new Float32Array(analyser.fftSize);
  analyser.getFloatTimeDomainData(samples);
  return rms(samples);
};

/** As `Call`, with the same figures; the listener is told the same. */
export class RtcCall extends CallProgress {
  format = "webrtc";

  #options;
  #on;
  #connection = null;
  #stream = null;
  #sound = new Audio();
  #context = null;
  #meters = {};
  #timers = [];
  #problem = null; // what the server said last about an end

  constructor(options, listener) {
    super();
    this.#options = options;
    this.#on = listener;
  }

  #enter(state, detail = {}) {
    this.state = state;
    this.detail = detail;
    this.#on.state(state, detail);
  }

  async start() {
    this.#enter("permission");
    try {
      this.#context = new AudioContext({ latencyHint: "interactive" });
      this.#stream = await openMicrophone(this.#options.device);
    } catch (error) {
      const { title, detail } = audioProblem(error);
      this.#finish("error", { kind: "microphone", title, detail });
      return;
    }
    if (this.over) {
      this.#stop();
      return;
    }
    this.setMuted(this.muted);
    this.#meter("input", this.#stream);
    this.#on.ready();
    this.#enter("connecting");
    try {
      await this.#connect();
    } catch {
      this.#fail("The server cannot be reached", "Check the connection of this device.");
    }
  }

  async #connect() {
    const connection = new RTCPeerConnection();
    this.#connection = connection;
    connection.ontrack = ({ streams: [stream] }) => {
      this.#sound.srcObject = stream;
      void this.#sound.play().catch(() => {});
      this.#meter("output", stream);
    };
    connection.onconnectionstatechange = () => {
      if (connection.connectionState === "failed") this.#lost();
    };
    const events = connection.createDataChannel("oai-events");
    events.onopen = () => this.#opened();
    events.onclose = () => this.#closed();
    events.onmessage = ({ data }) => this.#event(JSON.parse(data));
    connection.addTrack(this.#stream.getAudioTracks()[0], this.#stream);
    await connection.setLocalDescription();
    await this.#gathered(connection);
    if (this.over) return;
    const form = new FormData();
    form.set("sdp", connection.localDescription.sdp);
    const quiet = { type: "realtime", audio: { input: { turn_detection: null } } };
    form.set("session", JSON.stringify(quiet));
    const { auth, key } = this.#options;
    const response = await fetch(address("v1/realtime/calls"), {
      method: "POST",
      headers: auth === "key" ? { Authorization: `Bearer ${key}` } : {},
      body: form,
      cache: "no-store",
      signal: AbortSignal.timeout(10000),
    });
    const answer = await response.text();
    if (this.over) return;
    if (!response.ok) {
      this.#refused(response.status, answer);
      return;
    }
    await connection.setRemoteDescription({ type: "answer", sdp: answer });
    this.#timers.push(setTimeout(() => this.startedAt || this.#unreachable(), CONNECT_MS));
  }

  /** Waits for the addresses of this device, since none can be sent later. */
  #gathered(connection) {
    if (connection.iceGatheringState === "complete") return undefined;
    return new Promise((resolve) => {
      setTimeout(resolve, 2000); // the server finds the others by itself
      connection.onicegatheringstatechange = () => {
        if (connection.iceGatheringState === "complete") resolve();
      };
    });
  }

  #refused(status, body) {
    let error = {};
    try {
      error = JSON.parse(body).error ?? {};
    } catch {
      // Not from this server: from a proxy before it.
    }
    const said = sentenceOf(String(error.message ?? ""));
    const verdict = verdictOf(error.code, said) ?? meaning(status === 429 ? 1013 : 1008, "", said);
    this.#finish("error", verdict);
  }

  #unreachable() {
    this.#fail(
      "The server cannot be reached by WebRTC",
      "A firewall may be in between. Choose the websocket in the settings, and call again.",
    );
  }

  #lost() {
    if (this.startedAt) this.#fail("Connection lost", "Call again when the network is back.");
    else this.#unreachable();
  }

  #fail(title, detail) {
    this.#finish("error", { kind: "failed", title, detail });
  }

  #opened() {
    if (this.over) return;
    this.startedAt = performance.now();
    this.#timers.push(setInterval(() => this.#levels(), FRAME_MS));
    this.#timers.push(setInterval(() => void this.#figures(), 1000));
    this.#enter("active");
  }

  #closed() {
    if (this.over) return;
    if (this.#problem) this.#finish("ended", this.#problem);
    else this.#finish("ended", { kind: "over", title: "Call ended", detail: "" });
  }

  #event(event) {
    switch (event.type) {
      case "session.created": {
        this.sessionId = event.session.id;
        const left = event.session.expires_at - Date.now() / 1000;
        this.maxSeconds = left < LIMIT_MAX ? Math.round(left) : null;
        break;
      }
      case "response.output_audio_transcript.delta":
        this.addCaption(event.delta);
        this.#on.text(event.delta);
        break;
      case "error": {
        const said = sentenceOf(String(event.error.message ?? ""));
        this.#problem = verdictOf(event.error.code, said) ?? {
          kind: "over",
          title: "Call ended",
          detail: said,
        };
        break;
      }
      default:
    }
  }

  end() {
    if (!this.over) this.#finish("ended", { kind: "over", title: "Call ended", detail: "" });
  }

  #finish(state, detail) {
    this.#stop();
    this.endedAt = performance.now();
    this.outputRms = 0;
    this.#enter(state, detail);
  }

  #stop() {
    this.#timers.forEach(clearTimeout);
    this.#connection?.close();
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#sound.srcObject = null;
    void this.#context?.close().catch(() => {});
    this.#connection = this.#stream = this.#context = null;
  }

  // ---- audio ----

  setMuted(muted) {
    this.muted = muted;
    for (const track of this.#stream?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  async useMicrophone(device) {
    const stream = await openMicrophone(device);
    const sender = this.#connection?.getSenders().find(({ track }) => track?.kind === "audio");
    if (!sender) {
      stream.getTracks().forEach((track) => track.stop());
      return;
    }
    await sender.replaceTrack(stream.getAudioTracks()[0]);
    this.#stream.getTracks().forEach((track) => track.stop());
    this.#stream = stream;
    this.#meter("input", stream);
    this.setMuted(this.muted);
  }

  #meter(name, stream) {
    if (!this.#context) return;
    this.#meters[name] = this.#context.createAnalyser();
    this.#context.createMediaStreamSource(stream).connect(this.#meters[name]);
  }

  #levels() {
    const { input, output } = this.#meters;
    if (input) this.#on.input(this.muted ? 0 : level(input));
    if (!output) return;
    this.outputRms = level(output);
    this.peakOutputRms = Math.max(this.peakOutputRms, this.outputRms);
    this.#on.output(this.outputRms);
  }

  async #figures() {
    for (const row of (await this.#connection?.getStats())?.values() ?? []) {
      if (row.type === "inbound-rtp") {
        const { jitterBufferDelay = 0, jitterBufferEmittedCount = 0, concealmentEvents } = row;
        this.bufferMs = jitterBufferEmittedCount
          ? (1000 * jitterBufferDelay) / jitterBufferEmittedCount
          : 0;
        this.underruns = concealmentEvents ?? 0;
        this.framesReceived = Math.floor((row.totalSamplesDuration ?? 0) / 0.08);
      } else if (row.type === "outbound-rtp") {
        this.framesSent = Math.floor(row.packetsSent / 4); // packets of 20 ms
      } else if (row.type === "candidate-pair" && row.nominated) {
        this.rttMs = 1000 * (row.currentRoundTripTime ?? 0);
      }
    }
  }
}
