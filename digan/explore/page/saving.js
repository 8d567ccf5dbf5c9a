// Files, links and commands of what is seen.

import { byId } from "./dom.js";

const MOST_SECONDS = 3600;

export class Saving {
  #abort = null;
  #asked = "";

  constructor(state) {
    this.state = state;
    byId("download").onclick = () => (this.#abort ? this.#abort.abort() : this.#download());
    byId("copy-link").onclick = () => this.#copy(location.href, "The link");
    byId("copy-command").onclick = async () => this.#copy(await this.showCommand(), "The command");
    for (const id of ["format", "pixels", "fps"]) byId(id).onchange = () => this.showCommand();
  }

  describe(network) {
    this.network = network;
    const pixels = byId("pixels");
    pixels.max = network.max_file_side;
    pixels.step = pixels.min = network.scale;
    if (!pixels.value) pixels.value = Math.min(network.max_file_side, 2 * network.resolution);
  }

  /** Return what the server is asked for. */
  get request() {
    const { state, network } = this;
    const format = byId("format").value;
    const scale = network.scale;
    const side = Math.max(scale, Math.round(Number(byId("pixels").value) / scale) * scale);
    const fps = Number(byId("fps").value);
    const ends = state.reverse ? [state.to, state.from] : [state.from, state.to];
    const seconds = Math.min(MOST_SECONDS, Math.abs(state.to - state.from) / state.speed);
    const moving = Math.min(network.max_frames, Math.max(2, Math.round(seconds * fps) + 1));
    const frames = { png: 1, slice: Math.min(side, network.max_frames) }[format] ?? moving;
    return {
      ...state.content, motion: state.motion, ...state.window, line: state.line, format, fps, frames,
      span: format === "png" ? [state.t, state.t] : format === "slice" ? [state.from, state.to] : ends,
      size: [side, side],
    };
  }

  /** Show the command of the file and return it; the server is asked when it has changed. */
  async showCommand() {
    const body = JSON.stringify(this.request);
    if (body !== this.#asked) {
      const reply = await post("command", body);
      if (reply === null) return byId("command").value;
      this.#asked = body;
      byId("command").value = (await reply.json()).command;
    }
    return byId("command").value;
  }

  async #download() {
    const { format, frames } = this.request;
    this.#abort = new AbortController();
    const button = byId("download");
    button.textContent = "Cancel";
    tell(`rendering ${frames === 1 ? "a frame" : `${frames} ${format === "slice" ? "rows" : "frames"}`} …`);
    try {
      const reply = await post("file", JSON.stringify(this.request), this.#abort.signal);
      if (reply === null) return;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await reply.blob());
      link.download = format === "slice" ? "digan-slice.png" : `digan.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      tell(`saved ${link.download}`);
    } catch (error) {
      tell(error.name === "AbortError" ? "cancelled" : "the server cannot be reached");
    } finally {
      this.#abort = null;
      button.textContent = "Download";
    }
  }

  async #copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      tell(`${what} is copied.`);
    } catch {
      // Only pages of https and of this machine may write to the clipboard.
      const box = byId("command");
      box.value = text;
      this.#asked = "";
      box.select();
      tell("Copy the selected text.");
    }
  }
}

function tell(text) {
  byId("saving").textContent = text;
}

/** Return the reply, or null after showing why there is none. */
async function post(path, body, signal) {
  let reply;
  try {
    reply = await fetch(path, { method: "POST", body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell("the server cannot be reached");
    return null;
  }
  if (reply.ok) return reply;
  tell((await reply.json()).error);
  return null;
}
