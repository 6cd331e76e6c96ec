// Audio to bytes and back: Ogg/Opus through WebCodecs, or plain PCM.

import { OggReader, OggWriter, concat } from "./ogg.js";
import { Resampler } from "./resampler.js";

export const RATE = 24000;
export const FRAME = 1920;

const BITRATE = 32000;

const encoderConfig = (rate, duration) => ({
  codec: "opus",
  sampleRate: rate,
  numberOfChannels: 1,
  bitrate: BITRATE,
  opus: { application: "voip", frameDuration: duration },
});

const ENCODERS = [
  encoderConfig(24000, 40000),
  encoderConfig(24000, 20000),
  encoderConfig(48000, 40000),
  encoderConfig(48000, 20000),
];
const DECODERS = [RATE, 48000].map((rate) => ({
  codec: "opus",
  sampleRate: rate,
  numberOfChannels: 1,
}));

async function firstSupported(codec, configs) {
  for (const config of configs) {
    try {
      const { supported } = await codec.isConfigSupported(config);
      if (supported) return config;
    } catch {
      // this browser does not know this form of configuration: try the next
    }
  }
  return null;
}

/** What this browser can do with Opus: `{encoder, decoder}`, or null if it lacks one of them. */
export async function opusSupport() {
  if (!globalThis.AudioEncoder || !globalThis.AudioDecoder || !globalThis.AudioData) return null;
  const encoder = await firstSupported(AudioEncoder, ENCODERS);
  const decoder = await firstSupported(AudioDecoder, DECODERS);
  return encoder && decoder ? { encoder, decoder } : null;
}

/** Encodes frames of the microphone as messages of one Ogg stream. */
export class OpusSender {
  #config;
  #encoder;
  #ogg = new OggWriter();
  #headers = null;
  #resampler;
  #time = 0;

  constructor(config, onBytes, onError) {
    this.#config = config;
    this.#resampler = config.sampleRate === RATE ? null : new Resampler(RATE, config.sampleRate);
    this.#encoder = new AudioEncoder({
      output: (chunk, metadata) => onBytes(this.#message(chunk, metadata)),
      error: onError,
    });
    this.#encoder.configure(config);
  }

  #message(chunk, metadata) {
    const packet = new Uint8Array(chunk.byteLength);
    chunk.copyTo(packet);
    const duration = chunk.duration || this.#config.opus.frameDuration;
    const pages = [];
    if (!this.#headers) {
      this.#headers = this.#ogg.headers({ preSkip: preSkip(metadata), inputRate: RATE });
      pages.push(this.#headers);
    }
    pages.push(this.#ogg.packet(packet, Math.round((duration * 48) / 1000)));
    return concat(pages);
  }

  /** Frames that wait for the encoder. */
  get waiting() {
    return this.#encoder.encodeQueueSize;
  }

  send(frame) {
    if (this.#encoder.state !== "configured") return;
    const samples = this.#resampler ? this.#resampler.process(frame) : frame;
    const audio = new AudioData({
      format: "f32-planar",
      sampleRate: this.#config.sampleRate,
      numberOfFrames: samples.length,
      numberOfChannels: 1,
      timestamp: Math.round(this.#time),
      data: samples,
    });
    this.#time += (1e6 * samples.length) / this.#config.sampleRate;
    this.#encoder.encode(audio);
    audio.close();
  }

  close() {
    if (this.#encoder.state !== "closed") this.#encoder.close();
  }
}

/** Pre-skip from the encoder's own OpusHead, if it shows one. */
function preSkip(metadata) {
  const head = metadata?.decoderConfig?.description;
  if (!head) return 312;
  const view = ArrayBuffer.isView(head)
    ? new DataView(head.buffer, head.byteOffset, head.byteLength)
    : new DataView(head);
  return view.byteLength >= 12 ? view.getUint16(10, true) : 312;
}

/** Decodes messages of an Ogg stream into samples. */
export class OpusReceiver {
  #decoder = null;
  #config;
  #onSamples;
  #onError;
  #ogg = new OggReader();
  #time = 0;
  #failures = 0;

  constructor(config, onSamples, onError) {
    this.#config = config;
    this.#onSamples = onSamples;
    this.#onError = onError;
    this.#open();
  }

  #open() {
    if (this.#decoder && this.#decoder.state !== "closed") this.#decoder.close();
    const decoder = new AudioDecoder({
      output: (audio) => {
        this.#failures = 0;
        const samples = new Float32Array(audio.numberOfFrames);
        audio.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
        const rate = audio.sampleRate;
        audio.close();
        this.#onSamples(samples, rate);
      },
      error: (error) => {
        if (decoder !== this.#decoder) return;
        // A bad packet closes the decoder: open another, up to a limit.
        if (++this.#failures > 5) this.#onError(error);
        else this.#open();
      },
    });
    decoder.configure(this.#config);
    this.#decoder = decoder;
  }

  push(bytes) {
    for (const { head, packet } of this.#ogg.push(bytes)) {
      if (head) {
        if (this.#time) this.#open(); // a new stream in the same connection
        continue;
      }
      if (this.#decoder.state !== "configured") return;
      if (this.#decoder.decodeQueueSize > 50) continue; // 2 s behind: not worth hearing
      this.#decoder.decode(
        new EncodedAudioChunk({ type: "key", timestamp: this.#time, data: packet }),
      );
      this.#time += 40000;
    }
  }

  close() {
    const decoder = this.#decoder;
    this.#decoder = { state: "closed" };
    if (decoder.state !== "closed") decoder.close();
  }
}

/** Sends frames as 16-bit little-endian PCM. */
export class PcmSender {
  #onBytes;
  waiting = 0;

  constructor(onBytes) {
    this.#onBytes = onBytes;
  }

  send(frame) {
    const bytes = new Uint8Array(frame.length * 2);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < frame.length; i++) {
      const value = Math.max(-1, Math.min(1, frame[i]));
      view.setInt16(2 * i, Math.round(value * 32767), true);
    }
    this.#onBytes(bytes);
  }

  close() {}
}

/** Reads 16-bit little-endian PCM into samples. */
export class PcmReceiver {
  #onSamples;

  constructor(onSamples) {
    this.#onSamples = onSamples;
  }

  push(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const samples = new Float32Array(bytes.byteLength >> 1);
    for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
    if (samples.length) this.#onSamples(samples, RATE);
  }

  close() {}
}
