// A wallet's spending limits: what each is on, and how full it is.

import { h } from "./dom.js";
import { card, pill, table } from "./parts.js";
import { count, plural } from "./text.js";

/** From this share on a limit is shown as nearly used; the server warns of it there, too. */
const NEARLY = 0.8;

const isOver = ({ resets_at: end }) => end !== null && Date.parse(end) <= Date.now();

/** What is used: a window that is over begins anew, though nothing has been spent in it yet. */
const used = (limit) => (isOver(limit) ? 0 : limit.spent) + limit.held;

function standing(limit) {
  const share = limit.amount > 0 ? used(limit) / limit.amount : 1;
  if (share >= 1) return pill("reached", "bad");
  return share >= NEARLY ? pill("nearly", "warn") : pill("open", "good");
}

const fill = (limit) =>
  h("span", { class: "meter" },
    h("meter", {
      value: Math.min(used(limit), limit.amount), max: Math.max(limit.amount, 1),
      high: limit.amount * NEARLY, "aria-label": "Used of the limit",
    }),
    `${count(used(limit))}/${count(limit.amount)}`);

const COLUMNS = [
  ["On", (limit) => h("span", { class: "mono" }, limit.subject)],
  ["Window", (limit) => limit.window],
  ["Standing", standing],
  ["Used", fill],
  ["Held", (limit) => count(limit.held), true],
  ["Resets", (limit) => (isOver(limit) ? "with the next spending" : limit.resets_at ?? "never")],
];

/** The card; nothing for what has no limits. */
export function limitsCard({ kind, state }) {
  const limits = state?.limits;
  if (kind !== "wallet" || !limits?.length) return null;
  const more = state.limits_set - limits.length;
  return card("Spending limits",
    table(null, COLUMNS, limits, (limit) => `${limit.subject}/${limit.window}`),
    more > 0 ? h("p", { class: "quiet" }, `${plural(more, "more limit")} not shown.`) : null);
}
