// The console's script: logs in, follows the stream of trees, and draws the views.
//
// One tree is shown at a time; drawing changes only what differs, so that focus, selection and
// opened parts stay as they are. Text goes into the page as text, never as markup. The tokens
// live in this tab's session storage and go nowhere but to this server.

const SESSION = "bailiwick-operator";
const TREND_POINTS = 60;
const ROWS_PER_TENANT_MAX = 200;
const BUSIEST_MAX = 8;
const CHANGES_MAX = 40;
const RETRY_MS_MAX = 10_000;
const SLOW_TURN_MS = 1_000;
const SLIDER_REST_MS = 120;
const STALE_MS = 5_000;
const MAILBOX_WARNING = 0.8;

const byId = (id) => document.getElementById(id);

// ---- Elements -------------------------------------------------------------------------------

const LISTENERS = ["onclick", "oninput", "onchange", "onsubmit"];
const SVG = new Set(["svg", "polyline"]);

/** An element; `on…` are listeners, `null` and `false` leave an attribute or a child out. */
function h(tag, attributes = {}, ...children) {
  const element = SVG.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (LISTENERS.includes(name)) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value);
    }
  }
  const kept = children.flat(Infinity).filter((child) => child !== null && child !== false);
  element.append(...kept.filter((child) => child !== undefined));
  return element;
}

/** Makes `old` look like `fresh` with as few changes as there are differences. */
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  morphAttributes(old, fresh);
  morphChildren(old, [...fresh.childNodes]);
}

function morphAttributes(old, fresh) {
  const mine = (name) => old.nodeName === "DETAILS" && name === "open";
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !mine(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !mine(name)) old.setAttribute(name, value);
  }
  for (const name of LISTENERS) old[name] = fresh[name];
  if (old.nodeName === "INPUT" && document.activeElement !== old) old.value = fresh.value;
}

const keyOf = (node) => node.dataset?.key;

