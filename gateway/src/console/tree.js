// The tree of the whole system, as the server sends it each second, and what follows from two of
// them: rates a second, and the trend of the last minute.

import { SessionEnded, api } from "./session.js";
import { connection, problem } from "./status.js";

/** How many seconds a trend shows. */
export const TREND_POINTS = 60;
const RETRY_MS_MAX = 10_000;
const STALE_MS = 5_000;

/** The last tree, the rates by name, the trends by name. */
export let trees = nothing();
let following = null;
let heardAt = 0;
let whenTaken = () => {};

function nothing() {
  return { now: null, rates: new Map(), trends: {} };
}

export const live = (tree) => tree.kinds.reduce((sum, kind) => sum + kind.live, 0);
export const actorKey = (actor) => `${actor.kind}/${actor.id}`;

/** Says what to do with each tree, once it is in. */
export function onTree(listener) {
  whenTaken = listener;
}

/** Ends the following and forgets what it brought. */
export function stopFollowing() {
  following?.abort();
  following = null;
  trees = nothing();
  connection("", "");
}

/** Follows the stream until the session ends; a broken one is taken up again. */
export async function follow() {
  following?.abort();
  const mine = (following = new AbortController());
  const { signal } = mine;
  let retryMs = 500;
  connection("warn", "Connecting…");
  while (following === mine) {
    try {
      if (!trees.now) take(await (await api("/v1/operator/tree", { signal })).json());
      const response = await api("/v1/operator/stream", { signal });
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
  whenTaken(tree);
}

setInterval(() => {
  if (following && heardAt && Date.now() - heardAt > STALE_MS) connection("bad", "No news");
}, 1_000);
