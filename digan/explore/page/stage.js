// The video: a coarse picture, and over it a sharp one that fills from the top. Each keeps the window it shows, so that
// what is there follows a drag at once, before the next picture comes.

import { toImage } from "./connection.js";

class Layer {
  constructor() {
    this.canvas = new OffscreenCanvas(1, 1);
    this.context = this.canvas.getContext("2d");
    this.window = null; // of the whole canvas; null for an empty one
  }

  resize(width, height) {
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height });
    }
  }
}

export class Stage {
  #coarse = new Layer();
  #sharp = new Layer();
  generation = 0; // of what is shown

  constructor(canvas, state) {
    this.canvas = canvas;
    this.state = state;
    this.context = canvas.getContext("2d", { alpha: false });
  }

  /** Make the canvas as many device pixels as it covers, a multiple of `scale`. Return whether that changed it. */
  fit(scale, most) {
    const side = pixelSide(this.canvas, scale, most);
    if (side === this.canvas.width) return false;
    this.canvas.width = this.canvas.height = side;
    this.draw();
    return true;
  }

  showCoarse(picture) {
    this.#coarse.resize(picture.width, picture.height);
    this.#coarse.context.putImageData(toImage(picture), 0, 0);
    this.#coarse.window = { x: picture.x, y: picture.y };
    this.#sharp.window = null;
    this.generation = picture.generation;
    this.draw();
  }

  /** Add rows of a sharp picture of the window. */
  showSharp(picture) {
    const sharp = this.#sharp;
    const { window } = this.state;
    if (sharp.window === null || this.generation !== picture.generation) {
      sharp.resize(this.canvas.width, this.canvas.height);
      sharp.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      sharp.window = window;
    }
    const top = ((sharp.window.y[1] - picture.y[1]) / (sharp.window.y[1] - sharp.window.y[0])) * this.canvas.height;
    sharp.context.putImageData(toImage(picture), 0, Math.round(top));
    this.generation = picture.generation;
    this.draw();
  }

  draw() {
    const { context, canvas } = this;
    context.fillStyle = "#808080";
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (const layer of [this.#coarse, this.#sharp]) {
      if (layer.window === null) continue;
      const [left, top] = this.toPixels(layer.window.x[0], layer.window.y[1]);
      const [right, bottom] = this.toPixels(layer.window.x[1], layer.window.y[0]);
      context.imageSmoothingEnabled = right - left !== layer.canvas.width;
      context.drawImage(layer.canvas, left, top, right - left, bottom - top);
    }
  }

  /** Return the whole canvas pixel at a position of the plane. */
  toPixels(x, y) {
    const { window } = this.state;
    const { width, height } = this.canvas;
    return [
      Math.round(((x - window.x[0]) / (window.x[1] - window.x[0])) * width),
      Math.round(((window.y[1] - y) / (window.y[1] - window.y[0])) * height),
    ];
  }

  /** Return the position in the plane of a pointer. */
  toPlane(event) {
    const box = this.canvas.getBoundingClientRect();
    const { window } = this.state;
    const across = (event.clientX - box.left) / box.width;
    const down = (event.clientY - box.top) / box.height;
    return [
      window.x[0] + (window.x[1] - window.x[0]) * across,
      window.y[1] - (window.y[1] - window.y[0]) * down,
    ];
  }
}

/** Return the device pixels per side of a canvas, a multiple of `scale`. */
export function pixelSide(canvas, scale, most) {
  const side = Math.min(most, canvas.clientWidth * devicePixelRatio);
  return Math.max(scale, Math.floor(side / scale) * scale);
}