function morphChildren(parent, fresh) {
  const keyed = new Map();
  for (const child of parent.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
  let at = parent.firstChild;
  for (const child of fresh) {
    const key = keyOf(child);
    const old = key ? keyed.get(key) : at && !keyOf(at) ? at : null;
    if (!old) {
      parent.insertBefore(child, at);
      continue;
    }
    if (old === at) at = at.nextSibling;
    else parent.insertBefore(old, at);
    keyed.delete(key);
    morph(old, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// ---- Texts ----------------------------------------------------------------------------------

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const count = (number) => WHOLE.format(number ?? 0);
const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

function rate(perSecond) {
  if (perSecond === undefined) return "–";
  return perSecond < 10 ? perSecond.toFixed(1) : count(perSecond);
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; number >= 1024 && unit < units.length - 1; unit += 1) number /= 1024;
  return `${unit ? number.toFixed(1) : number} ${units[unit]}`;
}

function micros(us) {
  if (us < 1_000) return `${count(us)} µs`;
  return us < 1_000_000 ? `${(us / 1_000).toFixed(1)} ms` : `${(us / 1e6).toFixed(1)} s`;
}

function duration(ms) {
  if (ms < 1_000) return `${count(ms)} ms`;
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 60) return `${(ms / 1_000).toFixed(1)} s`;
  const [days, hours] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3_600) % 24];
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${seconds % 60} s`;
}

// ---- The session ----------------------------------------------------------------------------

let session = JSON.parse(sessionStorage.getItem(SESSION) ?? "null");
let refreshing = null;

class SessionEnded extends Error {}

function keep(answer) {
  const { access_token, refresh_token } = answer;
  session = { access_token, refresh_token: refresh_token ?? session?.refresh_token };
  sessionStorage.setItem(SESSION, JSON.stringify(session));
}

const post = (path, body) =>
  fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: JSON.stringify(body),
  });

async function refresh() {
  const { refresh_token } = session ?? {};
  if (!refresh_token) return false;
  const response = await post("/v1/auth/refresh", { refresh_token });
  // Only 401 says that the session is over; anything else is tried again later.
  if (response.status === 401) return false;
  if (!response.ok) throw new Error(await problemOf(response));
  keep(await response.json());
  return true;
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  const detail = typeof body.detail === "string" ? body.detail : body.message;
  return detail || `The server answered ${response.status}.`;
}

async function api(path, signal, mayRefresh = true) {
  if (!session) throw new SessionEnded();
  const headers = { authorization: `Bearer ${session.access_token}` };
  const response = await fetch(path, { headers, signal });
  if (response.ok) return response;
  if (response.status !== 401) {
    const hint = response.status === 403 ? "This account is not an operator. " : "";
    throw new Error(hint + (await problemOf(response)));
  }
  if (mayRefresh) {
    refreshing ??= refresh().finally(() => (refreshing = null));
    if (await refreshing) return api(path, signal, false);
  }
  end("Your session is over. Log in again.");
  throw new SessionEnded();
}

function end(message = "") {
  session = null;
  sessionStorage.removeItem(SESSION);
  stopFollowing();
  trees = { now: null, rates: new Map(), trends: {} };
  entity = null;
  byId("login-error").textContent = message;
  show();
}

async function logIn(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  const error = byId("login-error");
  [button.disabled, error.textContent] = [true, ""];
  try {
    const { email, password } = Object.fromEntries(new FormData(form));
    const response = await post("/v1/auth/login", { email, password });
    if (!response.ok) throw new Error(await problemOf(response));
    keep(await response.json());
    form.reset();
    show(true);
    follow();
  } catch (failure) {
    error.textContent = failure instanceof TypeError
      ? "The server cannot be reached."
      : failure.message;
  } finally {
    button.disabled = false;
  }
}

// ---- The stream -----------------------------------------------------------------------------

let trees = { now: null, rates: new Map(), trends: {} };
let following = null;
let heardAt = 0;

function connection(state, text) {
  const pill = byId("connection");
  pill.className = `pill ${state}`;
  if (pill.textContent !== text) pill.textContent = text;
}

function stopFollowing() {
  following?.abort();
  following = null;
  connection("", "");
}

/** Follows the stream until the session ends; a broken one is taken up again. */
async function follow() {
  stopFollowing();
  const mine = (following = new AbortController());
  let retryMs = 500;
  connection("warn", "Connecting…");
  while (following === mine) {
    try {
      if (!trees.now) take(await (await api("/v1/operator/tree", mine.signal)).json());
      const response = await api("/v1/operator/stream", mine.signal);
      for await (const [event, data] of events(response.body)) {
        if (event !== "tree") continue;
        retryMs = 500;
        take(JSON.parse(data));
      }
      throw new Error("The server closed the stream.");
    } catch (failure) {
      if (following !== mine || failure instanceof SessionEnded) return;
      connection("bad", "Reconnecting…");
      const unreachable = failure instanceof TypeError;
      problem(unreachable ? "The server cannot be reached; trying again." : failure.message);
      await new Promise((wake) => setTimeout(wake, retryMs));
      retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
    }
  }
}

/** Server-sent events (WHATWG HTML, 9.2.6) out of a body: pairs of name and data. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [text, name, data] = ["", "message", []];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (text + value).split(/\r?\n/);
    text = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length) yield [name, data.join("\n")];
        [name, data] = ["message", []];
      } else if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}

const live = (tree) => tree.kinds.reduce((sum, kind) => sum + kind.live, 0);
const actorKey = (actor) => `${actor.kind}/${actor.id}`;

/** Takes a tree in: rates come from the difference to the one before. */
function take(tree) {
  const before = trees.now;
  const seconds = before ? (tree.uptime_ms - before.uptime_ms) / 1_000 : 0;
  const rates = new Map();
  if (seconds > 0) {
    const note = (name, now, then) => rates.set(name, Math.max(0, now - then) / seconds);
    note("requests", tree.requests, before.requests);
    for (const name of ["commits", "records", "syncs", "bytes"]) {
      note(name, tree.statistics[name], before.statistics[name]);
    }
    const processed = new Map(before.actors.map((actor) => [actorKey(actor), actor.processed]));
    for (const actor of tree.actors) {
      const then = processed.get(actorKey(actor));
      if (then !== undefined) note(actorKey(actor), actor.processed, then);
    }
    for (const name of ["requests", "commits"]) {
      const trend = trees.trends[name] ?? [];
      trees.trends[name] = [...trend, rates.get(name)].slice(-TREND_POINTS);
    }
  }
  trees = { now: tree, rates: seconds > 0 ? rates : trees.rates, trends: trees.trends };
  heardAt = Date.now();
  connection("good", "Live");
  problem("");
  keepEntityFresh(tree);
  draw();
}

function problem(text) {
  const place = byId("problem");
  if (place.textContent === text) return;
  place.replaceChildren(...(text ? [h("p", { class: "notice" }, text)] : []));
}

// ---- Parts of views -------------------------------------------------------------------------

const STATES = { ok: "good", active: "good", starting: "warn", stopping: "warn", draining: "warn" };
const pill = (text, state = STATES[text] ?? "bad") => h("span", { class: `pill ${state}` }, text);
const card = (title, ...content) => h("section", { class: "card" }, h("h2", {}, title), content);
const empty = (text) => h("p", { class: "empty" }, text);
const href = (kind, id) => `#/actor/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;

function spark(values, label) {
  if (!values || values.length < 2) return null;
  const top = Math.max(...values, 1);
  const x = (index) => ((index / (TREND_POINTS - 1)) * 100).toFixed(1);
  const y = (value) => (19 - (value / top) * 18).toFixed(1);
  const points = values.map((value, index) => `${x(index)},${y(value)}`);
  const box = { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img" };
  const line = h("polyline", { points: points.join(" ") });
  return h("svg", { ...box, "aria-label": label }, line);
}

const tile = (label, value, note, chart) =>
  h("div", { class: "tile" },
    h("dt", {}, label),
    h("dd", { class: "value" }, value),
    note ? h("dd", { class: "note" }, note) : null,
    chart ? h("dd", {}, chart) : null);

/** A table; a column is `[title, cell of a row, whether it is a number]`. */
function table(caption, columns, rows, keyOfRow, isCurrent = () => false) {
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

const mailbox = ({ mailbox: waiting, mailbox_max: max }) =>
  h("span", { class: "meter" },
    h("meter", {
      value: waiting, max, high: max * MAILBOX_WARNING, "aria-label": "Mailbox in use",
    }),
    `${count(waiting)}/${count(max)}`);

const current = (actor) =>
  actor.command
    ? [h("code", {}, actor.command), h("span", { class: "turn" }, ` ${duration(actor.command_ms)}`)]
    : "–";

function troubles({ crashes, last_error }) {
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

const actorTable = (caption, actors) => table(caption, ACTOR_COLUMNS, actors, actorKey);

/** What an operator should look at, as whole sentences. */
function attention(tree) {
  const found = [];
  const say = (state, link, ...text) => found.push({ state, link, text });
  if (tree.statistics.low_space) {
    say("bad", null, `The disk is nearly full (${bytes(tree.statistics.free_bytes)} left): new work is refused.`);
  }
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

// ---- Views ----------------------------------------------------------------------------------

function overview(tree) {
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
      tile("Reminders waiting", count(tree.reminders_waiting))),
    card("What needs attention", found.length
      ? h("ul", { class: "attention" }, found.map(({ state, link, text }) =>
          h("li", { class: state }, text[0], link ? h("a", { href: link }, text[1]) : null)))
      : empty("Nothing needs attention.")),
    card("Busiest entities", busiest.length
      ? actorTable(null, busiest)
      : empty("No entity is live. Entities come to memory with their first command.")),
  ];
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

function supervision(tree) {
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

const kinds = (tree) => tree.kinds.map((kind) =>
  h("section", { class: "card", "data-key": kind.kind },
    h("h2", {}, kind.kind),
    h("p", { class: "row quiet" }, kindSummary(kind).slice(1)),
    quarantine(kind), commandTable(kind)));

function journal(tree) {
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

// ---- One entity -----------------------------------------------------------------------------

let entity = null;
let entityCall = 0;
let goingSoon = 0;

function open(kind, id) {
  entity = { kind, id, at: null, page: null, before: null, error: null };
  loadEntity();
}

const entityPath = (query) =>
  `/v1/operator/actors/${encodeURIComponent(entity.kind)}/${encodeURIComponent(entity.id)}${query}`;

/** Loads the entity as the screen wants it, and what it was one record before. */
async function loadEntity() {
  const [mine, shown] = [(entityCall += 1), entity];
  const load = async (at) => {
    const query = at === null ? "" : `?at=${at}`;
    return (await api(entityPath(query))).json();
  };
  try {
    const page = await load(shown.at);
    const before = page.at > 1 ? (await load(page.at - 1)).state : null;
    if (mine !== entityCall || entity !== shown) return;
    Object.assign(shown, { page, before, error: null });
  } catch (failure) {
    if (mine !== entityCall || failure instanceof SessionEnded) return;
    shown.error = failure.message;
  }
  draw();
}

/** While the present is shown, a new record loads it again. */
function keepEntityFresh(tree) {
  if (!entity?.page || entity.at !== null || route().view !== "actor") return;
  const found = tree.actors.find((actor) => actorKey(actor) === actorKey(entity));
  if (found && found.seq > entity.page.head) loadEntity();
}

function goTo(at) {
  const last = entity.page.head;
  const seq = Math.round(Number(at));
  if (!Number.isFinite(seq)) return;
  entity.at = at === null || seq >= last ? null : Math.max(1, seq);
  loadEntity();
}

/** While the slider moves, only where it rests is loaded. */
function goSoon(at) {
  clearTimeout(goingSoon);
  byId("at").value = at;
  goingSoon = setTimeout(() => entity && goTo(at), SLIDER_REST_MS);
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

function scrubber(page) {
  const { head: last, at } = page;
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

function liveCard(actor) {
  if (!actor) {
    return card("Actor", empty("It is not in memory now. Its next command brings it back."));
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

function actorView(tree) {
  const { page, error } = entity;
  const notice = error ? h("p", { class: "notice", role: "alert" }, error) : null;
  if (!page) return [notice ?? h("p", { class: "loading" }, "Loading…")];
  const found = tree.actors.find((actor) => actorKey(actor) === actorKey(entity));
  const oldest = page.history.at(-1)?.seq ?? 0;
  return [
    notice,
    h("p", { class: "quiet" }, "Tenant ", h("span", { class: "mono" }, page.tenant_id)),
    liveCard(found ?? page.view),
    h("div", { class: "columns" },
      card(entity.at === null ? "State now" : `State after record ${page.at}`,
        scrubber(page),
        h("pre", { tabindex: "0", "aria-label": "State" }, JSON.stringify(page.state, null, 2))),
      card(`What record ${page.at} changed`, page.at
        ? changes(entity.before, page.state)
        : empty("Nothing was recorded yet."))),
    card("History", page.history.length
      ? table(null, HISTORY_COLUMNS, page.history, (entry) => String(entry.seq),
          (entry) => entry.seq === page.at)
      : empty("Nothing was recorded yet."),
      oldest > 1 ? empty(`Records before ${count(oldest)} are not listed.`) : null),
  ];
}

// ---- The page -------------------------------------------------------------------------------

const VIEWS = {
  overview: { title: "Overview", render: overview },
  tree: { title: "Supervision tree", render: supervision },
  kinds: { title: "Kinds and commands", render: kinds },
  journal: { title: "Journal", render: journal },
  actor: { title: "Entity", render: actorView },
};

function route() {
  const [view, ...rest] = location.hash.replace(/^#\//, "").split("/");
  const part = (text) => {
    try {
      return decodeURIComponent(text ?? "");
    } catch {
      return text;
    }
  };
  if (!Object.hasOwn(VIEWS, view)) return { view: "overview" };
  return { view, kind: part(rest[0]), id: part(rest.slice(1).join("/")) };
}

/** Shows the login or the view that the address names. */
function show(moveFocus = false) {
  const isIn = session !== null;
  for (const id of ["views", "logout", "workspace"]) byId(id).hidden = !isIn;
  byId("login").hidden = isIn;
  if (!isIn) {
    problem("");
    if (moveFocus !== null) byId("email").focus();
    return;
  }
  const { view, kind, id } = route();
  if (view === "actor") {
    if (!entity || entity.kind !== kind || entity.id !== id) open(kind, id);
  } else entity = null;
  const title = view === "actor" ? `${kind}/${id}` : VIEWS[view].title;
  byId("title").textContent = title;
  document.title = `${title} · Bailiwick console`;
  byId("search").hidden = view !== "tree";
  for (const link of document.querySelectorAll("#views a")) {
    const isHere = link.dataset.view === view;
    const holdsIt = view === "actor" && link.dataset.view === "tree";
    if (isHere || holdsIt) link.setAttribute("aria-current", isHere ? "page" : "true");
    else link.removeAttribute("aria-current");
  }
  const place = byId("view");
  if (place.dataset.view !== title) {
    place.replaceChildren(h("p", { class: "loading" }, "Loading…"));
  }
  place.dataset.view = title;
  draw();
  if (moveFocus) {
    byId("title").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function draw() {
  const place = byId("view");
  place.setAttribute("aria-busy", String(!trees.now));
  if (!session || !trees.now) return;
  const fresh = VIEWS[route().view].render(trees.now);
  morphChildren(place, fresh.flat(Infinity).filter((part) => part instanceof Node));
}

byId("login").onsubmit = logIn;
byId("logout").onclick = () => end();
byId("filter").oninput = draw;
addEventListener("hashchange", () => show(true));
setInterval(() => {
  if (following && heardAt && Date.now() - heardAt > STALE_MS) {
    connection("bad", "No news");
  }
}, 1_000);
show();
if (session) follow();
