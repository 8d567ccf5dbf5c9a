// The page: connects the state, the controls, the pictures and the player.

import { Connection, toImage } from "./connection.js";
import { bindControls, showControls, showTime } from "./controls.js";
import { byId, press, setText } from "./dom.js";
import { dragging, onStage } from "./gestures.js";
import { Player } from "./player.js";
import { Requests, STRIP, THUMBNAIL_TIMES } from "./requests.js";
import { Saving } from "./saving.js";
import { Stage, pixelSide } from "./stage.js";
import { State } from "./state.js";

const MOTION_SIDE = 64;
const TIME_STEP = 100; // ms between changes of the time that the page says while playing
const ERROR_TIME = 6000; // ms that a sentence stays
const LINK_WAIT = 400; // ms; browsers refuse to change the address more often than about three times a second

const state = new State();
state.fromHash(location.hash);
let network = null;
let dirty = true;
let drawing = false;
let errorTimer = 0;
let timeShown = 0;

const stage = new Stage(byId("canvas"), state);
const player = new Player(state, {
  request: (times) => requests.frames(times),
  show: showFrame,
  end: (t) => state.set({ t, play: false }),
});
const saving = new Saving(state);
const connection = new Connection({ open, closed, picture, error });
const requests = new Requests(state, connection, {
  stage: () => [stage.canvas.width, stage.canvas.height],
  compared: () => square(pixelSide(byId("nearest"), network.scale, network.max_side)),
  slice: () => {
    const width = pixelSide(byId("slice-canvas"), network.scale, 512);
    return [width, Math.max(1, Math.round(width / 2))];
  },
  thumbnail: () => MOTION_SIDE,
});

const square = (side) => [side, side];

function open(description) {
  network = description;
  byId("status").textContent = "connected";
  byId("status").classList.remove("off");
  const { resolution } = network;
  const trained = network.trained && `, ${network.trained}`;
  const name = network.network.replace(/[\\/]+$/, "").split(/[\\/]/).pop();
  byId("network").textContent = `${name} (${resolution}×${resolution}${trained})`;
  byId("network").title = network.network;
  byId("label-field").hidden = !network.classes.length;
  byId("label").replaceChildren(...network.classes.map((name, value) => new Option(name, value)));
  if (network.classes.length) state.set({ label: Math.min(state.label, network.classes.length - 1) });
  byId("label").value = state.label;
  byId("clips").hidden = !network.clips.length;
  setText("clips", network.clips.map((clip, index) => `${index} is ${clip}`).join(", "));
  saving.describe(network);
  requests.reset();
  if (state.play) player.start();
  dirty = true;
}

function closed(reason) {
  byId("status").textContent = reason || "not connected, trying again";
  byId("status").classList.add("off");
}

function error(message) {
  byId("message").textContent = message;
  byId("message").hidden = false;
  clearTimeout(errorTimer);
  errorTimer = setTimeout(() => (byId("message").hidden = true), ERROR_TIME);
}

function picture(received) {
  const generation = requests.generation(received.kind);
  if (received.kind === "frames") {
    if (received.sharp) {
      if (received.generation === generation && !player.playing) stage.showSharp(received);
    } else if (player.playing) {
      player.take(received);
    } else if (received.generation >= stage.generation) {
      stage.showCoarse(received);
    }
    if (!player.playing) settled(received, generation);
    if (received.final) requests.settle(received.generation);
  } else if (received.kind === "enlarged") {
    put(byId(received.method), toImage(received));
  } else if (received.kind === "slice") {
    showSlice(received);
  } else if (received.generation === generation) {
    showMotion(received);
  }
}

/** Say that the stage shows what the state says, in full resolution. */
function settled(received, generation) {
  const whole = received.final && received.generation === generation;
  const { width } = stage.canvas;
  setText("size", received.sharp ? `${width}×${width} pixels` : `${received.width}×${received.height} pixels`);
  stage.canvas.dataset.settled = whole ? generation : "";
}

function showFrame(frame) {
  stage.showCoarse(frame);
  if (!player.playing) return;
  state.tick(frame.time);
  if (state.compare) requests.refresh(true);
  scheduleLink();
  const now = performance.now();
  if (now - timeShown < TIME_STEP) return; // changing what the page says costs more than the picture
  timeShown = now;
  setText("size", `${frame.width}×${frame.height} pixels`);
  setText("rate", `${player.rate.toFixed(0)} frames/s`);
  showTime(state);
}

