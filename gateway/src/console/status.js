// What stands above every view: whether the server is heard, and what is wrong.

import { byId, h } from "./dom.js";

/** Shows how the connection is: `good`, `warn`, `bad` or nothing. */
export function connection(state, text) {
  const pill = byId("connection");
  pill.className = `pill ${state}`;
  if (pill.textContent !== text) pill.textContent = text;
}

/** Shows a problem until the next; an empty text takes it away. */
export function problem(text) {
  const place = byId("problem");
  if (place.textContent === text) return;
  place.replaceChildren(...(text ? [h("p", { class: "notice" }, text)] : []));
}
