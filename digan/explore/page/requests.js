// Which pictures are needed: each kind is asked for when what it depends on has changed, and a change makes a new
// generation, by which the server drops what is out of date.

const REST = 150; // ms without a change after which things are at rest
export const THUMBNAIL_TIMES = 6;
export const STRIP = 8; // motions beside each other

export class Requests {
  #generations = {};
  #keys = {};
  #waiting = {}; // kind -> timer
  #sharpened = 0; // generation of frames for which a sharp picture was asked

  constructor(state, connection, sizes) {
    Object.assign(this, { state, connection, sizes });
  }

  /** Ask for everything again: the connection is new. */
  reset() {
    this.#keys = {};
  }

  generation(kind) {
    return this.#generations[kind] ?? 0;
  }

  /** Ask for what has changed. `playing`: the player asks for frames itself, and is told by the return value. */
  refresh(playing) {
    const { state, sizes } = this;
    const clip = { ...state.content, motion: state.motion };
    const view = { ...clip, ...state.window, size: sizes.stage() };
    const still = { ...view, times: [state.t] };
    const changed = this.#note("frames", playing ? { ...view, playing } : still);
    if (changed && !playing) {
      this.#send("frames", { ...still, sharp: false });
      this.#atRest("frames", () => this.#sharpen(still));
    } else if (changed) {
      clearTimeout(this.#waiting.frames);
    }
    if (state.compare) {
      const enlarged = { ...clip, ...state.window, time: state.t, size: sizes.compared() };
      if (this.#note("enlarged", enlarged)) this.#atRest("enlarged", () => this.#send("enlarged", enlarged), playing ? 0 : 60);
    }
    const span = [state.from, state.to];
    if (state.slice) {
      const slice = { ...clip, line: state.line, span, size: sizes.slice() };
      if (this.#note("slice", slice)) this.#atRest("slice", () => this.#send("slice", slice));
    }
    const times = Array.from({ length: THUMBNAIL_TIMES }, (_, i) => state.from + ((state.to - state.from) * (i + 0.5)) / THUMBNAIL_TIMES);
    const motions = Array.from({ length: STRIP }, (_, i) => state.strip + i);
    const strip = { ...state.content, motion: 0, motions, times, side: sizes.thumbnail() };
    if (this.#note("motions", strip)) this.#atRest("motions", () => this.#send("motions", strip), 2 * REST);
    return changed;
  }

  /** Note that the stage has the full resolution already. */
  settle(generation) {
    this.#sharpened = generation;
  }

  /** Ask for frames at several times, for the player. */
  frames(times) {
    const { state, sizes } = this;
    return this.#send("frames", {
      ...state.content, motion: state.motion, ...state.window, size: sizes.stage(), times, sharp: false,
    });
  }

  #sharpen(still) {
    const generation = this.generation("frames");
    if (this.#sharpened === generation) return;
    this.#sharpened = generation;
    this.#send("frames", { ...still, sharp: true });
  }

  #note(kind, request) {
    const key = JSON.stringify(request);
    if (this.#keys[kind] === key) return false;
    this.#keys[kind] = key;
    this.#generations[kind] = this.generation(kind) + 1;
    return true;
  }

  #atRest(kind, act, wait = REST) {
    if (wait === 0) return act();
    clearTimeout(this.#waiting[kind]);
    this.#waiting[kind] = setTimeout(act, wait);
  }

  #send(kind, request) {
    return this.connection.send({ kind, generation: this.generation(kind), ...request });
  }
}
