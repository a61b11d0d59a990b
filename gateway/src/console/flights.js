// What is under way in all tenants: calls, batches and tasks, how old they are, and stopping one.

import { h } from "./dom.js";
import { card, empty, href, pill, table } from "./parts.js";
import { SessionEnded, api, saying } from "./session.js";
import { count, duration, plural } from "./text.js";

/** How many are listed. */
const LISTED_MAX = 200;
/** The list is asked for again at most this often. */
const FRESH_MS = 1_000;

let shown = null;
let whenChanged = () => {};

export function onFlights(changed) {
  whenChanged = changed;
}

/** Begins to follow what is under way; goes on where it does already. */
export function openFlights() {
  if (shown) return;
  shown = { list: null, error: null, answer: "", asked: 0, isAsking: false, stopping: new Set() };
  load();
}

export function closeFlights() {
  shown = null;
}

/** Asks again, if the list is old enough. */
export function keepFlightsFresh() {
  if (shown && Date.now() - shown.asked >= FRESH_MS) load();
}

async function load() {
  const mine = shown;
  if (mine.isAsking) return;
  Object.assign(mine, { isAsking: true, asked: Date.now() });
  try {
    const list = await (await api(`/v1/operator/flights?limit=${LISTED_MAX}`)).json();
    Object.assign(mine, { list, error: null });
  } catch (failure) {
    if (failure instanceof SessionEnded) return;
    Object.assign(mine, { error: saying(failure) });
  } finally {
    mine.isAsking = false;
  }
  if (mine === shown) whenChanged();
}

async function stop({ id, kind }) {
  const mine = shown;
  mine.stopping.add(id);
  whenChanged();
  try {
    const path = `/v1/operator/flights/${encodeURIComponent(id)}/cancel`;
    const { outcome } = await (await api(path, { body: {} })).json();
    mine.answer = `The ${kind} ${id} is ${outcome.replace("_", " ")}.`;
  } catch (failure) {
    if (failure instanceof SessionEnded) return;
    mine.answer = saying(failure);
  } finally {
    mine.stopping.delete(id);
  }
  if (mine === shown) load();
}

function progress({ fraction, message }) {
  if (fraction === null && !message) return "–";
  return [fraction === null ? null : `${Math.floor(fraction * 100)} % `, message];
}

const COLUMNS = [
  ["What", ({ kind, status }) => [kind, " ", pill(status, status === "queued" ? "warn" : "good")]],
  ["Id", ({ id }) => h("code", {}, id)],
  ["Tenant", ({ tenant_id: id }) => h("a", { href: href("tenant", id), class: "mono" }, id)],
  ["User", ({ user_id: id }) =>
    id ? h("a", { href: href("user", id), class: "mono" }, id) : "nobody"],
  ["Function", ({ app_id: app, function: name }) =>
    [h("a", { href: href("app", app) }, app), " ", h("code", {}, name)]],
  ["Age", ({ age_ms: age }) => duration(age), true],
  ["Progress", progress],
  ["", (flight) => h("button", {
    type: "button", "data-cancel": flight.id, disabled: shown.stopping.has(flight.id),
    "aria-label": `Cancel ${flight.id}`, onclick: () => stop(flight),
  }, "Cancel")],
];

/** The view. */
export function flightsView() {
  const { list, error, answer } = shown;
  if (error) return [h("p", { class: "notice", role: "alert" }, error)];
  if (!list) return [h("p", { class: "loading" }, "Loading…")];
  const { items, total } = list;
  const queued = items.filter(({ status }) => status === "queued").length;
  return [
    card(`${plural(total, "call, batch or task", "calls, batches and tasks")} in flight`,
      h("p", { class: "quiet" },
        queued ? `${plural(queued, "task")} wait for their turn. ` : null,
        items.length < total ? `The oldest ${count(items.length)} are listed.` : null),
      h("p", { class: "answer", role: "status" }, answer),
      items.length
        ? table(null, COLUMNS, items, ({ id }) => id)
        : empty("Nothing is under way.")),
  ];
}
