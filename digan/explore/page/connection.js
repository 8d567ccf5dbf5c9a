// The WebSocket: it reconnects by itself, and gives pictures as {header fields, pixels}.

const SLOWEST = 4000; // ms between attempts to reconnect

export class Connection {
  #socket = null;
  #wait = 250;
  #id = 0;

  /** handlers: open(description), closed(reason), picture(picture), error(message) */
  constructor(handlers) {
    this.handlers = handlers;
    this.#connect();
  }

  /** Send a request and return its id, or null while there is no connection. */
  send(request) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return null;
    this.#id += 1;
    this.#socket.send(JSON.stringify({ ...request, id: this.#id }));
    return this.#id;
  }

  #connect() {
    const url = new URL("pictures", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.hash = "";
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#text(JSON.parse(data)) : this.#pixels(data));
    socket.onclose = ({ reason }) => {
      this.handlers.closed(reason);
      setTimeout(() => this.#connect(), this.#wait);
      this.#wait = Math.min(SLOWEST, this.#wait * 2);
    };
    this.#socket = socket;
  }

  #text(message) {
    if (message.kind === "error") return this.handlers.error(message.message);
    this.#wait = 250;
    this.handlers.open(message);
  }

  #pixels(data) {
    const length = new DataView(data).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    this.handlers.picture({ ...header, pixels: new Uint8Array(data, 4 + length) });
  }
}

/** Return pixels as ImageData: RGB, from the given frame on. */
export function toImage({ pixels, width, height }, frame = 0) {
  const image = new ImageData(width, height);
  const rgba = new Uint32Array(image.data.buffer);
  let from = frame * width * height * 3;
  for (let i = 0; i < rgba.length; i += 1, from += 3) {
    rgba[i] = 0xff000000 | (pixels[from + 2] << 16) | (pixels[from + 1] << 8) | pixels[from]; // little-endian
  }
  return image;
}
