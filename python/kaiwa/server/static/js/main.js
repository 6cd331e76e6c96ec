// The caller's page: shows the state of the call, and turns buttons and keys into actions.

import { audioProblem, environmentProblem, microphones } from "./audio.js";
import { Call } from "./call.js";
import { Captions, clock } from "./captions.js";
import { Dial, loudness } from "./dial.js";
import { address } from "./protocol.js";
import { RtcCall } from "./rtc.js";
import { Settings } from "./settings.js";

const KEY_STORE = "kaiwa.key";
const INFO_RETRY_MS = 4000;
const INFO_REFRESH_MS = 20000;
const LIMIT_SOON = 30; // seconds

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);

const dial = new Dial($("dial"));
const captions = new Captions({ log: $("log"), spoken: $("spoken"), latest: $("latest") });
const settings = new Settings($("settings-form"));

let call = null;
let info = null;
let wakeLock = null;
let limitNoted = false;

// ---- what is shown ----

const WELCOME = {
  title: "Talk with Kaiwa",
  detail:
    "Press the button, allow the microphone and speak. It listens while it talks: interrupt it " +
    "whenever you like.",
};

function words(state, detail) {
  switch (state) {
    case "permission":
      return { title: "Allow the microphone", detail: "Your browser asks for it now." };
    case "connecting":
      return { title: "Connecting…", detail: "" };
    case "queued":
      return {
        title: detail.position
          ? `Waiting for a slot (position ${detail.position})`
          : "Waiting for a slot",
        detail:
          detail.position === 1
            ? "You are next. The call begins by itself."
            : "All lines are taken. The call begins by itself.",
      };
    case "active":
      if (call.muted) {
        return { title: "Muted", detail: "It does not hear you. Press Mute again to speak." };
      }
      return { title: "Connected", detail: "Speak. It hears you all the time." };
    case "resuming":
      return {
        title: "Connection lost, resuming…",
        detail: "It goes on as soon as the network is back.",
      };
    case "restarting":
      return detail.kind === "starting"
        ? { title: "The server is starting…", detail: "The call begins when it is ready." }
        : {
            title: "The server is restarting…",
            detail: "A new conversation begins when it is back.",
          };
    case "ended":
      return { title: detail.title, detail: detail.detail || lasted() };
    case "error":
      return { title: detail.title, detail: detail.detail };
    default:
      return WELCOME;
  }
}

/** How long the last call was. */
function lasted() {
  return call?.startedAt ? `You talked for ${clock(call.seconds)}.` : "";
}

const IN_CALL = new Set(["active", "resuming", "restarting"]);
const BUSY = new Set(["permission", "connecting", "queued", ...IN_CALL]);
const WAITING = new Set(["permission", "connecting", "queued", "resuming", "restarting"]);

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function show(state, detail = {}) {
  document.body.dataset.state = state;
  const text = words(state, detail);
  const status = $("status");
  const bad = state === "error";
  status.classList.toggle("bad", bad);
  status.setAttribute("role", bad ? "alert" : "status");
  setText($("title"), text.title);
  setText($("detail"), text.detail ?? "");

  const busy = BUSY.has(state);
  const started = Boolean(call?.startedAt) && IN_CALL.has(state);
  const button = $("call");
  const focused = document.activeElement;
  button.hidden = busy && (started || state !== "permission");
  button.disabled = busy || Boolean(environmentProblem());
  setText($("call-label"), label(state, detail));
  $("clock").hidden = !busy || !button.hidden;
  $("controls").hidden = !busy || state === "permission";
  $("mute").hidden = !started;
  $("sound").hidden = !started;
  showKey();
  setText($("settings-hint"), busy ? "Used from the next call on." : "Used for the next call.");
  document.title = started ? "In a call – Kaiwa" : "Kaiwa";
  const mode = WAITING.has(state) ? "waiting" : state === "active" ? "live" : "idle";
  dial.set(mode, !button.hidden);

  if (busy && button.hidden && (focused === button || focused === document.body)) {
    ($("mute").hidden ? $("end") : $("mute")).focus({ preventScroll: true });
  } else if (!busy && (focused === $("end") || focused === $("mute"))) {
    button.focus({ preventScroll: true });
  }
  showTime();
}

