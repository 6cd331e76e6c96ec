// The microphone and the loudspeaker, behind one object.

import { FRAME, RATE } from "./codec.js";

const START_MS = 6000;

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
  return new AudioProblem("The audio of this browser did not start", error.message);
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
  switch (error.name) {
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
      return new AudioProblem("The microphone did not start", error.message);
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

async function openMicrophone(device) {
  try {
    return await navigator.mediaDevices.getUserMedia(quality(device));
  } catch (error) {
    if (!device || error.name === "NotAllowedError") throw microphoneProblem(error);
  }
  try {
    // The chosen one is gone: take any other.
    return await navigator.mediaDevices.getUserMedia(quality(""));
  } catch (error) {
    throw microphoneProblem(error);
  }
}

/**
 * Options of the audio context, best first: at the model's sample rate, or at the browser's own,
 * from which the worklets convert.
 */
function contexts(rate) {
  const wanted = rate || RATE;
  return [{ latencyHint: "interactive", sampleRate: wanted }, { latencyHint: "interactive" }];
}

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

  constructor({ onFrame, onReport, onLost }) {
    this.#onFrame = onFrame;
    this.#onReport = onReport;
    this.#onLost = onLost;
  }

  /** Opens microphone and loudspeaker. Browsers allow it only from a click or a key press. */
  async open({ device = "", rate = 0 } = {}) {
    const problem = environmentProblem();
    if (problem) throw problem;
    if (navigator.audioSession) navigator.audioSession.type = "play-and-record";
    // Before anything is awaited: after that the click does not count any more.
    const options = contexts(rate);
    let context = this.#make(options[0]);
    const stream = await openMicrophone(device);
    if (this.#closed) return stream.getTracks().forEach((track) => track.stop());
    this.#stream = stream;
    try {
      this.#source = context.createMediaStreamSource(stream);
    } catch {
      // Some browsers connect a microphone only to a context with the microphone's sample rate.
      void context.close();
      context = this.#make(options[1]);
      this.#source = context.createMediaStreamSource(stream);
    }
    try {
      await context.audioWorklet.addModule(new URL("./worklets.js", import.meta.url));
    } catch {
      throw new AudioProblem(
        "The server cannot be reached",
        "A part of this page could not be loaded. Check the connection, and try again.",
      );
    }
    await running(context);
    if (this.#closed) return undefined;
    this.#connect();
    this.#watch(stream);
    return undefined;
  }

  #make(options) {
    let context;
    try {
      context = new AudioContext(options);
    } catch {
      context = new AudioContext({ latencyHint: "interactive" });
    }
    this.#context = context;
    void context.resume();
    // A phone call or another app can suspend the audio: resume it as soon as that is allowed.
    context.onstatechange = () => {
      if (context.state === "suspended" || context.state === "interrupted") {
        setTimeout(() => context.state !== "closed" && context.resume().catch(() => {}), 300);
      }
    };
    return context;
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
    if (this.#closed || !this.#capture) return stream.getTracks().forEach((t) => t.stop());
    const source = this.#context.createMediaStreamSource(stream);
    this.#source?.disconnect();
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = stream;
    this.#source = source;
    source.connect(this.#capture);
    this.#watch(stream);
    return undefined;
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
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#source?.disconnect();
    this.#capture?.port.postMessage("close");
    this.#playback?.port.postMessage({ type: "close" });
    this.#playback?.disconnect();
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
