// The views of the whole system: overview, supervision tree, kinds, journal.

import { byId, h } from "./dom.js";
import {
  MAILBOX_WARNING, actorTable, card, empty, href, pill, spark, table, tile,
} from "./parts.js";
import { bytes, count, duration, micros, plural, rate } from "./text.js";
import { actorKey, live, trees } from "./tree.js";

const ROWS_PER_TENANT_MAX = 200;
const BUSIEST_MAX = 8;
const SLOW_TURN_MS = 1_000;

/** What an operator should look at, as whole sentences. */
function attention(tree) {
  const found = [];
  const say = (state, link, ...text) => found.push({ state, link, text });
  for (const child of tree.system.filter(({ running }) => !running)) {
    const why = child.last_reason ? `: ${child.last_reason}` : "";
    say("bad", null, `The system actor ${child.name} is down${why}.`);
  }
  for (const { kind, quarantined } of tree.kinds) {
    for (const [id, reason] of quarantined) {
      say("bad", href(kind, id), `This ${kind} is in quarantine: ${reason}. `, `${kind}/${id}`);
    }
  }
  for (const actor of tree.actors) {
    const { kind, command, command_ms: ms, mailbox: waiting, mailbox_max: max } = actor;
    const link = [href(kind, actor.id), actorKey(actor)];
    if (command && ms >= SLOW_TURN_MS) {
      const text = `This ${kind} has been in one turn for ${duration(ms)} (${command}). `;
      say("warn", link[0], text, link[1]);
    }
    if (waiting >= max * MAILBOX_WARNING) {
      const text = `The mailbox of this ${kind} holds ${count(waiting)} of ${count(max)}. `;
      say("warn", link[0], text, link[1]);
    }
    if (actor.crashes.recent && !actor.crashes.quarantine) {
      const times = plural(actor.crashes.recent, "time");
      say("warn", link[0], `This ${kind} crashed ${times} within a minute. `, link[1]);
    }
  }
  return found;
}

function health(tree, found) {
  if (tree.system.some(({ running }) => !running)) return pill("degraded", "bad");
  return found.length ? pill("needs attention", "warn") : pill("healthy", "good");
}

export function overview(tree) {
  const { statistics } = tree;
  const per = (name) => `${rate(trees.rates.get(name))}/s`;
  const found = attention(tree);
  const busiest = [...tree.actors]
    .sort((a, b) => (trees.rates.get(actorKey(b)) ?? 0) - (trees.rates.get(actorKey(a)) ?? 0))
    .slice(0, BUSIEST_MAX);
  return [
    h("dl", { class: "tiles" },
      tile("Health", health(tree, found), `up for ${duration(tree.uptime_ms)}`),
      tile("Recovered at start", count(tree.pending_recovered),
        `with pending work; ${plural(tree.reminders_recovered, "reminder")}`),
      tile("Requests", per("requests"), `${count(tree.requests)} since the start`,
        spark(trees.trends.requests, "Requests a second in the last minute")),
      tile("Commits", per("commits"), `${per("syncs")} syncs`,
        spark(trees.trends.commits, "Commits a second in the last minute")),
      tile("Durable records", count(statistics.records), per("records")),
      tile("Journal queue", count(statistics.queue_depth), `Engine ${tree.engine}`),
      tile("Live actors", count(live(tree)), `of ${plural(tree.kinds.length, "kind")}`),
      tile("Reminders waiting", count(tree.reminders_waiting)),
      tile("Event readers", count(tree.feed.readers), dropped(tree.feed))),
    card("What needs attention", found.length
      ? h("ul", { class: "attention" }, found.map(({ state, link, text }) =>
          h("li", { class: state }, text[0], link ? h("a", { href: link }, text[1]) : null)))
      : empty("Nothing needs attention.")),
    card("Busiest entities", busiest.length
      ? actorTable(null, busiest)
      : empty("No entity is live. Entities come to memory with their first command.")),
    card("Event readers by tenant", tree.feed.tenants.length
      ? table(null, READER_COLUMNS, tree.feed.tenants, (row) => row.tenant_id)
      : empty("Nobody reads events.")),
  ];
}

const READER_COLUMNS = [
  ["Tenant", (row) => h("code", {}, row.tenant_id)],
  ["Readers", (row) => count(row.readers), true],
  ["Dropped", (row) => count(row.dropped), true],
];

/** How many readers the server has ended, and why. */
function dropped(feed) {
  const reasons = Object.entries(feed.dropped);
  if (!reasons.length) return "None was dropped.";
  return reasons.map(([reason, times]) => `${reason} ${count(times)}`).join(", ");
}

const opening = (key, isOpen, summary, ...inner) =>
  h("details", { "data-key": key, open: isOpen },
    h("summary", {}, summary), h("div", { class: "inner" }, inner));

const COMMAND_COLUMNS = [
  ["Command", (row) => h("code", {}, row.command)],
  ["Accepted", (row) => count(row.accepted), true],
  ["Refused", (row) => count(row.refused), true],
  ["p50", (row) => micros(row.p50_us), true],
  ["p99", (row) => micros(row.p99_us), true],
];

const commandTable = (kind) => kind.commands.length
  ? table(null, COMMAND_COLUMNS, kind.commands, (row) => row.command)
  : empty("It was given no command yet.");

