// The microphone and the loudspeaker, behind one object.

import { FRAME, RATE } from "./codec.js";

const START_MS = 6000;
/** How soon stopped audio is asked to go on, and then again and again. */
const AGAIN_SOON_MS = 300;
const AGAIN_MS = 2000;

/** What went wrong before a call could begin, in words for the caller. */
export class AudioProblem extends Error {
  constructor(title, detail) {
    super(title);
    this.title = title;
    this.detail = detail;
  }
}

/** Any error of the audio in words for the caller. */
export function audioProblem(error) {
  if (error instanceof AudioProblem) return error;
  return new AudioProblem("The audio of this browser did not start", wordsOf(error));
}

/** What an error says; some browsers give errors without words, or none at all. */
function wordsOf(error) {
  const unknown = "The browser did not say why. Reload the page, or try another browser.";
  return error?.message || error?.name || unknown;
}

/** Why no microphone can be had on this page at all, or null. */
export function environmentProblem() {
  if (!window.isSecureContext) {
    const port = location.port ? `:${location.port}` : "";
    return new AudioProblem(
      "This page cannot use the microphone",
      "Browsers open it only for secure pages. Use an https:// address for this server, or " +
        `forward its port to your own machine and open http://localhost${port}/.`,
    );
  }
  if (!navigator.mediaDevices?.getUserMedia || !globalThis.AudioWorkletNode) {
    return new AudioProblem(
      "This browser cannot hold a call",
      "It lacks microphone access or audio worklets. A current Chrome, Edge, Firefox or Safari " +
        "has both.",
    );
  }
  return null;
}

