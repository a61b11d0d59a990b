// What is frozen: a tenant, a user or an app, with the receipt of what was stopped.

import { h } from "./dom.js";
import { card, empty, href, pill, table, tile } from "./parts.js";
import { count } from "./text.js";

/** The kinds of entities that can be frozen. */
const KINDS = ["tenant", "user", "app"];

export const isFreezable = (kind) => KINDS.includes(kind);
export const isFrozen = (page) => page.freeze?.status === "frozen";

/** Where a freeze of an entity, or the end of it, is asked for. */
export const freezePath = (name, kind, id) =>
  `/v1/operator/${kind}s/${encodeURIComponent(id)}/${name}`;

/** What came of it, in a sentence. */
export function sentence({ status, receipt }) {
  if (status === "resumed") return "It goes on; what waited comes a few at a time.";
  if (!receipt) return "What runs is being stopped.";
  return `Stopped in ${count(receipt.took_ms)} ms: ${count(receipt.calls_cancelled)} calls ` +
    `cancelled, ${count(receipt.holds_released)} holds released, ` +
    `${count(receipt.cards_voided)} confirmations void.`;
}

const ITEM_COLUMNS = [
  ["What", (item) => item.kind],
  ["Id", (item) => h("span", { class: "mono" }, item.id)],
  ["What happened", (item) => item.outcome.replace("_", " ")],
];

function items(receipt) {
  if (!receipt.items.length) return empty("Nothing was under way and nothing was held.");
  const more = receipt.items_omitted;
  return [
    table(null, ITEM_COLUMNS, receipt.items, (item) => item.id),
    more > 0 ? empty(`${count(more)} more are counted above.`) : null,
  ];
}

/** The card of the last freeze; nothing for what never was frozen. */
export function freezeCard({ kind, id, freeze }) {
  if (!isFreezable(kind) || !freeze) return null;
  const { receipt, status } = freeze;
  return card("Freeze",
    h("p", {}, pill(status, status === "frozen" ? "bad" : "good"), " ",
      h("strong", {}, freeze.reason_class), ` ${freeze.reason}`),
    h("p", { class: "quiet" }, `Frozen at ${freeze.frozen_at} by `,
      h("span", { class: "mono" }, freeze.frozen_by), ". ",
      h("a", { href: href("freeze", `${kind}.${id}`) }, "Its records")),
    freeze.resumed_at
      ? h("p", { class: "quiet" }, `Resumed at ${freeze.resumed_at} by `,
        h("span", { class: "mono" }, freeze.resumed_by), `: ${freeze.resume_reason}`)
      : null,
    receipt ? [
      h("dl", { class: "tiles" },
        tile("Calls cancelled", count(receipt.calls_cancelled),
          `${count(receipt.calls_completed)} had ended, ${count(receipt.calls_running)} run on`),
        tile("Holds released", count(receipt.holds_released),
          receipt.wallet_refused
            ? `The wallet refused the rest: ${receipt.wallet_refused}`
            : `${count(receipt.credits_released)} credits, ` +
              `${count(receipt.holds_left)} left to calls`),
        tile("Confirmations void", count(receipt.cards_voided)),
        tile("Requests left", count(receipt.requests_left)),
        tile("Took", `${count(receipt.took_ms)} ms`)),
      items(receipt),
    ] : empty("What runs is being stopped."));
}
