// What the page shows, as one flat object. The address bar holds every value that differs from its default.

const number = (digits, minimum, maximum) => ({
  read: (text) => {
    const value = Number(text);
    if (text === "" || !Number.isFinite(value)) return undefined;
    return Number(Math.min(maximum, Math.max(minimum, value)).toFixed(digits));
  },
});
const integer = (maximum) => number(0, 0, maximum);
const flag = { read: (text) => (typeof text === "boolean" ? text : text === "1") };

const INDEX = 2 ** 31 - 1;
const position = number(6, -900, 900);
const time = number(4, -1000, 1000);
const FIELDS = {
  seed: [0, integer(Number.MAX_SAFE_INTEGER)],
  a: [0, integer(INDEX)],
  b: [1, integer(INDEX)],
  c: [2, integer(INDEX)],
  d: [3, integer(INDEX)],
  u: [0, number(3, 0, 1)],
  v: [0, number(3, 0, 1)],
  psi: [1, number(3, -10, 10)],
  label: [0, integer(INDEX)],
  motion: [0, integer(INDEX)],
  strip: [0, integer(INDEX)], // first motion of the strip
  t: [0, time],
  from: [0, time],
  to: [1, time],
  speed: [0.5, number(4, 0.0001, 100)],
  reverse: [false, flag],
  loop: [true, flag],
  play: [false, flag],
  x: [0, position],
  y: [0, position],
  half: [1, number(6, 0.0001, 100)], // half the width of the window
  compare: [false, flag],
  slice: [false, flag],
  x0: [-0.9, position],
  y0: [0, position],
  x1: [0.9, position],
  y1: [0, position],
};

export class State {
  #values = {};
  #listeners = [];

  constructor() {
    for (const [name, [initial]] of Object.entries(FIELDS)) {
      this.#values[name] = initial;
      Object.defineProperty(this, name, { get: () => this.#values[name], enumerable: true });
    }
  }

  /** Change values; those that are not numbers are left as they are. */
  set(changes) {
    let changed = false;
    for (const [name, value] of Object.entries(changes)) {
      const read = FIELDS[name][1].read(value);
      if (read === undefined || Object.is(read, this.#values[name])) continue;
      this.#values[name] = read === 0 ? 0 : read; // not -0
      changed = true;
    }
    if (changed) for (const listener of this.#listeners) listener();
  }

  /** Change the time without telling anyone: while playing, it changes with every frame. */
  tick(t) {
    this.#values.t = FIELDS.t[1].read(t);
  }

  listen(listener) {
    this.#listeners.push(listener);
  }

  fromHash(hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    const values = Object.entries(FIELDS).map(([name, [initial]]) => [name, given.get(name) ?? initial]);
    this.set(Object.fromEntries(values));
  }

  toHash() {
    const given = new URLSearchParams();
    for (const [name, [initial]] of Object.entries(FIELDS)) {
      const value = this.#values[name];
      if (value !== initial) given.set(name, value === true ? "1" : value === false ? "0" : String(value));
    }
    return given.toString();
  }

  get window() {
    const { x, y, half } = this;
    return { x: [x - half, x + half], y: [y - half, y + half] };
  }

  get content() {
    const { seed, a, b, c, d, u, v, psi, label } = this;
    return { seed, contents: [a, b, c, d], pad: [u, v], psi, label };
  }

  get line() {
    return [this.x0, this.y0, this.x1, this.y1];
  }
}