function label(state, detail) {
  if (state === "ended") return "Call again";
  if (state === "error") return detail.kind === "key" ? "Start talking" : "Try again";
  return state === "permission" ? "One moment" : "Start talking";
}

function showTime() {
  if (!call?.startedAt) {
    const { position } = call?.detail ?? {};
    setText($("time"), position ? String(position) : "");
    setText($("limit"), position ? "in line" : "");
    return;
  }
  const seconds = call.seconds;
  setText($("time"), clock(seconds));
  const limit = call.maxSeconds;
  const left = limit ? limit - seconds : Infinity;
  setText($("limit"), limit ? `of ${clock(limit)}` : "");
  $("limit").classList.toggle("soon", left < LIMIT_SOON);
  if (left < LIMIT_SOON && !limitNoted && call.state === "active" && limit > 2 * LIMIT_SOON) {
    limitNoted = true;
    captions.note(`The call ends in ${LIMIT_SOON} seconds`);
  }
}

function showMeter(meter, rms) {
  const level = loudness(rms);
  meter.firstElementChild.style.transform = `scaleX(${level.toFixed(3)})`;
  return level;
}

const FORMATS = { pcm: "PCM", webrtc: "Opus, WebRTC" };

let input = 0;
let output = 0;

function showFigures() {
  if (!call || call.over) return;
  showTime();
  setText($("rtt"), call.rttMs && call.state === "active" ? `${Math.round(call.rttMs)} ms` : "–");
  setText($("buffer"), `${Math.round(call.bufferMs)} ms`);
  setText($("gaps"), String(call.underruns));
  setText($("format"), FORMATS[call.format] ?? "Opus");
  $("meter-input").setAttribute("aria-valuenow", String(Math.round(100 * input)));
  $("meter-output").setAttribute("aria-valuenow", String(Math.round(100 * output)));
}

setInterval(showFigures, 500);

// ---- the server ----

async function refreshInfo() {
  let next = INFO_REFRESH_MS;
  try {
    const response = await fetch(address("v1/info"), {
      cache: "no-store",
      signal: AbortSignal.timeout(8000),
    });
    if (!response.ok) throw new Error(String(response.status));
    info = await response.json();
    settings.defaults = info.sampling;
    showServer();
    showKey();
    if (info.state !== "ready") next = INFO_RETRY_MS;
  } catch {
    next = INFO_RETRY_MS;
    if (!call || call.over) showServer(true);
  }
  setTimeout(refreshInfo, next);
}

const SERVER_STATES = {
  ready: ["good", ""],
  starting: ["warn", "starting"],
  draining: ["warn", "restarting"],
  overloaded: ["warn", "busy"],
};

/** Tells callers what kind of model they talk to: random weights, or the small demo model. */
function showModel(about) {
  $("synthetic").hidden = !about?.synthetic;
  $("demo").hidden = about?.model !== "demo";
}

function showServer(gone = false) {
  const server = $("server");
  const [kind, word] = gone
    ? ["bad", "not reachable"]
    : (SERVER_STATES[info.state] ?? ["warn", info.state ?? ""]);
  server.className = `server ${kind}`;
  const name = document.createElement("span");
  name.textContent = [info?.model, word].filter(Boolean).join(" · ");
  server.replaceChildren(document.createElement("i"), name);
  showModel(info);
  setText($("version"), info?.version ? `Kaiwa ${info.version}` : "");
}

// ---- the key ----

function storedKey() {
  try {
    return sessionStorage.getItem(KEY_STORE) ?? "";
  } catch {
    return "";
  }
}

$("key").value = storedKey();
$("key").addEventListener("input", () => {
  $("key").removeAttribute("aria-invalid");
  try {
    sessionStorage.setItem(KEY_STORE, $("key").value.trim());
  } catch {
    // no storage: the key stays in the field only
  }
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});

function showKey() {
  const state = document.body.dataset.state;
  $("key-form").hidden = info?.auth !== "key" || BUSY.has(state);
}

// ---- the call ----