function put(canvas, image) {
  if (canvas.width !== image.width || canvas.height !== image.height) Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const scratch = new OffscreenCanvas(1, 1);

function showSlice(rows) {
  const canvas = byId("slice-canvas");
  const [width, height] = requests.sizes.slice();
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  Object.assign(scratch, { width: rows.width, height: rows.height });
  scratch.getContext("2d").putImageData(toImage(rows), 0, 0);
  const context = canvas.getContext("2d");
  const [top, bottom] = [Math.round(rows.top * height), Math.round(rows.bottom * height)];
  context.imageSmoothingEnabled = rows.width !== width;
  context.drawImage(scratch, 0, top, width, bottom - top);
  canvas.dataset.settled = rows.final && rows.generation === requests.generation("slice") ? rows.generation : "";
}

// The strip: small clips that show the time of the stage.
const strip = new Map(); // motion -> picture
let stripFrame = -1; // that is drawn

function showMotion(clip) {
  strip.set(clip.motion, clip);
  stripFrame = -1;
}

function drawStrip() {
  const { from, to, t, strip: first } = state;
  if (Number(byId("motions").firstElementChild?.dataset.motion) !== first) buildStrip(first);
  const share = Math.min(0.999, Math.max(0, (t - from) / (to - from || 1)));
  const frame = Math.floor(share * THUMBNAIL_TIMES);
  if (frame === stripFrame) return;
  stripFrame = frame;
  for (const button of byId("motions").children) {
    const clip = strip.get(Number(button.dataset.motion));
    if (clip) put(button.firstElementChild, toImage(clip, frame));
  }
}

function buildStrip(first) {
  strip.clear();
  stripFrame = -1;
  const buttons = Array.from({ length: STRIP }, (_, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.motion = first + i;
    button.append(document.createElement("canvas"), String(first + i));
    button.onclick = () => state.set({ motion: first + i });
    return button;
  });
  byId("motions").replaceChildren(...buttons);
  showControls(state);
}

function showLine() {
  const { width } = stage.canvas;
  const ends = [["start", state.x0, state.y0], ["end", state.x1, state.y1]].map(([name, x, y]) => {
    const [left, top] = stage.toPixels(x, y).map((pixel) => (100 * pixel) / width);
    const handle = byId(`line-${name}`);
    handle.style.left = `${left}%`;
    handle.style.top = `${top}%`;
    return [left, top];
  });
  const line = byId("line").firstElementChild;
  for (const [i, [left, top]] of ends.entries()) {
    line.setAttribute(`x${i + 1}`, `${left}%`);
    line.setAttribute(`y${i + 1}`, `${top}%`);
  }
}

function pace() {
  return JSON.stringify([state.from, state.to, state.speed, state.reverse, state.loop]);
}

let lastPace = pace();

/** Bring the page to the state, once for each frame of the display. */
function update() {
  requestAnimationFrame(update);
  if (!network) return;
  if (state.play !== player.playing) {
    if (state.play) player.start();
    else player.stop();
    dirty = true;
  }
  if (player.playing) player.tick();
  if (stage.fit(network.scale, network.max_side)) dirty = true;
  if (dirty) {
    dirty = false;
    if (pace() !== lastPace) {
      lastPace = pace();
      if (player.playing) player.rebase();
    }
    showControls(state);
    stage.canvas.dataset.settled = player.playing || requests.refresh(false) ? "" : stage.canvas.dataset.settled;
    if (player.playing && requests.refresh(true)) player.restart();
    const slice = byId("slice-canvas").dataset;
    if (slice.settled !== String(requests.generation("slice"))) slice.settled = "";
    if (state.slice) showLine();
    stage.draw();
    scheduleLink();
  }
  drawStrip();
}

let linkTimer = null;

function scheduleLink() {
  document.body.dataset.link = "outdated";
  linkTimer ??= setTimeout(() => {
    linkTimer = null;
    delete document.body.dataset.link;
    const hash = state.toHash();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
    if (!player.playing) saving.showCommand();
  }, player.playing ? 5 * LINK_WAIT : LINK_WAIT);
}

function setDrawing(on) {
  drawing = on;
  press("draw", on);
  byId("stage").classList.toggle("drawing", on);
}

state.listen(() => (dirty = true));
addEventListener("hashchange", () => {
  state.fromHash(location.hash);
  if (player.playing && state.play) player.start(); // a link names the time, which the player's clock would overrule
});
addEventListener("resize", () => (dirty = true));
bindControls(state);
onStage(byId("stage"), stage, state, { drawing: () => drawing, drew: () => setDrawing(false) });
byId("draw").onclick = () => setDrawing(!drawing);
dragging(byId("slice-view"), {
  move: (event) => {
    const box = byId("slice-view").getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientY - box.top) / box.height));
    state.set({ t: state.from + (state.to - state.from) * share, play: false });
  },
});
update();