const quarantine = (kind) => kind.quarantined.length
  ? h("ul", { class: "attention" }, kind.quarantined.map(([id, reason]) =>
      h("li", { class: "bad" }, h("a", { href: href(kind.kind, id) }, id), ` ${reason}`)))
  : null;

function kindSummary(kind) {
  const bad = kind.quarantined.length;
  return [
    h("span", { class: "name" }, kind.kind),
    h("span", {}, `${count(kind.live)} live`),
    h("span", { class: "quiet" },
      `${plural(kind.activations, "activation")}, ${plural(kind.passivations, "passivation")}, ` +
        `${plural(kind.crashes, "crash", "crashes")}, ${count(kind.busy)} refused as busy`),
    bad ? pill(`${count(bad)} in quarantine`, "bad") : null,
  ];
}

function systemActor(child) {
  return h("li", { "data-key": child.name }, h("div", { class: "row" },
    h("span", { class: "name" }, child.name),
    child.running ? pill("running", "good") : pill("down", "bad"),
    h("span", { class: "quiet" }, plural(child.restarts, "restart")),
    child.last_reason ? h("span", { class: "quiet" }, `last: ${child.last_reason}`) : null));
}

function tenants(tree) {
  const wanted = byId("filter").value.trim().toLowerCase();
  const groups = new Map();
  for (const actor of tree.actors) {
    const text = `${actorKey(actor)} ${actor.tenant_id}`.toLowerCase();
    if (!text.includes(wanted)) continue;
    if (!groups.has(actor.tenant_id)) groups.set(actor.tenant_id, []);
    groups.get(actor.tenant_id).push(actor);
  }
  if (!groups.size) return empty(wanted ? "No live entity matches." : "No entity is live.");
  const order = [...groups].sort(([a], [b]) => (a < b ? -1 : 1));
  return order.map(([tenant, actors]) => {
    actors.sort((a, b) => (actorKey(a) < actorKey(b) ? -1 : 1));
    const hidden = actors.length - ROWS_PER_TENANT_MAX;
    return opening(`tenant ${tenant}`, order.length < 4,
      [h("span", { class: "name mono" }, tenant), h("span", {}, `${count(actors.length)} live`)],
      actorTable(null, actors.slice(0, ROWS_PER_TENANT_MAX)),
      hidden > 0 ? empty(`${count(hidden)} more: filter to see them.`) : null);
  });
}

export function supervision(tree) {
  const listed = tree.actors.length;
  return [
    h("section", { class: "card" }, h("h2", {}, "Supervisors"),
      h("ul", { class: "tree" }, h("li", {},
        h("div", { class: "row" }, h("span", { class: "name" }, "bailiwick"),
          health(tree, attention(tree)),
          h("span", { class: "quiet" }, `up for ${duration(tree.uptime_ms)}`)),
        h("ul", {},
          h("li", {}, opening("system", true,
            [h("span", { class: "name" }, "system"),
              h("span", {}, plural(tree.system.length, "actor"))],
            tree.system.length
              ? h("ul", {}, tree.system.map(systemActor))
              : empty("No system actor runs."))),
          tree.kinds.map((kind) => h("li", { "data-key": `kind ${kind.kind}` },
            opening(`in ${kind.kind}`, false, kindSummary(kind),
              quarantine(kind), commandTable(kind)))))))),
    card("Live entities by tenant",
      listed < live(tree)
        ? h("p", { class: "quiet" }, `${count(listed)} of ${count(live(tree))} are listed.`)
        : null,
      tenants(tree)),
  ];
}

export const kinds = (tree) => tree.kinds.map((kind) =>
  h("section", { class: "card", "data-key": kind.kind },
    h("h2", {}, kind.kind),
    h("p", { class: "row quiet" }, kindSummary(kind).slice(1)),
    quarantine(kind), commandTable(kind)));

export function journal(tree) {
  const { statistics } = tree;
  const per = (name) => `${rate(trees.rates.get(name))}/s`;
  const each = statistics.commits ? statistics.records / statistics.commits : 0;
  return [
    h("dl", { class: "tiles" },
      tile("Engine", tree.engine),
      tile("Commits", count(statistics.commits), per("commits"),
        spark(trees.trends.commits, "Commits a second in the last minute")),
      tile("Syncs", count(statistics.syncs), per("syncs")),
      tile("Durable records", count(statistics.records), per("records")),
      tile("Written", bytes(statistics.bytes), `${bytes(trees.rates.get("bytes") ?? 0)}/s`),
      tile("Queue depth", count(statistics.queue_depth), "works waiting for the writer"),
      tile("Last commit", micros(statistics.last_commit_us),
        `slowest ${micros(statistics.slowest_commit_us)}`),
      tile("Records in a commit", each.toFixed(1),
        `at most ${count(statistics.records_per_commit_max)}`),
      tile("Room on the disk", bytes(statistics.free_bytes),
        statistics.low_space ? "too little for new work" : "enough")),
    card("How to read this", h("p", { class: "quiet" },
      "One commit makes a whole batch durable. Callers are answered only then. A queue that " +
        "stays deep while commits are slow means the disk is the limit.")),
  ];
}
