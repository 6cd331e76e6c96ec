// The operator's page: fetches the server's statistics every second and shows them.

import { StepChart } from "./chart.js";
import { clock } from "./captions.js";
import { address, sentenceOf } from "./protocol.js";

const KEY_STORE = "kaiwa.operator";
const EVERY_MS = 1000;

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const chart = new StepChart($("chart"));

let key = read();
let asking = null;
let timer = 0;
let failures = 0;

function read() {
  try {
    return sessionStorage.getItem(KEY_STORE) ?? "";
  } catch {
    return "";
  }
}

function remember(value) {
  key = value;
  try {
    sessionStorage.setItem(KEY_STORE, value);
  } catch {
    // kept until the page is left
  }
}

function ask(path, method = "GET") {
  return fetch(address(path), {
    method,
    cache: "no-store",
    headers: key ? { Authorization: `Bearer ${key}` } : {},
    signal: AbortSignal.timeout(8000),
  });
}

function setText(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}

// ---- asking ----

function poll() {
  clearTimeout(timer);
  asking ??= once().finally(() => {
    asking = null;
    timer = setTimeout(poll, EVERY_MS);
  });
}

async function once() {
  if (document.hidden || !$("login").hidden) return;
  let response;
  try {
    response = await ask("v1/stats");
    if (response.status === 401 || response.status === 403) {
      await refused(response);
      return;
    }
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    show(await response.json());
    failures = 0;
  } catch (error) {
    if (++failures < 2) return;
    document.body.dataset.state = "stale";
    showState("bad", error.name === "TypeError" ? "Not reachable" : `No figures: ${error.message}`);
  }
}

async function refused(response) {
  const body = await response.json().catch(() => ({}));
  $("data").hidden = true;
  $("login").hidden = false;
  document.body.dataset.state = "login";
  showState("warn", "Key needed");
  const tried = Boolean(key);
  $("key").setAttribute("aria-invalid", String(tried));
  const fallback =
    response.status === 403 ? "This key is not an operator’s." : "This key is not known.";
  setText("login-error", tried ? sentenceOf(body?.error?.message ?? "") || fallback : "");
  $("key").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = $("key").value.trim();
  if (!value) {
    $("key").focus();
    return;
  }
  remember(value);
  $("login").hidden = true;
  showState("", "Loading…");
  poll();
});

document.addEventListener("visibilitychange", () => !document.hidden && poll());

// ---- showing ----

const STATES = {
  ready: ["good", "Ready"],
  starting: ["warn", "Starting"],
  draining: ["warn", "Draining"],
  overloaded: ["bad", "Overloaded"],
  failed: ["bad", "Failed"],
  stuck: ["bad", "Stuck"],
};

function showState(kind, text) {
  $("state").className = `chip ${kind}`;
  const label = $("state").lastElementChild;
  if (label.textContent !== text) label.textContent = text;
}

const ms = (seconds) => {
  const value = 1000 * (seconds ?? 0);
  return value < 9.95 ? value.toFixed(1) : String(Math.round(value));
};

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let rest = value ?? 0;
  while (rest >= 1000 && unit < units.length - 1) {
    rest /= 1024;
    unit++;
  }
  return [rest < 9.95 && unit > 1 ? rest.toFixed(1) : String(Math.round(rest)), units[unit]];
}

function length(seconds) {
  const days = Math.floor(seconds / 86400);
  return days ? `${days} d ${clock(seconds % 86400)}` : clock(seconds);
}

function show(stats) {
  document.body.dataset.state = "live";
  $("login").hidden = true;
  $("data").hidden = false;
  const [kind, text] = STATES[stats.state] ?? ["warn", stats.state ?? "Unknown"];
  showState(kind, text);
  showAbout(stats);
  showSlots(stats);
  showStep(stats);
  showCounts(stats);
  showSessions(stats.sessions ?? []);
  showRejected(stats.rejected ?? {});
}

function showAbout(stats) {
  const parts = [
    ["Model", stats.model ?? "–"],
    ["Up", length(stats.uptime_seconds ?? 0)],
    ["Frames answered", number.format(stats.frames ?? 0)],
  ];
  $("about").replaceChildren(
    ...parts.map(([name, value]) => {
      const span = document.createElement("span");
      const strong = document.createElement("b");
      strong.textContent = value;
      span.append(`${name} `, strong);
      return span;
    }),
  );
  setText("version", stats.version ? `Kaiwa ${stats.version}` : "");
}

function showSlots({ slots_used: used = 0, slots_total: total = 0, queue = 0 }) {
  setText("used", String(used));
  setText("total", `of ${total} slots`);
  setText("queue", queue ? `${queue} waiting` : "Nobody waits");
  const slots = $("slots");
  const shown = Math.min(total, 256);
  while (slots.childElementCount > shown) slots.lastElementChild.remove();
  while (slots.childElementCount < shown) slots.append(document.createElement("i"));
  for (const [i, slot] of [...slots.children].entries()) slot.classList.toggle("on", i < used);
}

