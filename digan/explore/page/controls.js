// The panel: fields and buttons that change the state, and show it.

import { byId, press, showValue } from "./dom.js";
import { dragging, zoom } from "./gestures.js";

const FIELDS = ["seed", "a", "b", "c", "d", "psi", "label", "motion", "speed", "from", "to", "x", "y", "half"];
const ICONS = { play: "M7 4l13 8-13 8z", pause: "M6 4h4v16H6zM14 4h4v16h-4z" };
const PAN = 0.1; // share of the window
const STEP = 0.02; // of time
const THEMES = ["auto", "dark", "light"];

export function bindControls(state) {
  for (const id of FIELDS) byId(id).addEventListener("input", () => state.set({ [id]: byId(id).value }));
  for (const id of FIELDS) byId(id).addEventListener("change", () => (byId(id).value = state[id]));
  for (const id of ["t", "t-number"]) {
    byId(id).addEventListener("input", () => state.set({ t: byId(id).value, play: false }));
  }
  const actions = {
    play: () => state.set({ play: !state.play }),
    reverse: () => state.set({ reverse: !state.reverse }),
    loop: () => state.set({ loop: !state.loop }),
    compare: () => state.set({ compare: !state.compare }),
    slice: () => state.set({ slice: !state.slice }),
    reset: () => state.set({ x: 0, y: 0, half: 1 }),
    "zoom-in": () => zoom(state, 1.5),
    "zoom-out": () => zoom(state, 1 / 1.5),
    shuffle: () => shuffle(state),
    earlier: () => state.set({ strip: state.strip - 8 }),
    later: () => state.set({ strip: state.strip + 8 }),
    help: () => byId("keys").showModal(),
  };
  for (const [id, act] of Object.entries(actions)) byId(id).onclick = act;
  bindPad(state);
  bindLine(state);
  bindKeys(state, actions);
  bindTheme();
}

function shuffle(state) {
  const first = Math.max(state.a, state.b, state.c, state.d) + 1;
  state.set({ a: first, b: first + 1, c: first + 2, d: first + 3 });
}

function bindPad(state) {
  const pad = byId("pad");
  dragging(pad, {
    move: (event) => {
      const box = pad.getBoundingClientRect();
      state.set({ u: (event.clientX - box.left) / box.width, v: (event.clientY - box.top) / box.height });
    },
  });
  pad.addEventListener("keydown", (event) => {
    const move = arrow(event, 0.05);
    if (move) state.set({ u: state.u + move[0], v: state.v - move[1] });
  });
}

function bindLine(state) {
  for (const [id, x, y] of [["line-start", "x0", "y0"], ["line-end", "x1", "y1"]]) {
    const handle = byId(id);
    const stage = byId("stage");
    dragging(handle, {
      move: (event) => {
        const box = stage.getBoundingClientRect();
        const { window } = state;
        state.set({
          [x]: window.x[0] + (2 * state.half * (event.clientX - box.left)) / box.width,
          [y]: window.y[1] - (2 * state.half * (event.clientY - box.top)) / box.height,
        });
      },
    });
    handle.addEventListener("keydown", (event) => {
      const move = arrow(event, 0.05 * state.half);
      if (move) state.set({ [x]: state[x] + move[0], [y]: state[y] + move[1] });
    });
  }
}

/** Return the step of an arrow key, and keep it from others; null for other keys. */
function arrow(event, step) {
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  const move = moves[event.key];
  if (!move || event.ctrlKey || event.metaKey || event.altKey) return null;
  event.preventDefault();
  event.stopPropagation();
  return move;
}

function bindKeys(state, actions) {
  const step = (sign) => state.set({ t: state.t + sign * STEP, play: false });
  const keys = {
    " ": actions.play,
    ",": () => step(-1),
    ".": () => step(1),
    "[": () => state.set({ speed: state.speed / 1.25 }),
    "]": () => state.set({ speed: state.speed * 1.25 }),
    "+": actions["zoom-in"],
    "=": actions["zoom-in"],
    "-": actions["zoom-out"],
    0: actions.reset,
    r: actions.reverse,
    l: actions.loop,
    c: actions.compare,
    s: actions.slice,
    n: actions.shuffle,
    m: () => state.set({ motion: state.motion + 1 }),
    "?": actions.help,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const { tagName, type } = event.target;
    if (tagName === "TEXTAREA" || tagName === "SELECT" || (tagName === "INPUT" && type !== "range")) return;
    if (tagName === "BUTTON" && event.key === " ") return; // presses the button
    const move = tagName === "INPUT" ? null : arrow(event, 2 * PAN * state.half);
    if (move) return state.set({ x: state.x + move[0], y: state.y + move[1] });
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function bindTheme() {
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    byId("theme").textContent = `Theme: ${theme}`;
  };
  let theme = stored();
  show(theme);
  byId("theme").onclick = () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    show(theme);
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // without storage, the theme lasts as long as the page
    }
  };
}

function stored() {
  try {
    const theme = localStorage.getItem("theme");
    return THEMES.includes(theme) ? theme : "auto";
  } catch {
    return "auto";
  }
}

/** Show the state in the controls. */
export function showControls(state) {
  for (const id of FIELDS) showValue(id, state[id]);
  for (const id of ["reverse", "loop", "compare", "slice"]) press(id, state[id]);
  byId("play").querySelector("path").setAttribute("d", state.play ? ICONS.pause : ICONS.play);
  byId("play").querySelector("span").textContent = state.play ? "Pause" : "Play";
  byId("views").classList.toggle("comparing", state.compare);
  byId("knob").style.left = `${100 * state.u}%`;
  byId("knob").style.top = `${100 * state.v}%`;
  byId("mix").textContent = `at ${state.u}, ${state.v}`;
  byId("earlier").disabled = state.strip === 0;
  for (const button of byId("motions").children) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.motion) === state.motion));
  }
  for (const id of ["line", "line-start", "line-end", "draw", "slice-view"]) byId(id).toggleAttribute("hidden", !state.slice);
  document.querySelector("#slicing .hint").hidden = !state.slice;
  showTimeline(state);
}

function showTimeline(state) {
  const low = Math.min(-0.5, state.from, state.to, Math.floor(state.t * 2) / 2);
  const high = Math.max(1.5, state.from, state.to, Math.ceil(state.t * 2) / 2);
  const range = byId("t");
  range.min = low;
  range.max = high;
  range.step = (high - low) / 2000;
  const percent = (t) => `${(100 * (t - low)) / (high - low)}%`;
  const place = (id, start, end) => {
    byId(id).style.left = percent(Math.min(start, end));
    byId(id).style.right = `calc(100% - ${percent(Math.max(start, end))})`;
  };
  place("trained", 0, 1);
  place("span", state.from, state.to);
  showTime(state);
}

/** Show the time alone, which changes with every frame while playing. */
export function showTime(state) {
  showValue("t", state.t);
  showValue("t-number", state.t.toFixed(3));
  const share = (state.t - state.from) / (state.to - state.from || 1);
  const now = byId("slice-now");
  now.hidden = share < 0 || share > 1;
  now.style.top = `${100 * share}%`;
}
