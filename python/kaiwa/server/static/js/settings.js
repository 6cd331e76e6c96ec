// Sampling and the microphone: what the caller chose, kept in this browser.

const STORE = "kaiwa.settings";

/** Name in the query of a call -> name in `GET /v1/info`, and a value until that is known. */
const NUMBERS = {
  text_temperature: { info: "temp_text", value: 0.7 },
  text_topk: { info: "top_k_text", value: 25 },
  audio_temperature: { info: "temp", value: 0.8 },
  audio_topk: { info: "top_k", value: 250 },
};

function stored() {
  try {
    const value = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    return value && typeof value === "object" && !Array.isArray(value) ? value : {};
  } catch {
    return {}; // storage may be forbidden
  }
}

export class Settings {
  #form;
  #chosen = stored();
  #defaults = {};
  onDevice = () => {};

  constructor(form) {
    this.#form = form;
    for (const [name, { value }] of Object.entries(NUMBERS)) {
      this.#defaults[name] = value;
      const input = this.#input(name);
      input.addEventListener("input", () => {
        const chosen = Number(input.value);
        if (chosen === this.#defaults[name]) delete this.#chosen[name];
        else this.#chosen[name] = chosen;
        this.#changed();
      });
    }
    const seed = this.#input("seed");
    seed.addEventListener("input", () => {
      if (/^[0-9]{1,15}$/.test(seed.value)) this.#chosen.seed = seed.value;
      else delete this.#chosen.seed;
      this.#changed();
    });
    const device = this.#input("device");
    device.addEventListener("change", () => {
      this.#chosen.device = device.value;
      this.#changed();
      this.onDevice(device.value);
    });
    const connection = this.#input("connection");
    connection.addEventListener("change", () => {
      if (connection.value === "webrtc") this.#chosen.connection = "webrtc";
      else delete this.#chosen.connection;
      this.#changed();
    });
    this.#input("defaults").addEventListener("click", () => {
      this.#chosen = { device: this.#chosen.device };
      seed.value = "";
      this.#changed();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    seed.value = /^[0-9]{1,15}$/.test(this.#chosen.seed ?? "") ? this.#chosen.seed : "";
    this.#show();
  }

  #input(name) {
    return this.#form.elements[name];
  }

  #changed() {
    try {
      localStorage.setItem(STORE, JSON.stringify(this.#chosen));
    } catch {
      // kept for this visit only
    }
    this.#show();
  }

  #show() {
    this.#input("connection").value = this.connection;
    for (const name of Object.keys(NUMBERS)) {
      const input = this.#input(name);
      const value = this.#number(name);
      input.value = String(value);
      const output = this.#form.querySelector(`output[for="${name}"]`);
      output.textContent = input.step === "1" ? String(value) : Number(value).toFixed(2);
    }
  }

  #number(name) {
    const chosen = this.#chosen[name];
    return Number.isFinite(chosen) ? chosen : this.#defaults[name];
  }

  /** The server's own values, shown until the caller chooses others. */
  set defaults(sampling) {
    for (const [name, { info }] of Object.entries(NUMBERS)) {
      if (Number.isFinite(sampling?.[info])) this.#defaults[name] = sampling[info];
    }
    this.#show();
  }

  /** How calls travel: "websocket", or "webrtc". */
  get connection() {
    return this.#chosen.connection === "webrtc" ? "webrtc" : "websocket";
  }

  get device() {
    return typeof this.#chosen.device === "string" ? this.#chosen.device : "";
  }

  /** Only what the caller changed, for the address of a call; the server decides the rest. */
  get sampling() {
    const out = {};
    for (const name of Object.keys(NUMBERS)) {
      if (Number.isFinite(this.#chosen[name])) out[name] = String(this.#chosen[name]);
    }
    if (this.#chosen.seed) out.seed = this.#chosen.seed;
    return out;
  }

  showDevices(devices) {
    const select = this.#input("device");
    const first = new Option("Chosen by the browser", "");
    select.replaceChildren(
      first,
      ...devices
        .filter((device) => device.deviceId !== "default")
        .map((device, i) => new Option(device.label || `Microphone ${i + 1}`, device.deviceId)),
    );
    select.value = this.device;
    if (select.selectedIndex < 0) select.value = "";
  }
}