function microphoneProblem(error) {
  switch (error?.name) {
    case "NotAllowedError":
    case "SecurityError":
      return new AudioProblem(
        "The microphone is blocked",
        "Allow it for this page, with the icon beside the address, and try again. On a phone, " +
          "also check that the browser itself may use the microphone.",
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return new AudioProblem(
        "No microphone found",
        "Connect one, or choose another in the settings, and try again.",
      );
    case "NotReadableError":
    case "AbortError":
      return new AudioProblem(
        "The microphone is busy",
        "Another program may hold it. Close that program and try again.",
      );
    default:
      return new AudioProblem("The microphone did not start", wordsOf(error));
  }
}

/** Waits until the context runs. Without an output device it never does, and reports no error. */
async function running(context) {
  const slow = new Promise((_, reject) => {
    setTimeout(() => reject(new Error("it never ran")), START_MS);
  });
  try {
    await Promise.race([context.resume(), slow]);
  } catch {
    throw new AudioProblem(
      "The sound of this device did not start",
      "Check that a loudspeaker or headphones are connected, and try again.",
    );
  }
}

const quality = (device) => ({
  audio: {
    echoCancellation: true,
    noiseSuppression: true,
    autoGainControl: true,
    channelCount: 1,
    ...(device ? { deviceId: { exact: device } } : {}),
  },
});

/** A microphone, with what browsers do against echo; another if the chosen one is gone. */
export async function openMicrophone(device) {
  try {
    return await navigator.mediaDevices.getUserMedia(quality(device));
  } catch (error) {
    if (!device || error?.name === "NotAllowedError") throw microphoneProblem(error);
  }
  try {
    // The chosen one is gone: take any other.
    return await navigator.mediaDevices.getUserMedia(quality(""));
  } catch (error) {
    throw microphoneProblem(error);
  }
}

/** The context at a sample rate, or at the browser's own, from which the worklets convert. */
function makeContext(rate) {
  const options = { latencyHint: "interactive" };
  try {
    return new AudioContext(rate ? { ...options, sampleRate: rate } : options);
  } catch {
    return new AudioContext(options);
  }
}

const stop = (stream) => stream?.getTracks().forEach((track) => track.stop());

/** What a person does who comes back to the page: audio that was stopped may go on then. */
const RETURNS = ["pointerdown", "touchend", "keydown", "focus", "pageshow", "visibilitychange"];

export class AudioDevice {
  #context = null;
  #stream = null;
  #source = null;
  #capture = null;
  #playback = null;
  #muted = false;
  #closed = false;
  #onFrame;
  #onReport;
  #onLost;
  #onPaused;
  #paused = false;
  #trying = 0;
  #wake = () => this.#resume();

  constructor({ onFrame, onReport, onLost, onPaused = () => {} }) {
    this.#onFrame = onFrame;
    this.#onReport = onReport;
    this.#onLost = onLost;
    this.#onPaused = onPaused;
  }

  /** Opens microphone and loudspeaker. Browsers allow it only from a click or a key press. */
  async open({ device = "", rate = 0 } = {}) {
    const problem = environmentProblem();
    if (problem) throw problem;
    if (navigator.audioSession) navigator.audioSession.type = "play-and-record";
    // Before anything is awaited: after that the click does not count any more.
    this.#adopt(makeContext(rate || RATE));
    const stream = await openMicrophone(device);
    if (this.#closed) return stop(stream);
    this.#stream = stream;
    const { context, source } = this.#attach(stream);
    this.#adopt(context);
    this.#source = source;
    await this.#prepare(context);
    if (this.#closed) return undefined;
    for (const event of RETURNS) window.addEventListener(event, this.#wake, true);
    context.onstatechange = () => this.#stateChanged(context);
    this.#connect();
    this.#watch(stream);
    return undefined;
  }

  /**
   * A microphone as a source of the context, or of another one: some browsers connect a microphone
   * only to a context with its sample rate, which may be the browser's own or the microphone's.
   */
  #attach(stream) {
    try {
      return { context: this.#context, source: this.#context.createMediaStreamSource(stream) };
    } catch {
      const own = stream.getAudioTracks()[0]?.getSettings?.().sampleRate ?? 0;
      for (const rate of [0, own]) {
        const context = makeContext(rate);
        try {
          return { context, source: context.createMediaStreamSource(stream) };
        } catch {
          void context.close();
        }
      }
    }
    throw new AudioProblem(
      "This browser does not connect the microphone",
      "Its sample rate is another one than the loudspeaker's. Choose another microphone in the " +
        "settings, or another browser, and try again.",
    );
  }

  /** Makes a context the one in use. */
  #adopt(context) {
    if (context === this.#context) return;
    if (this.#context) {
      this.#context.onstatechange = null;
      void this.#context.close();
    }
    this.#context = context;
    void context.resume().catch(() => {});
  }

  async #prepare(context) {
    try {
      await context.audioWorklet.addModule(new URL("./worklets.js", import.meta.url));
    } catch {
      throw new AudioProblem(
        "The server cannot be reached",
        "A part of this page could not be loaded. Check the connection, and try again.",
      );
    }
    await running(context);
  }

  /** A phone call or another app can stop the audio. It goes on as soon as that is allowed. */
  #stateChanged(context) {
    if (context !== this.#context || this.#closed) return;
    const paused = context.state !== "running";
    if (paused) this.#tryLater(AGAIN_SOON_MS);
    if (paused === this.#paused) return;
    this.#paused = paused;
    this.#onPaused(paused);
  }

  #tryLater(after) {
    clearTimeout(this.#trying);
    this.#trying = setTimeout(this.#wake, after);
  }

  #resume() {
    const context = this.#context;
    if (this.#closed || !context) return;
    if (context.state === "running" || context.state === "closed") return;
    context.resume().catch(() => {});
    this.#tryLater(AGAIN_MS);
  }

  #connect() {
    const context = this.#context;
    this.#capture = new AudioWorkletNode(context, "kaiwa-capture", {
      numberOfInputs: 1,
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: { rate: RATE, frame: FRAME },
    });
    this.#capture.port.onmessage = ({ data }) => {
      if (this.#muted) data.fill(0);
      this.#onFrame(data);
    };
    this.#playback = new AudioWorkletNode(context, "kaiwa-playback", {
      numberOfInputs: 0,
      numberOfOutputs: 1,
      outputChannelCount: [2],
    });
    this.#playback.port.onmessage = ({ data }) => this.#onReport(data);
    this.#playback.connect(context.destination);
    this.#source.connect(this.#capture);
  }

  #watch(stream) {
    for (const track of stream.getAudioTracks()) {
      track.enabled = !this.#muted;
      track.onended = () => {
        if (!this.#closed && stream === this.#stream) this.#onLost();
      };
    }
  }

  /** Changes to another microphone, also during a call. */
  async replaceMicrophone(device) {
    const stream = await openMicrophone(device);
    if (this.#closed || !this.#capture) return stop(stream);
    let attached = null;
    try {
      attached = this.#attach(stream);
      if (attached.context !== this.#context) await this.#prepare(attached.context);
    } catch (error) {
      stop(stream);
      if (attached && attached.context !== this.#context) void attached.context.close();
      throw error;
    }
    const { context, source } = attached;
    if (this.#closed) {
      if (context !== this.#context) void context.close();
      return stop(stream);
    }
    this.#source?.disconnect();
    stop(this.#stream);
    this.#stream = stream;
    this.#source = source;
    if (context === this.#context) {
      source.connect(this.#capture);
    } else {
      this.#disconnect();
      this.#adopt(context);
      context.onstatechange = () => this.#stateChanged(context);
      this.#connect();
    }
    this.#watch(stream);
    return undefined;
  }

  #disconnect() {
    this.#capture?.port.postMessage("close");
    this.#playback?.port.postMessage({ type: "close" });
    this.#playback?.disconnect();
  }

  get sampleRate() {
    return this.#context?.sampleRate ?? 0;
  }

  set muted(muted) {
    this.#muted = muted;
    for (const track of this.#stream?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  play(samples, rate) {
    this.#playback?.port.postMessage({ samples, rate }, [samples.buffer]);
  }

  /** Announces that the connection is lost, so that the silence does not count as an underrun. */
  expectGap() {
    this.#playback?.port.postMessage({ type: "gap" });
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#trying);
    for (const event of RETURNS) window.removeEventListener(event, this.#wake, true);
    stop(this.#stream);
    this.#source?.disconnect();
    this.#disconnect();
    if (this.#context) {
      this.#context.onstatechange = null;
      if (this.#context.state !== "closed") void this.#context.close();
    }
    if (navigator.audioSession) navigator.audioSession.type = "auto";
  }
}

/** The microphones, with names where the browser tells them. */
export async function microphones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter((device) => device.kind === "audioinput" && device.deviceId);
}
