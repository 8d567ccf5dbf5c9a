// Pointers and wheel: pan, zoom and draw on the stage, drag on the pad and the slice.

/** Call `move(event)` while a pointer that went down on `element` is dragged; `down(event)` false ignores it. */
export function dragging(element, { down, move, up = () => {} }) {
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || down?.(event) === false) return;
    element.setPointerCapture(event.pointerId);
    const end = () => {
      element.removeEventListener("pointermove", move);
      element.removeEventListener("pointerup", end);
      element.removeEventListener("pointercancel", end);
      up();
    };
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerup", end);
    element.addEventListener("pointercancel", end);
    move(event);
  });
}

/** Zoom by a factor, with the position (x, y) of the plane staying where it is. */
export function zoom(state, factor, x = state.x, y = state.y) {
  const half = Math.min(100, Math.max(0.0001, state.half / factor));
  const share = half / state.half;
  state.set({ half, x: x + (state.x - x) * share, y: y + (state.y - y) * share });
}

/** Pan by drag, zoom by wheel and by two fingers; draw a line with shift or where `drawing()`. */
export function onStage(element, stage, state, { drawing, drew }) {
  const pointers = new Map();
  let drawn = false;

  const middle = () => {
    const points = [...pointers.values()];
    const clientX = points.reduce((sum, p) => sum + p.clientX, 0) / points.length;
    const clientY = points.reduce((sum, p) => sum + p.clientY, 0) / points.length;
    const spread = points.length < 2 ? 0 : Math.hypot(points[0].clientX - points[1].clientX, points[0].clientY - points[1].clientY);
    return { clientX, clientY, spread };
  };

  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("button")) return;
    element.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    drawn = pointers.size === 1 && (event.shiftKey || drawing());
    if (drawn) {
      const [x, y] = stage.toPlane(event);
      state.set({ slice: true, x0: x, y0: y, x1: x, y1: y });
    }
    element.classList.add("dragging");
  });
  element.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    if (drawn) {
      const [x1, y1] = stage.toPlane(event);
      return state.set({ x1, y1 });
    }
    const before = middle();
    pointers.set(event.pointerId, event);
    const after = middle();
    if (before.spread && after.spread) zoom(state, after.spread / before.spread, ...stage.toPlane(after));
    const [fromX, fromY] = stage.toPlane(before);
    const [toX, toY] = stage.toPlane(after);
    state.set({ x: state.x + fromX - toX, y: state.y + fromY - toY });
  });
  const end = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (drawn) drew();
    drawn = false;
    if (!pointers.size) element.classList.remove("dragging");
  };
  element.addEventListener("pointerup", end);
  element.addEventListener("pointercancel", end);
  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 20 : 1;
    zoom(state, Math.exp(-event.deltaY * lines * 0.0015), ...stage.toPlane(event));
  }, { passive: false });
}
