// Numbers, sizes and durations in words.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (number) => WHOLE.format(number ?? 0);
export const plural = (number, one, many = `${one}s`) =>
  `${count(number)} ${number === 1 ? one : many}`;

export function rate(perSecond) {
  if (perSecond === undefined) return "–";
  return perSecond < 10 ? perSecond.toFixed(1) : count(perSecond);
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; number >= 1024 && unit < units.length - 1; unit += 1) number /= 1024;
  return `${unit ? number.toFixed(1) : number} ${units[unit]}`;
}

export function micros(us) {
  if (us < 1_000) return `${count(us)} µs`;
  return us < 1_000_000 ? `${(us / 1_000).toFixed(1)} ms` : `${(us / 1e6).toFixed(1)} s`;
}

export function duration(ms) {
  if (ms < 1_000) return `${count(ms)} ms`;
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 60) return `${(ms / 1_000).toFixed(1)} s`;
  const [days, hours] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3_600) % 24];
  const minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${seconds % 60} s`;
}

/** A time as it is read: without fractions, in UTC. */
export const moment = (text) => text.replace("T", " ").replace(/(\.\d+)?Z$/, "");

/** The states of apps, and of payouts. */
export const APP_STATES = {
  draft: "draft", pending_review: "to review", active: "active", suspended: "suspended",
};
export const PAYOUT_STATES = {
  pending: "asked for", approved: "to be paid", paid: "paid", rejected: "rejected",
};

/** What is looked at before an app is reviewed. */
export const APP_CHECKS = {
  version_deployed: "A version is deployed",
  title_given: "It has a name",
  description_given: "It says what it is",
  icon_given: "It has an icon",
  category_given: "It has a category",
  functions_present: "It has functions",
  function_names_unique: "Its functions' names differ",
  prices_valid: "What has a price is there",
  host_callable: "Its host may be called, where it needs one",
  no_secrets_in_envelope: "No secrets stand in it",
};
