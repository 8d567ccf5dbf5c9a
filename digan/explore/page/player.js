// Playing: frames are asked for ahead of a clock, at the pace at which the server can render, and shown in time.

const AHEAD = 0.5; // seconds of frames to have at most
const AT_ONCE = 2; // frames of a request: they share work; more would delay the answer to a drag
const REQUESTS = 2; // one at work and one waiting
const LOST = 10000; // ms after which a request was lost, as by an error

export class Player {
  #started = 0; // when play seconds began, ms
  #origin = 0; // time of the video then
  #next = 0; // play seconds of the next frame to ask for
  #last = 0; // id of the last request
  #before = 0; // id of the last request before the clock was set
  #asked = new Map(); // id -> play seconds of its frames
  #frames = []; // [play seconds, picture], to be shown
  #shown = []; // when the last frames were shown, ms
  #arrived = 0; // when the last frames of a request arrived, ms
  #delay = 0.1; // seconds from a request to its frames
  #interval = 1 / 24;

  /** request(times) sends a request and returns its id; show(picture) draws; end() is called at the end. */
  constructor(state, { request, show, end }) {
    Object.assign(this, { state, request, show, end });
    this.playing = false;
  }

  /** Play from the time of the state, also if it plays already. */
  start() {
    const { state } = this;
    this.#before = this.#last; // its frames would set the time back
    const [first, last] = this.#ends();
    const past = (state.t - last) * Math.sign(last - first) >= 0;
    this.#origin = past && !state.loop ? first : state.t;
    this.#started = performance.now();
    this.playing = true;
    this.restart();
  }

  stop() {
    this.playing = false;
  }

  /** Ask again: what is shown has changed, or the connection was lost. */
  restart() {
    this.#asked.clear();
    this.#frames.length = 0;
    this.#next = this.#now();
    this.#ask();
  }

  /** Play on from where the clock is, after a change of speed, direction or ends. */
  rebase() {
    this.#origin = this.state.t;
    this.#started = performance.now();
    this.restart();
  }

  take(picture) {
    if (picture.id <= this.#before) return;
    const seconds = this.#asked.get(picture.id);
    if (seconds === undefined) {
      if (!this.#frames.length) this.show(picture); // of before a change, but newer than what is there
      return;
    }
    const entry = seconds.frames.shift();
    this.#frames.push([entry, picture]);
    if (!seconds.frames.length) {
      this.#asked.delete(picture.id);
      const now = performance.now();
      const working = (now - Math.max(seconds.sent, this.#arrived)) / 1000; // it may have waited for the one before
      this.#interval += 0.2 * (Math.max(1 / 60, working / AT_ONCE) - this.#interval);
      this.#delay += 0.2 * ((now - seconds.sent) / 1000 - this.#delay);
      this.#arrived = now;
    }
    this.#ask();
  }

  /** Show what is due; called for every frame of the display. */
  tick() {
    const now = this.#now();
    let due = null;
    while (this.#frames.length && this.#frames[0][0] <= now) due = this.#frames.shift();
    if (due !== null) {
      this.show(due[1]);
      this.#shown.push(performance.now());
    }
    const [first, last] = this.#ends();
    if (!this.state.loop && (this.#timeAt(now) - last) * Math.sign(last - first || 1) >= 0) return this.end(last);
    this.#ask();
  }

  /** Frames per second of the last two seconds. */
  get rate() {
    const since = performance.now() - 2000;
    while (this.#shown.length && this.#shown[0] < since) this.#shown.shift();
    const span = performance.now() - this.#shown[0];
    return this.#shown.length > 1 ? (1000 * (this.#shown.length - 1)) / span : 0;
  }

  #now() {
    return (performance.now() - this.#started) / 1000;
  }

  #ends() {
    const { from, to, reverse } = this.state;
    return reverse ? [to, from] : [from, to];
  }

  #timeAt(seconds) {
    const { state } = this;
    const [first, last] = this.#ends();
    const t = this.#origin + Math.sign(last - first || 1) * state.speed * seconds;
    if (first === last) return last;
    if (!state.loop) return first < last ? Math.min(t, last) : Math.max(t, last);
    const length = last - first;
    const share = (t - first) / length;
    return first + length * (share - Math.floor(share));
  }

  #ask() {
    for (const [id, { sent }] of this.#asked) if (performance.now() - sent > LOST) this.#asked.delete(id);
    while (this.playing && this.#asked.size < REQUESTS) {
      const now = this.#now();
      const start = Math.max(this.#next, now + Math.min(this.#delay, AHEAD));
      if (start > now + AHEAD) return;
      const frames = Array.from({ length: AT_ONCE }, (_, i) => start + i * this.#interval);
      const id = this.request(frames.map((seconds) => this.#timeAt(seconds)));
      if (id === null) return;
      this.#last = id;
      this.#asked.set(id, { frames, sent: performance.now() });
      this.#next = start + AT_ONCE * this.#interval;
    }
  }
}
