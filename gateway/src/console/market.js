// The marketplace, as whoever keeps it sees it: the apps that wait for a review with what was
// looked at before it, all apps, the payouts that wait, and the developers.
//
// One list is shown at a time: it is asked for when its view is opened, after every act, and each
// few seconds while it is looked at.

import { askWhy } from "./act.js";
import { h } from "./dom.js";
import { card, empty, href, pill, table } from "./parts.js";
import { SessionEnded, api, saying } from "./session.js";
import { APP_CHECKS, APP_STATES, PAYOUT_STATES, count, moment, plural } from "./text.js";

/** How many apps or developers one page has. */
const PAGE = 50;
/** How often what is shown is asked for again, in milliseconds. */
const PERIOD = 5_000;

const STATE_PILLS = {
  active: "good", paid: "good", approved: "good", pending: "warn", pending_review: "warn",
  suspended: "bad", rejected: "bad",
};

let shown = null;
let timer = null;
let whenChanged = () => {};

export function onMarket(changed) {
  whenChanged = changed;
}

/** What each view asks for, by where it stands. */
const ASKED = {
  apps: async ({ state, offset }) => {
    const status = state ? `&status=${encodeURIComponent(state)}` : "";
    const [queue, all] = await Promise.all([
      get(`/v1/admin/apps/pending?limit=${PAGE}`),
      get(`/v1/admin/apps?limit=${PAGE}&offset=${offset}${status}`),
    ]);
    return { queue, all };
  },
  payouts: () => get("/v1/admin/payouts/pending"),
  developers: ({ cursors }) => {
    const cursor = cursors.at(-1);
    const after = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
    return get(`/v1/admin/developers?limit=${PAGE}${after}`);
  },
};

const get = async (path) => (await api(path)).json();

/** Shows one of the lists; `state` is the state of the apps that are wanted. */
export function openMarket(view, state) {
  if (shown?.view === view && shown.state === state) return;
  closeMarket();
  shown = { view, state, offset: 0, cursors: [null], page: null, error: null, answer: "" };
  load();
  timer = setInterval(load, PERIOD);
}

export function closeMarket() {
  clearInterval(timer);
  [shown, timer] = [null, null];
}

async function load() {
  const mine = shown;
  if (!mine) return;
  const { offset, cursors } = mine;
  try {
    const page = await ASKED[mine.view](mine);
    // Somebody has turned the page meanwhile.
    if (offset !== mine.offset || cursors !== mine.cursors) return;
    Object.assign(mine, { page, error: null });
  } catch (failure) {
    if (failure instanceof SessionEnded) return;
    Object.assign(mine, { page: null, error: saying(failure) });
  }
  if (mine === shown) whenChanged();
}

function turnTo(place) {
  Object.assign(shown, place);
  load();
}

/** A button that asks, does and tells. `body` makes the body of what was typed. */
function actButton(label, title, about, whose, path, body, note) {
  const act = async (typed) => {
    const { status } = await (await api(path, { body: body(typed) })).json();
    if (!shown) return;
    shown.answer = `${whose}: ${stateName(status)}.`;
    load();
  };
  const onclick = () => askWhy({ title, about, whose, ...note }, act);
  return h("button", { type: "button", onclick }, label);
}

const stateName = (state) => APP_STATES[state] ?? PAYOUT_STATES[state] ?? state;
const statePill = (state) => pill(stateName(state), STATE_PILLS[state] ?? "");
const link = (kind, id, text = id) => h("a", { href: href(kind, id), class: "mono" }, text);
const at = (text) => text ? h("time", { datetime: text }, moment(text)) : "–";

const TOLD = { note: "The developer reads it." };
const TOLD_IF = { ...TOLD, isOptional: true };

// The apps.

const appPath = (id, act) => `/v1/admin/apps/${encodeURIComponent(id)}/${act}`;

const approveButton = (id) => actButton("Approve…", "Approve",
  "It goes live: everybody finds it, and may install and call it.", id,
  appPath(id, "approve"), () => ({}), { isSilent: true });
const rejectButton = (id) => actButton("Reject…", "Reject",
  "It goes back to its developer as a draft, and may be submitted again.", id,
  appPath(id, "reject"), (reason) => ({ reason }), TOLD);
const suspendButton = (id) => actButton("Suspend…", "Suspend",
  "Nobody but its developer finds or calls it, until it is taken up again.", id,
  appPath(id, "status"), (reason) => ({ status: "suspended", reason }), {});
const resumeButton = (id) => actButton("Take up…", "Take up",
  "It goes live again, as it was.", id,
  appPath(id, "status"), (reason) => ({ status: "active", reason }), {});

const checkItem = ({ check, ok }) =>
  h("li", { class: ok ? "good" : "bad" }, `${APP_CHECKS[check] ?? check}: ${ok ? "yes" : "no"}`);

function reviewed(app) {
  const { app_id: id, checks, scopes, host } = app;
  const unmet = checks.filter(({ ok }) => !ok).length;
  return h("li", { "data-key": id, class: "review" },
    h("div", { class: "row" },
      h("span", { class: "name" }, link("app", id)),
      h("span", {}, `${app.display_name}, version ${app.version ?? "none"}`),
      h("span", { class: "quiet" }, "by ", link("developer", app.developer_id,
        app.developer ?? app.developer_id)),
      unmet ? pill(`${plural(unmet, "check")} not met`, "bad") : pill("all checks met", "good")),
    h("p", {}, app.description || "It says nothing of itself."),
    h("p", { class: "quiet" }, "Asks for ", scopes.length ? scopes.join(", ") : "nothing",
      host ? `; calls leave to ${host}` : "; calls stay in the server"),
    h("details", { "data-key": `checks ${id}` },
      h("summary", {}, `What was looked at (${count(checks.length)})`),
      h("ul", { class: "checks" }, checks.map(checkItem))),
    h("div", { class: "buttons" }, approveButton(id), rejectButton(id)));
}

