// Files, links and commands of what is seen.

import { byId } from "./dom.js";

const LEAST_FPS = 0.1; // of the server
const NAMES = { pixels: "Pixels", fps: "Frames/s" };

export class Saving {
  #abort = null;
  #asked = null; // the last request for a command
  #command = null; // the reply to it

  constructor(state) {
    this.state = state;
    byId("download").onclick = () => (this.#abort ? this.#abort.abort() : this.#download());
    byId("copy-link").onclick = () => this.#copy(location.href, "The link");
    byId("copy-command").onclick = () => this.#copyCommand();
    for (const id of ["format", "pixels", "fps"]) byId(id).onchange = () => this.showCommand();
  }

  describe(network) {
    this.network = network;
    const pixels = byId("pixels");
    pixels.max = network.max_file_side;
    pixels.step = pixels.min = network.scale;
    if (!pixels.value) pixels.value = Math.min(network.max_file_side, 2 * network.resolution);
  }

  /** Return what the server is asked for. Throws a Refusal if the fields do not say. */
  get request() {
    const { state, network } = this;
    const format = byId("format").value;
    const scale = network.scale;
    const side = Math.max(scale, Math.round(positive("pixels") / scale) * scale);
    const ends = state.reverse ? [state.to, state.from] : [state.from, state.to];
    const video = format === "mp4" || format === "gif";
    const fps = video ? this.#rate() : 1; // of pictures it means nothing
    const seconds = Math.abs(state.to - state.from) / state.speed;
    const moving = Math.min(network.max_frames, Math.max(2, Math.round(seconds * fps) + 1));
    const frames = { png: 1, slice: Math.min(side, network.max_frames) }[format] ?? moving;
    return {
      ...state.content, motion: state.motion, ...state.window, line: state.line, format, fps, frames,
      span: format === "png" ? [state.t, state.t] : format === "slice" ? [state.from, state.to] : ends,
      size: [side, side],
    };
  }

  /** Return the frames per second of a video: fewer than the field says if a file cannot hold as many frames. */
  #rate() {
    const { state, network } = this;
    const wanted = positive("fps");
    const seconds = Math.abs(state.to - state.from) / state.speed;
    const most = network.max_frames - 1; // intervals
    if (seconds * wanted <= most || wanted > Number(byId("fps").max)) return wanted; // the server refuses the latter
    const fps = Number((most / seconds).toPrecision(6));
    if (fps >= LEAST_FPS) return fps;
    const longest = most / LEAST_FPS;
    throw new Refusal(`At this speed the video lasts ${Math.round(seconds)} s; a file holds ${longest} s: raise the speed.`);
  }

  /** Say if the video has fewer frames per second than the field says, or why there is none; return the request or null. */
  #checked() {
    const note = byId("file-rate");
    note.hidden = true;
    try {
      const request = this.request;
      const fewer = request.fps < Number(byId("fps").value) && request.frames > 1 && request.format !== "slice";
      note.textContent = `${request.fps} frames/s: a file holds ${this.network.max_frames} frames`;
      note.hidden = !fewer;
      return request;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      note.textContent = error.message;
      note.hidden = false;
      return null;
    }
  }

  /** Show the command of the file and return it, or null if there is none; the server is asked when it has changed. */
  async showCommand() {
    const request = this.#checked();
    const body = request && JSON.stringify(request);
    if (body === null || body !== this.#asked) {
      this.#asked = body;
      this.#command = body === null ? null : post("command", body).then((reply) => reply?.json());
    }
    const command = (await this.#command)?.command ?? null;
    if (body === this.#asked) {
      byId("command").value = command ?? ""; // that of before is not the command of this file
      if (command === null) this.#asked = null;
    }
    return command;
  }

  async #download() {
    const request = this.#checked();
    if (request === null) return;
    const { format, frames } = request;
    this.#abort = new AbortController();
    const button = byId("download");
    button.textContent = "Cancel";
    tell(`rendering ${frames === 1 ? "a frame" : `${frames} ${format === "slice" ? "rows" : "frames"}`} …`);
    try {
      const reply = await post("file", JSON.stringify(request), this.#abort.signal);
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

  async #copyCommand() {
    const command = await this.showCommand();
    if (command) await this.#copy(command, "The command"); // otherwise the page says why there is none
  }

  async #copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      tell(`${what} is copied.`);
    } catch {
      // Only pages of https and of this machine may write to the clipboard.
      const box = byId("command");
      box.value = text;
      this.#asked = null;
      box.select();
      tell("Copy the selected text.");
    }
  }
}

/** A sentence about why there is no file. */
class Refusal extends Error {}

/** Return the positive number in a field. */
function positive(id) {
  const value = Number(byId(id).value);
  if (value > 0) return value; // that of an empty field is 0
  throw new Refusal(`${NAMES[id]} must be a number above 0.`);
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
