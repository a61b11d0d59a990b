// One entity: its state now and at any record, what each record changed, its history page by
// page, and what an operator may do to it.

import { actButtons } from "./act.js";
import { byId, h } from "./dom.js";
import { freezeCard, isFrozen } from "./freeze.js";
import { limitsCard } from "./limits.js";
import { card, current, empty, href, mailbox, pill, table, tile, troubles } from "./parts.js";
import { SessionEnded, api, saying } from "./session.js";
import { count, duration, micros, rate } from "./text.js";
import { actorKey, live, trees } from "./tree.js";

const CHANGES_MAX = 40;
const SLIDER_REST_MS = 120;
/** How many records one page of a history has. */
const HISTORY_PAGE = 25;

let entity = null;
let calls = 0;
let goingSoon = 0;
let whenChanged = () => {};
let whenNamed = () => {};

/** Says what to do when there is something new to draw, and when an entity's own id is known. */
export function onEntity({ changed, named }) {
  [whenChanged, whenNamed] = [changed, named];
}

/** Shows an entity; the one that is shown already stays as it is. */
export function open(kind, id) {
  if (entity && entity.kind === kind && entity.id === id) return;
  entity = {
    kind, id, at: null, before: null, page: null, previous: null, error: null, answer: null,
  };
  load();
}

export function close() {
  entity = null;
}

