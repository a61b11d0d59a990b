// Parts that several views are made of: pills, cards, tiles, tables, and the table of actors.

import { h } from "./dom.js";
import { count, duration, micros, plural, rate } from "./text.js";
import { TREND_POINTS, actorKey, trees } from "./tree.js";

/** A mailbox that is fuller than this is worth a look. */
export const MAILBOX_WARNING = 0.8;

const STATES = { ok: "good", active: "good", starting: "warn", stopping: "warn", draining: "warn" };

export const pill = (text, state = STATES[text] ?? "bad") =>
  h("span", { class: `pill ${state}` }, text);
export const card = (title, ...content) =>
  h("section", { class: "card" }, h("h2", {}, title), content);
export const empty = (text) => h("p", { class: "empty" }, text);
export const href = (kind, id) => `#/actor/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;

export function spark(values, label) {
  if (!values || values.length < 2) return null;
  const top = Math.max(...values, 1);
  const x = (index) => ((index / (TREND_POINTS - 1)) * 100).toFixed(1);
  const y = (value) => (19 - (value / top) * 18).toFixed(1);
  const points = values.map((value, index) => `${x(index)},${y(value)}`);
  const box = { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img" };
  const line = h("polyline", { points: points.join(" ") });
  return h("svg", { ...box, "aria-label": label }, line);
}

export const tile = (label, value, note, chart) =>
  h("div", { class: "tile" },
    h("dt", {}, label),
    h("dd", { class: "value" }, value),
    note ? h("dd", { class: "note" }, note) : null,
    chart ? h("dd", {}, chart) : null);

/** A table; a column is `[title, cell of a row, whether it is a number]`. */
export function table(caption, columns, rows, keyOfRow, isCurrent = () => false) {
  const head = columns.map(([title, , isNumber]) =>
    h("th", { scope: "col", class: isNumber ? "number" : null }, title));
  const body = rows.map((row) =>
    h("tr", { "data-key": keyOfRow(row), "aria-current": isCurrent(row) ? "true" : null },
      columns.map(([title, cell, isNumber]) =>
        h("td", { "data-label": title, class: isNumber ? "number" : null },
          h("span", {}, cell(row))))));
  const caption_ = caption ? h("caption", {}, caption) : null;
  const parts = [caption_, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)];
  return h("div", { class: "scroll" }, h("table", {}, parts));
}

export const mailbox = ({ mailbox: waiting, mailbox_max: max }) =>
  h("span", { class: "meter" },
    h("meter", {
      value: waiting, max, high: max * MAILBOX_WARNING, "aria-label": "Mailbox in use",
    }),
    `${count(waiting)}/${count(max)}`);

export const current = (actor) =>
  actor.command
    ? [h("code", {}, actor.command), h("span", { class: "turn" }, ` ${duration(actor.command_ms)}`)]
    : "–";

export function troubles({ crashes, last_error }) {
  const suspect = crashes.suspects[0];
  const parts = [];
  if (crashes.quarantine) parts.push(pill("quarantine", "bad"), " ");
  if (crashes.recent) parts.push(`${plural(crashes.recent, "crash", "crashes")} in a minute`);
  if (suspect) parts.push("; suspect ", h("code", {}, suspect[0]), `: ${suspect[1]}`);
  else if (last_error) parts.push(parts.length ? `; ${last_error}` : last_error);
  return parts.length ? parts : "–";
}

const ACTOR_COLUMNS = [
  ["Entity", (actor) => h("a", { href: href(actor.kind, actor.id) }, actorKey(actor))],
  ["Status", (actor) => [pill(actor.status), actor.pinned ? [" ", pill("pending", "warn")] : null]],
  ["Mailbox", mailbox],
  ["Processed", (actor) => count(actor.processed), true],
  ["Per second", (actor) => rate(trees.rates.get(actorKey(actor))), true],
  ["In turn", current],
  ["Turn p99", (actor) => micros(actor.turn_p99_us), true],
  ["Troubles", troubles],
];

export const actorTable = (caption, actors) => table(caption, ACTOR_COLUMNS, actors, actorKey);
