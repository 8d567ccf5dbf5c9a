// Small helpers for elements.

export const byId = (id) => document.getElementById(id);

export function press(id, pressed) {
  byId(id).setAttribute("aria-pressed", String(pressed));
}

/** Show a number in a field, unless someone is typing there. */
export function showValue(id, value) {
  const field = byId(id);
  if (document.activeElement !== field || field.type === "range") field.value = value;
}

export function setText(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}