const APP_COLUMNS = [
  ["App", ({ app_id: id }) => link("app", id)],
  ["Name", ({ display_name: name }) => name],
  ["Developer", ({ developer_id: id }) => link("developer", id)],
  ["State", ({ status }) => statePill(status)],
  ["Price", ({ pricing_model: model }) => model.replace("_", " ")],
  ["Changed", ({ updated_at: text }) => at(text)],
  ["", ({ app_id: id, status }) =>
    status === "active" ? suspendButton(id) : status === "suspended" ? resumeButton(id) : null],
];

function stateChoice() {
  const options = [["", "in any state"], ...Object.entries(APP_STATES)].map(([state, name]) =>
    h("option", { value: state, selected: state === shown.state }, name));
  const onchange = (event) => { location.hash = `#/apps/${event.target.value}`; };
  return h("p", {},
    h("label", { for: "apps-state" }, "Apps "),
    h("select", { id: "apps-state", onchange }, options));
}

export function appsView() {
  return view(({ queue, all }) => {
    const { offset } = shown;
    const upto = offset + all.items.length;
    const turn = (label, isThere, to) => h("button",
      { type: "button", disabled: !isThere, onclick: () => turnTo({ offset: to }) }, label);
    return [
      card(`${plural(queue.total, "app")} to review`, answer(),
        queue.items.length
          ? h("ul", { class: "reviews" }, queue.items.map(reviewed))
          : empty("Nothing waits for a review.")),
      card(plural(all.total, "app"), stateChoice(),
        all.items.length
          ? table(null, APP_COLUMNS, all.items, ({ app_id: id }) => id)
          : empty("There is no such app."),
        h("div", { class: "buttons pages" },
          turn("Before", offset > 0, Math.max(0, offset - PAGE)),
          turn("After", upto < all.total, offset + PAGE))),
    ];
  });
}

// The payouts.

const payoutButton = (label, title, about, { id, developer }, act) => actButton(label, title, about,
  `payout ${id} of ${developer}`, `/v1/admin/payouts/${id}/${act}`, (note) => ({ note }), TOLD_IF);

const approvePayout = (payout) => payoutButton("Approve…", "Approve",
  "It will be paid: pay it, and note then that you have.", payout, "approve");
const rejectPayout = (payout) => payoutButton("Reject…", "Reject",
  "It is not paid, and may be asked for again.", payout, "reject");
const payPayout = (payout) => payoutButton("Paid…", "Settle",
  `${payout.usd} USD have left. This server moves no money itself; it cannot be undone.`,
  payout, "paid");

const PAYOUT_COLUMNS = [
  ["Payout", ({ id }) => String(id), true],
  ["Developer", ({ developer, developer_id: id }) => link("developer", id, developer)],
  ["Address", ({ email }) => email || "–"],
  ["Credits", ({ tokens }) => count(tokens), true],
  ["USD", ({ usd }) => usd, true],
  ["State", ({ status }) => statePill(status)],
  ["Asked for", ({ requested_at: text }) => at(text)],
  ["", (payout) => h("div", { class: "buttons" },
    payout.status === "pending" ? approvePayout(payout) : payPayout(payout), rejectPayout(payout))],
];

export function payoutsView() {
  return view(({ items }) => card(plural(items.length, "payout"), answer(),
    items.length
      ? table(null, PAYOUT_COLUMNS, items, ({ id }) => String(id))
      : empty("No payout waits.")));
}

// The developers.

const DEVELOPER_COLUMNS = [
  ["Developer", ({ developer_id: id, nickname }) => link("developer", id, nickname ?? id)],
  ["Tier", ({ tier }) => tier],
  ["Paid until", ({ paid_until: text }) => at(text)],
  ["Apps", (row) => count(row.apps_count), true],
  ["Since", ({ registered_at: text }) => at(text)],
  ["Earned", (row) => link("earnings", row.developer_id, count(row.total_earnings)), true],
  ["Available", (row) => count(row.available), true],
  ["Asked for", (row) => count(row.pending_payout), true],
  ["Paid out", (row) => count(row.paid_out), true],
];

export function developersView() {
  return view(({ items, next_cursor: next }) => {
    const { cursors } = shown;
    const turn = (label, to) => h("button",
      { type: "button", disabled: !to, onclick: () => turnTo({ cursors: to }) }, label);
    const isPart = next || cursors.length > 1;
    return card(`${plural(items.length, "developer")}${isPart ? " on this page" : ""}`,
      items.length
        ? table("Earned and paid in credits.", DEVELOPER_COLUMNS, items,
          ({ developer_id: id }) => id)
        : empty("Nobody is a developer yet."),
      h("div", { class: "buttons pages" },
        turn("First", cursors.length > 1 ? [null] : null),
        turn("After", next ? [...cursors, next] : null)));
  });
}

const answer = () => h("p", { class: "answer", role: "status" }, shown.answer);

function view(content) {
  const { page, error } = shown;
  if (error) return [h("p", { class: "notice", role: "alert" }, error)];
  if (!page) return [h("p", { class: "loading" }, "Loading…")];
  return [content(page)];
}