const path = ({ kind, id }, query) => {
  const wanted = Object.entries(query).filter(([, value]) => value !== null);
  const place = `/v1/operator/actors/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;
  return wanted.length ? `${place}?${new URLSearchParams(wanted)}` : place;
};

/** Loads the entity as the screen wants it, and what it was one record before. */
async function load() {
  const [mine, shown] = [(calls += 1), entity];
  const get = async (query) => (await api(path(shown, query))).json();
  try {
    const page = await get({ at: shown.at, before: shown.before, limit: HISTORY_PAGE });
    const previous = page.at > 1 ? (await get({ at: page.at - 1, before: 1 })).state : null;
    if (mine !== calls || entity !== shown) return;
    Object.assign(shown, { page, previous, error: null });
    if (page.id !== shown.id) {
      shown.id = page.id;
      whenNamed(page.kind, page.id);
    }
  } catch (failure) {
    if (mine !== calls || failure instanceof SessionEnded) return;
    shown.error = saying(failure);
  }
  whenChanged();
}

/** While the present is shown, a new record loads it again. */
export function keepFresh(tree) {
  if (!entity?.page || entity.at !== null) return;
  const found = tree.actors.find((actor) => actorKey(actor) === actorKey(entity));
  if (found && found.seq > entity.page.head) load();
}

function goTo(at) {
  const last = entity.page.head;
  const seq = Math.round(Number(at));
  if (!Number.isFinite(seq)) return;
  entity.at = at === null || seq >= last ? null : Math.max(1, seq);
  load();
}

/** While the slider moves, only where it rests is loaded. */
function goSoon(at) {
  clearTimeout(goingSoon);
  byId("at").value = at;
  goingSoon = setTimeout(() => entity && goTo(at), SLIDER_REST_MS);
}

function turnTo(before) {
  entity.before = before;
  load();
}

/** The leaves of a JSON value by path. */
function leaves(value, path = "", into = new Map()) {
  if (value !== null && typeof value === "object" && Object.keys(value).length) {
    for (const [key, inner] of Object.entries(value)) {
      leaves(inner, path ? `${path}.${key}` : key, into);
    }
  } else into.set(path || "state", JSON.stringify(value));
  return into;
}

function changes(before, after) {
  const [old, fresh] = [leaves(before ?? {}), leaves(after ?? {})];
  if (!before) old.clear();
  const paths = [...new Set([...old.keys(), ...fresh.keys()])];
  const changed = paths.filter((path) => old.get(path) !== fresh.get(path));
  if (!changed.length) return empty("This record changed nothing that is shown.");
  const more = changed.length - CHANGES_MAX;
  const items = changed.slice(0, CHANGES_MAX).map((path) =>
    h("li", {}, h("code", {}, path), " ",
      old.has(path) ? h("del", { class: "mono" }, old.get(path)) : null,
      old.has(path) && fresh.has(path) ? " → " : null,
      fresh.has(path) ? h("ins", { class: "mono" }, fresh.get(path)) : null));
  return [h("ul", { class: "changes" }, items),
    more > 0 ? empty(`${count(more)} more changes.`) : null];
}

const HISTORY_COLUMNS = [
  ["Record", (entry) =>
    h("button", { type: "button", class: "link", onclick: () => goTo(entry.seq),
      "aria-label": `State after record ${entry.seq}` }, String(entry.seq))],
  ["Event", (entry) => entry.event],
  ["Command", (entry) => h("code", {}, entry.command)],
  ["Caller", (entry) => h("span", { class: "mono" }, entry.caller)],
  ["Time", (entry) => h("time", { datetime: entry.time },
    entry.time.replace("T", " ").replace("Z", ""))],
  ["Link", (entry) => h("span", { class: "mono", title: entry.link }, entry.link.slice(0, 12))],
];

/** The page of the history, and the ways to the ones beside it. */
function history({ history: records, head, at }) {
  if (!records.length) return empty("Nothing was recorded yet.");
  const [newest, oldest] = [records[0].seq, records.at(-1).seq];
  const newer = newest + HISTORY_PAGE + 1;
  const turn = (label, isThere, before) =>
    h("button", { type: "button", disabled: !isThere, onclick: () => turnTo(before) }, label);
  return [
    table(null, HISTORY_COLUMNS, records, (entry) => String(entry.seq),
      (entry) => entry.seq === at),
    h("div", { class: "buttons pages" },
      turn("Newest", newest < head, null),
      turn("Newer", newest < head, newer > head ? null : newer),
      turn("Older", oldest > 1, oldest),
      h("span", { class: "quiet" },
        `Records ${count(oldest)} to ${count(newest)} of ${count(head)}`)),
  ];
}

function scrubber({ head: last, at }) {
  if (!last) return null;
  const bounds = { min: 1, max: last, value: at };
  return h("div", { class: "scrubber" },
    h("label", { for: "at" }, "After record"),
    h("input", { id: "at", type: "number", ...bounds, onchange: (e) => goTo(e.target.value) }),
    h("input", { type: "range", ...bounds, "aria-label": "After record",
      oninput: (e) => goSoon(e.target.value) }),
    h("span", { class: "quiet" }, `of ${count(last)}`),
    h("button", { type: "button", disabled: entity.at === null, onclick: () => goTo(last) },
      "Now"));
}

function liveCard(actor, isQuarantined) {
  if (!actor) {
    const next = isQuarantined ? "" : " Its next command brings it back.";
    return card("Actor", empty(`It is not in memory now.${next}`));
  }
  return h("dl", { class: "tiles three" },
    tile("Status", pill(actor.status), `live for ${duration(actor.live_ms)}`),
    tile("Mailbox", mailbox(actor), `idle for ${duration(actor.idle_ms)}`),
    tile("Processed", count(actor.processed),
      `${rate(trees.rates.get(actorKey(actor)))}/s, ${count(actor.refused)} refused`),
    tile("Turn p50 and p99", micros(actor.turn_p99_us), `p50 ${micros(actor.turn_p50_us)}`),
    tile("In turn", current(actor)),
    tile("Troubles", h("span", { class: "note" }, troubles(actor))));
}

/** Its actor as the last tree has it; a tree that does not list all may have left it out. */
function actorOf(tree, page) {
  const found = tree.actors.find((actor) => actorKey(actor) === actorKey(page));
  const isWhole = tree.actors.length >= live(tree);
  return found ?? (isWhole ? null : page.view);
}

function quarantineOf(tree, { kind, id }) {
  const found = tree.kinds.find((view) => view.kind === kind)?.quarantined ?? [];
  return found.find(([of]) => of === id)?.[1] ?? null;
}

function answered(answer) {
  entity.answer = answer;
  whenChanged();
  // An act may have left something to see that no record tells of.
  load();
}

function acts(page, isLive, reason) {
  const { answer } = entity;
  if (page.is_erased) {
    const how = ["user", "tenant"].includes(page.kind)
      ? h("a", { href: href("erasure", page.id) }, "How it was erased") : null;
    return card("Erased",
      h("p", {}, pill("erased", "bad"), " Its key was shredded; what is left are its records' ",
        "headers. ", how),
      h("p", { class: "answer", role: "status" }, answer?.text ?? ""));
  }
  return card("Acts",
    reason === null ? null
      : h("p", { class: "notice" }, `It is in quarantine and takes no command: ${reason}`),
    actButtons(page,
      { isLive, isQuarantined: reason !== null, isFrozen: isFrozen(page) }, answered),
    h("p", { class: `answer ${answer && !answer.done ? "warn" : ""}`, role: "status" },
      answer?.text ?? ""));
}

function stateCard(page) {
  const title = entity.at === null ? "State now" : `State after record ${page.at}`;
  return card(title, scrubber(page), page.state_error
    ? h("p", { class: "notice" }, page.state_error)
    : h("pre", { tabindex: "0", "aria-label": "State" }, JSON.stringify(page.state, null, 2)));
}

/** The view. */
export function entityView(tree) {
  const { page, error } = entity;
  const notice = error ? h("p", { class: "notice", role: "alert" }, error) : null;
  if (!page) return [notice ?? h("p", { class: "loading" }, "Loading…")];
  const [actor, reason] = [actorOf(tree, page), quarantineOf(tree, page)];
  return [
    notice,
    h("p", { class: "quiet" }, "Tenant ", h("span", { class: "mono" }, page.tenant_id)),
    liveCard(actor, reason !== null),
    acts(page, Boolean(actor), reason),
    freezeCard(page),
    limitsCard(page),
    h("div", { class: "columns" },
      stateCard(page),
      card(`What record ${page.at} changed`, page.at
        ? changes(entity.previous, page.state)
        : empty("Nothing was recorded yet."))),
    card("History", history(page)),
  ];
}
