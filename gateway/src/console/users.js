// The users of one tenant: role, standing, whether the address is verified, second factors. No
// addresses and names: an operator has no need of them.

import { askWhy } from "./act.js";
import { h } from "./dom.js";
import { card, empty, href, pill, table } from "./parts.js";
import { SessionEnded, api, saying } from "./session.js";
import { count, plural } from "./text.js";

/** How many users one page has. */
const PAGE = 50;

let shown = null;
let whenChanged = () => {};

export function onUsers(changed) {
  whenChanged = changed;
}

/** Shows a tenant's users, by the tenant's id or name; the one that is shown stays as it is. */
export function openUsers(tenant) {
  if (shown && shown.tenant === tenant) return;
  shown = { tenant, offset: 0, page: null, error: null, answer: "" };
  if (tenant) load();
}

export function closeUsers() {
  shown = null;
}

async function load() {
  const mine = shown;
  const path = `/v1/operator/tenants/${encodeURIComponent(mine.tenant)}/users`;
  try {
    const page = await (await api(`${path}?limit=${PAGE}&offset=${mine.offset}`)).json();
    Object.assign(mine, { page, error: null });
  } catch (failure) {
    if (failure instanceof SessionEnded) return;
    Object.assign(mine, { page: null, error: saying(failure) });
  }
  if (mine === shown) whenChanged();
}

function turnTo(offset) {
  shown.offset = offset;
  load();
}

function removeFactors(user) {
  const about = "All of the user's second factors and recovery codes go, every session of theirs " +
    "ends, and they are told by mail. Make sure that it is the user who asks.";
  const title = "Remove the second factors of";
  askWhy({ title, about, whose: user }, async (reason) => {
    const path = `/v1/operator/users/${encodeURIComponent(user)}/factors`;
    const { removed } = await (await api(path, { method: "DELETE", body: { reason } })).json();
    if (!shown) return;
    shown.answer = `${plural(removed, "second factor")} of ${user} removed.`;
    load();
  });
}

const COLUMNS = [
  ["User", ({ user_id: id }) => h("a", { href: href("user", id), class: "mono" }, id)],
  ["Role", ({ role }) => role],
  ["Standing", ({ is_active: isActive }) =>
    isActive ? pill("active", "good") : pill("off", "warn")],
  ["Address", ({ email_verified: isVerified }) =>
    isVerified ? pill("verified", "good") : pill("not verified", "warn")],
  ["Second factors", ({ user_id: id, factors }) => [
    count(factors), " ",
    factors ? h("button", { type: "button", onclick: () => removeFactors(id) }, "Remove…") : null,
  ], true],
  ["Last login", ({ last_login: at }) => at
    ? h("time", { datetime: at }, at.replace("T", " ").replace("Z", ""))
    : "–"],
];

function list({ items, total }) {
  if (!items.length) return empty("Nobody belongs to this tenant.");
  const { offset } = shown;
  const turn = (label, isThere, to) =>
    h("button", { type: "button", disabled: !isThere, onclick: () => turnTo(to) }, label);
  return [
    table(null, COLUMNS, items, ({ user_id: id }) => id),
    h("div", { class: "buttons pages" },
      turn("Before", offset > 0, Math.max(0, offset - PAGE)),
      turn("After", offset + items.length < total, offset + PAGE),
      h("span", { class: "quiet" },
        `${count(offset + 1)} to ${count(offset + items.length)} of ${count(total)}`)),
  ];
}

function choose(event) {
  event.preventDefault();
  const tenant = new FormData(event.target).get("tenant").trim();
  location.hash = `#/users/${encodeURIComponent(tenant)}`;
}

/** The view. */
export function usersView() {
  const { tenant, page, error, answer } = shown;
  const form = h("form", { role: "search", onsubmit: choose },
    h("label", { for: "users-of" }, "Tenant: its id or its name"),
    h("div", { class: "row" },
      h("input", { id: "users-of", name: "tenant", type: "text", value: tenant, required: true,
        autocomplete: "off", spellcheck: "false" }),
      h("button", { type: "submit" }, "Show")));
  if (!tenant) return [card("Whose users", form)];
  if (error) return [card("Whose users", form), h("p", { class: "notice", role: "alert" }, error)];
  if (!page) return [card("Whose users", form), h("p", { class: "loading" }, "Loading…")];
  const asks = page.require_second_factor
    ? "This tenant asks its members for a second factor."
    : "This tenant does not ask its members for a second factor.";
  return [
    card("Whose users", form),
    card(plural(page.total, "user"), h("p", { class: "quiet" }, asks),
      h("p", { class: "answer", role: "status" }, answer), list(page)),
  ];
}
