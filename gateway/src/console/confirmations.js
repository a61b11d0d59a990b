// What waits for somebody, in all tenants: who asked for what, what is held for it and until when.
// Not what it was asked with: an operator has no need of that.

import { askWhy } from "./act.js";
import { h } from "./dom.js";
import { card, empty, href, table } from "./parts.js";
import { SessionEnded, api, saying } from "./session.js";
import { count, duration, plural } from "./text.js";

/** How many cards one page has. */
const PAGE = 100;
/** How often what is shown is asked for again, in milliseconds. */
const PERIOD = 3_000;

let shown = null;
let timer = null;
let whenChanged = () => {};

export function onConfirmations(changed) {
  whenChanged = changed;
}

/** Shows what waits, and keeps it fresh; what is shown already stays. */
export function openConfirmations() {
  if (shown) return;
  shown = { cursors: [null], page: null, error: null, answer: "" };
  load();
  timer = setInterval(load, PERIOD);
}

export function closeConfirmations() {
  clearInterval(timer);
  [shown, timer] = [null, null];
}

async function load() {
  const mine = shown;
  if (!mine) return;
  const cursor = mine.cursors.at(-1);
  const after = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
  try {
    const answer = await api(`/v1/operator/confirmations?limit=${PAGE}${after}`);
    const page = await answer.json();
    if (cursor === mine.cursors.at(-1)) Object.assign(mine, { page, error: null });
  } catch (failure) {
    if (failure instanceof SessionEnded) return;
    Object.assign(mine, { page: null, error: saying(failure) });
  }
  if (mine === shown) whenChanged();
}

function turnTo(cursors) {
  shown.cursors = cursors;
  load();
}

function cancel(id) {
  const about = "It is not carried out, and what is held for it is given back. Whoever asked " +
    "hears that it was cancelled, and your reason.";
  askWhy({ title: "Cancel", about, whose: id }, async (reason) => {
    const path = `/v1/operator/confirmations/${encodeURIComponent(id)}/cancel`;
    const { state } = await (await api(path, { body: { reason } })).json();
    if (!shown) return;
    shown.answer = `${id} is ${state}.`;
    load();
  });
}

const link = (kind, id) => h("a", { href: href(kind, id), class: "mono" }, id);
const since = (at) => duration(Math.max(0, Date.now() - Date.parse(at)));
const until = (at) => duration(Math.max(0, Date.parse(at) - Date.now()));

const COLUMNS = [
  ["Card", ({ confirmation_id: id }) => link("confirmation", id)],
  ["Tenant", ({ tenant_id: id }) => link("tenant", id)],
  ["User", ({ user_id: id }) => link("user", id)],
  ["Function", ({ app_id: app, function: name, action_type: action }) =>
    [h("span", { class: "mono" }, `${app ?? "–"}.${name}`), ` ${action}`]],
  ["Price", ({ price }) => count(price), true],
  ["Waits for", ({ opened_at: at }) => h("time", { datetime: at }, since(at)), true],
  ["Expires in", ({ expires_at: at }) => h("time", { datetime: at }, until(at)), true],
  ["", ({ confirmation_id: id }) =>
    h("button", { type: "button", onclick: () => cancel(id) }, "Cancel…")],
];

/** The view. */
export function confirmationsView() {
  const { page, error, answer, cursors } = shown;
  if (error) return [h("p", { class: "notice", role: "alert" }, error)];
  if (!page) return [h("p", { class: "loading" }, "Loading…")];
  const { items, next_cursor: next } = page;
  const turn = (label, to) =>
    h("button", { type: "button", disabled: !to, onclick: () => turnTo(to) }, label);
  return [
    card(`${plural(items.length, "card")}${next || cursors.length > 1 ? " on this page" : ""}`,
      h("p", { class: "answer", role: "status" }, answer),
      items.length
        ? table(null, COLUMNS, items, ({ confirmation_id: id }) => id)
        : empty("Nothing waits for anybody."),
      h("div", { class: "buttons pages" },
        turn("First", cursors.length > 1 ? [null] : null),
        turn("After", next ? [...cursors, next] : null))),
  ];
}