function start() {
  if ((call && !call.over) || environmentProblem()) return;
  const key = $("key").value.trim();
  if (info?.auth === "key" && !key) {
    show("error", { kind: "key", title: "Enter your access key", detail: "This server asks for one." });
    $("key").focus();
    return;
  }
  captions.clear();
  limitNoted = false;
  const Kind = settings.connection === "webrtc" ? RtcCall : Call;
  call = new Kind(
    {
      auth: info?.auth ?? "none",
      key,
      sampling: settings.sampling,
      device: settings.device,
      format: query.get("format") ?? "",
      rate: Number(query.get("rate")) || 0,
    },
    {
      state: onState,
      ready: onReady,
      text: (text) => captions.add(text, call.seconds),
      note: (text) => captions.note(text),
      metadata: (data) => {
        if (data.synthetic !== undefined) showModel(data);
      },
      input: (rms) => {
        input = showMeter($("meter-input"), rms);
        dial.push(0, rms);
      },
      output: (rms) => {
        output = showMeter($("meter-output"), rms);
        dial.push(1, rms);
      },
    },
  );
  setMuted(false);
  void call.start();
}

function onState(state, detail) {
  show(state, detail);
  if (state === "active") void keepAwake();
  if (!call.over) return;
  void wakeLock?.release().catch(() => {});
  wakeLock = null;
  if (state === "ended" && call.startedAt) captions.note(detail.title);
  if (detail.kind === "key") {
    $("key").setAttribute("aria-invalid", "true");
    if (!$("key-form").hidden) $("key").focus();
  }
}

async function onReady() {
  settings.showDevices(await microphones());
}

settings.onDevice = (device) => {
  if (call && !call.over) {
    call.useMicrophone(device).catch((error) => captions.note(audioProblem(error).title));
  }
};

navigator.mediaDevices?.addEventListener?.("devicechange", async () => {
  if (call) settings.showDevices(await microphones());
});

async function keepAwake() {
  if (wakeLock && !wakeLock.released) return;
  try {
    wakeLock = await navigator.wakeLock?.request("screen");
  } catch {
    // the screen may go dark; the call goes on
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && call?.state === "active") void keepAwake();
});

function setMuted(muted) {
  call?.setMuted(muted);
  $("mute").setAttribute("aria-pressed", String(muted));
  if (call?.state === "active") show("active");
}

$("call").addEventListener("click", start);
$("end").addEventListener("click", () => call?.end());
$("mute").addEventListener("click", () => setMuted(!call.muted));

document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "m" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.repeat || event.target.closest?.("input, select, textarea")) return;
  if (!$("mute").hidden && !$("controls").hidden) setMuted(!call.muted);
});

window.addEventListener("pagehide", () => call?.end());

// ---- window.kaiwa: live figures of the call, read only, for tests and the console ----

const FIGURES = [
  ["state", "idle"],
  ["framesSent", 0], // of 80 ms
  ["framesReceived", 0], // of 80 ms, decoded
  ["bufferMs", 0],
  ["marginMs", 0], // what the jitter buffer aims to hold
  ["rttMs", 0],
  ["outputRms", 0], // of the last 80 ms that were played
  ["peakOutputRms", 0],
  ["captions", ""], // as they came, the last 8192 characters
  ["underruns", 0],
  ["droppedMs", 0], // of the answer, to keep the delay small
  ["unsent", 0], // frames of the microphone that the network had no room for
  ["format", ""],
  ["sessionId", ""],
  ["resumed", 0], // how often the conversation was taken up again
  ["seconds", 0],
];

window.kaiwa = Object.freeze(
  Object.defineProperties(
    {},
    Object.fromEntries([
      ...FIGURES.map(([name, empty]) => [
        name,
        { enumerable: true, get: () => (call ? call[name] : empty) },
      ]),
      ["dropped", { enumerable: true, get: () => call?.droppedMs ?? 0 }],
    ]),
  ),
);

// ---- begin ----

const problem = environmentProblem();
if (problem) show("error", { kind: "environment", title: problem.title, detail: problem.detail });
else show("idle");
void refreshInfo();