function showStep(stats) {
  const step = stats.step ?? {};
  const budget = stats.budget_seconds ?? 0.06;
  setText("p95", ms(step.p95));
  $("p95").parentElement.className =
    step.p95 > 0.08 ? "value bad" : step.p95 > budget ? "value warn" : "value";
  setText("percentiles", `p50 ${ms(step.p50)}, p99 ${ms(step.p99)} ms`);
  setText("step-now", step.count ? `now ${ms(step.last)} ms, batch of ${step.batch}` : "");
  setText("budget-key", `budget ${ms(budget)} ms`);
  chart.add(step.history ?? [], stats.uptime_seconds ?? 0, budget);
  $("chart").setAttribute(
    "aria-label",
    `Step time: now ${ms(step.last)} milliseconds, slowest of two minutes ${ms(chart.slowest)}`,
  );
}

function showCounts(stats) {
  const steps = stats.step?.count ?? 0;
  const missed = stats.deadline_missed ?? 0;
  setText("missed", number.format(missed));
  $("missed").parentElement.className = missed > 0.01 * steps ? "value bad" : "value";
  const share = steps ? (100 * missed) / steps : 0;
  const percent = share && share < 0.01 ? "< 0.01" : share.toFixed(share < 1 ? 2 : 1);
  setText("missed-share", `${percent} % of ${number.format(steps)} steps`);
  const input = stats.dropped_input ?? 0;
  const output = stats.dropped_output ?? 0;
  setText("dropped", number.format(input + output));
  setText("dropped-parts", `${number.format(input)} heard, ${number.format(output)} spoken`);
  const memory = stats.memory ?? {};
  const [rss, unit] = bytes(memory.rss);
  setText("memory", rss);
  setText("memory-unit", unit);
  const rest = Object.entries(memory).filter(([name]) => name !== "rss");
  setText("memory-parts", rest.map(([name, value]) => `${name} ${bytes(value).join(" ")}`).join(", "));
}

function showSessions(sessions) {
  const rows = new Map([...$("sessions").children].map((row) => [row.dataset.id, row]));
  for (const session of sessions) {
    const id = String(session.id);
    const row = rows.get(id) ?? newRow(id);
    rows.delete(id);
    const cells = [
      session.state ?? "–",
      session.protocol ?? "–",
      session.key_name || "–",
      session.slot ?? "–",
      clock(session.seconds ?? 0),
      number.format(session.frames ?? 0),
      session.backlog ?? 0,
    ];
    for (const [i, value] of cells.entries()) {
      const cell = row.children[i + 1];
      if (cell.textContent !== String(value)) cell.textContent = String(value);
    }
    if (!row.isConnected) $("sessions").append(row);
  }
  for (const row of rows.values()) row.remove();
  $("no-sessions").hidden = sessions.length > 0;
  $("sessions").parentElement.hidden = sessions.length === 0;
}

function newRow(id) {
  const row = document.createElement("tr");
  row.dataset.id = id;
  const name = document.createElement("td");
  const code = document.createElement("code");
  code.textContent = id;
  name.append(code);
  row.append(name);
  for (let i = 0; i < 7; i++) {
    const cell = document.createElement("td");
    if (i > 2) cell.className = "number";
    row.append(cell);
  }
  const last = document.createElement("td");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain";
  button.textContent = "End";
  button.setAttribute("aria-label", `End call ${id}`);
  button.addEventListener("click", () => confirmEnd(id));
  last.append(button);
  row.append(last);
  return row;
}

function showRejected(rejected) {
  const reasons = Object.entries(rejected)
    .filter(([, count]) => count > 0)
    .sort(([, a], [, b]) => b - a);
  const most = reasons[0]?.[1] ?? 1;
  $("rejected").replaceChildren(
    ...reasons.map(([reason, count]) => {
      const item = document.createElement("li");
      const name = document.createElement("span");
      name.textContent = reason.replaceAll("_", " ");
      const value = document.createElement("b");
      value.textContent = number.format(count);
      const bar = document.createElement("i");
      bar.style.setProperty("--share", String(count / most));
      item.append(name, value, bar);
      return item;
    }),
  );
  $("rejected").hidden = reasons.length === 0;
  $("no-rejected").hidden = reasons.length > 0;
}

// ---- ending a call ----

function confirmEnd(id) {
  const dialog = $("confirm");
  setText("confirm-text", `The caller of ${id} is told that an operator ended it.`);
  dialog.returnValue = "no";
  dialog.onclose = () => {
    if (dialog.returnValue === "yes") void end(id);
  };
  dialog.showModal();
}

async function end(id) {
  try {
    const response = await ask(`v1/sessions/${encodeURIComponent(id)}`, "DELETE");
    if (response.ok || response.status === 404) {
      setText("said", response.ok ? `Call ${id} ended` : `Call ${id} was over already`);
    } else {
      const body = await response.json().catch(() => ({}));
      const why = sentenceOf(body?.error?.message ?? "") || `It answered ${response.status}.`;
      setText("said", `Call ${id} was not ended. ${why}`);
    }
  } catch {
    setText("said", `Call ${id} was not ended: the server did not answer`);
  }
  setTimeout(() => setText("said", ""), 6000);
  poll();
}

poll();
