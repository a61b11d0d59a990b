// The API's pages: reads the OpenAPI 3.1 document of this server and shows its operations.
//
// Text goes into the page as text, never as markup. An operation's details are made when it is
// first opened. Deliberate limits: references within the document only, and schemas are shown to
// a depth of DEPTH_MAX; a type that holds itself is named where it comes again.

const DOCUMENT = "/v1/openapi.json";
const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
const DEPTH_MAX = 6;
const COPIED_MS = 1_500;
const LIMITS = {
  minimum: "at least", maximum: "at most", minLength: "characters at least", pattern: "matches",
  maxLength: "characters at most", maxItems: "items at most", default: "default",
};
const PHRASES = {
  200: "Done", 201: "Made", 202: "Taken in", 204: "Done, no body", 400: "Malformed request",
  401: "No valid credential", 402: "Not enough credits", 403: "Not allowed",
  404: "Not there, or not yours", 409: "Conflicts with the present state", 410: "Over",
  413: "Body too large", 422: "A value is not valid", 429: "Too many requests",
  500: "The server failed", 503: "Busy, or the outcome is in doubt", 507: "Low space",
};

const byId = (id) => document.getElementById(id);
const content = byId("content");
const search = byId("search");
let [api, operations] = [{}, []];

// ---- Elements -------------------------------------------------------------------------------

const isThere = (value) => value !== null && value !== undefined && value !== false;

/** An element; children that are `null`, `undefined` or `false` are left out. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter(isThere));
  return element;
}

/** Text with `code` between backticks. */
function inline(text) {
  const parts = String(text).split("`");
  return parts.map((part, index) => (index % 2 === 1 ? h("code", {}, part) : part));
}

function paragraphs(text, attributes = {}) {
  const blocks = String(text ?? "").split(/\n\s*\n/).filter((block) => block.trim());
  return blocks.map((block) => h("p", attributes, inline(block)));
}

// ---- The document ---------------------------------------------------------------------------

/** What a `$ref` stands for, and its name. */
function resolve(value) {
  const { $ref: ref, ...beside } = value ?? {};
  if (typeof ref !== "string" || !ref.startsWith("#/")) return { value: value ?? {}, name: null };
  const names = ref.slice(2).split("/").map((it) => it.replace(/~1/g, "/").replace(/~0/g, "~"));
  const found = names.reduce((at, name) => at?.[name], api);
  return { value: { ...found, ...beside }, name: names.at(-1) };
}

/** Every operation, with what it is searched by. */
function operationsOf(doc) {
  const found = [];
  for (const [path, item] of Object.entries(doc.paths ?? {})) {
    for (const method of METHODS.filter((name) => item[name])) {
      const operation = item[method];
      const shared = [...(item.parameters ?? []), ...(operation.parameters ?? [])];
      const parameters = shared.map((parameter) => resolve(parameter).value);
      const names = parameters.map((parameter) => parameter.name);
      const { summary, description, operationId, tags = ["other"] } = operation;
      const words = [method, path, summary, description, operationId, tags, names].flat();
      found.push({
        id: `${method}${path}`.replace(/[^A-Za-z0-9]+/g, "-"),
        method, path, operation, parameters, tags, words: words.join(" ").toLowerCase(),
      });
    }
  }
  return found;
}

/** The groups in the document's order; a group without operations is left out. */
function groupsOf(doc) {
  const told = new Map((doc.tags ?? []).map(({ name, description }) => [name, description]));
  for (const { tags } of operations) {
    for (const name of tags) if (!told.has(name)) told.set(name, "");
  }
  const membersOf = (name) => operations.filter((it) => it.tags[0] === name);
  const group = ([name, description]) => ({ name, description, members: membersOf(name) });
  return [...told].map(group).filter(({ members }) => members.length > 0);
}

// ---- Schemas --------------------------------------------------------------------------------

function typeOf(schema) {
  const { value, name } = resolve(schema);
  const types = [value.type ?? []].flat();
  const alternatives = value.oneOf ?? value.anyOf;
  if (alternatives) return alternatives.map(typeOf).join(" or ");
  if (value.enum) return value.enum.map((it) => JSON.stringify(it)).join(" | ");
  if ("const" in value) return JSON.stringify(value.const);
  const one = (type) => {
    if (type === "array") return `array of ${typeOf(value.items ?? {})}`;
    if (type === "object" && name) return name;
    return value.format ? `${type} (${value.format})` : type;
  };
  if (types.length > 0) return types.map(one).join(" or ");
  return name ?? (value.properties || value.allOf ? "object" : "any");
}

/** Properties of a schema, also of all its parts: `[name, schema, required]`. */
function propertiesOf(schema) {
  const { value } = resolve(schema);
  const required = new Set(value.required ?? []);
  const own = Object.entries(value.properties ?? {});
  const parts = (value.allOf ?? []).flatMap(propertiesOf);
  return [...parts, ...own.map(([name, inner]) => [name, inner, required.has(name)])];
}

/** What is inside a schema as a nested list; `null` if there is nothing to tell. */
function inside(schema, seen = []) {
  const { value, name } = resolve(schema);
  if (seen.length >= DEPTH_MAX || (name && seen.includes(name))) return null;
  const path = [...seen, name];
  if (value.items) return inside(value.items, path);
  const alternatives = value.oneOf ?? value.anyOf;
  if (alternatives) return alternatives.map((it) => inside(it, path)).filter(Boolean);
  const rows = propertiesOf(schema).map(([key, inner, must]) => field(key, inner, must, path));
  const others = value.additionalProperties;
  if (others && typeof others === "object") rows.push(field("any name", others, false, path));
  return rows.length > 0 ? h("ul", { class: "fields" }, rows) : null;
}

function field(name, schema, must, seen, place = "") {
  const { value } = resolve(schema);
  const limits = Object.keys(LIMITS).filter((key) => value[key] !== undefined);
  const limit = (key) => ` · ${LIMITS[key]} ${JSON.stringify(value[key])}`;
  return h("li", {},
    h("code", {}, name), " ",
    h("span", { class: "quiet" }, typeOf(schema), limits.map(limit), place && ` · ${place}`),
    must && [" ", h("span", { class: "must" }, "required")],
    paragraphs(value.description),
    inside(schema, seen));
}

function sample(schema, depth = 0, key = "") {
  const { value } = resolve(schema);
  const told = value.example ?? value.examples?.[0] ?? value.default;
  if (isThere(told) || told === false) return told;
  if (value.enum) return value.enum[0];
  if ("const" in value) return value.const;
  const alternatives = value.oneOf ?? value.anyOf;
  if (alternatives) {
    const real = alternatives.find((it) => resolve(it).value.type !== "null");
    return sample(real ?? {}, depth + 1, key);
  }
  const type = [value.type ?? []].flat().find((it) => it !== "null");
  if (type === "integer" || type === "number") return value.minimum ?? 1;
  if (type === "boolean") return true;
  if (type === "array") return depth < DEPTH_MAX ? [sample(value.items ?? {}, depth + 1)] : [];
  if (type === "string") return value.format === "email" ? "ada@example.com" : key.toUpperCase();
  if (depth >= DEPTH_MAX) return {};
  const wanted = propertiesOf(schema).filter(([, , must]) => must);
  return Object.fromEntries(wanted.map(([name, it]) => [name, sample(it, depth + 1, name)]));
}

// ---- curl -----------------------------------------------------------------------------------

const variable = (name) => `$${name.toUpperCase().replace(/[^A-Z0-9]+/g, "_")}`;
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The security schemes that an operation takes; empty when it needs none. */
function schemesOf({ operation }) {
  const names = (operation.security ?? api.security ?? []).flatMap((it) => Object.keys(it));
  const known = api.components?.securitySchemes ?? {};
  return names.map((name) => resolve(known[name]).value);
}

function credential(scheme) {
  if (scheme.type === "http") return `-H "Authorization: Bearer $TOKEN"`;
  return scheme.in === "header" ? `-H "${scheme.name}: ${variable(scheme.name)}"` : null;
}

function bodyWords(operation) {
  const contents = Object.entries(resolve(operation.requestBody).value.content ?? {});
  if (contents.length === 0) return [];
  const [type, { schema = {}, example }] = contents[0];
  const value = example ?? sample(schema);
  if (type === "application/x-www-form-urlencoded") {
    return Object.entries(value).map(([name, it]) => `--data-urlencode ${quoted(`${name}=${it}`)}`);
  }
  return [`-H 'Content-Type: ${type}'`, `-d ${quoted(JSON.stringify(value))}`];
}

function curl(entry) {
  const { method, path, operation, parameters } = entry;
  const query = parameters.filter((it) => it.in === "query" && it.required);
  const pairs = query.map((it) => `${it.name}=${variable(it.name)}`).join("&");
  const place = path.replace(/\{([^}]+)\}/g, (_, name) => variable(name));
  const url = `"${location.origin}${place}${pairs && `?${pairs}`}"`;
  const [scheme] = schemesOf(entry);
  const words = [scheme && credential(scheme), ...bodyWords(operation)].filter(Boolean);
  const verb = method === "get" ? [] : [`-X ${method.toUpperCase()}`];
  return ["curl -sS", ...verb, url, ...words].join(" ");
}

function curlView(entry) {
  const line = h("code", {}, curl(entry));
  const copy = async ({ currentTarget: button }) => {
    try {
      await navigator.clipboard.writeText(line.textContent);
      button.textContent = "Copied";
    } catch {
      // Without a secure origin there is no clipboard: the line is selected to copy by hand.
      getSelection().selectAllChildren(line);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, COPIED_MS);
  };
  const button = h("button", { type: "button", onclick: copy, "aria-live": "polite" }, "Copy");
  return h("div", { class: "curl" }, h("pre", {}, line), button);
}

// ---- Operations -----------------------------------------------------------------------------

function contentView(contents) {
  return Object.entries(contents ?? {}).map(([type, { schema }]) => [
    h("p", { class: "quiet" }, h("code", {}, type), schema && ` · ${typeOf(schema)}`),
    schema && inside(schema),
  ]);
}

function responseView([status, response]) {
  const { value } = resolve(response);
  const said = value.description || PHRASES[status] || "";
  const badge = h("span", { class: `badge s${status[0]}` }, status);
  return h("div", { class: "response" }, badge, " ", inline(said), contentView(value.content));
}

function accessOf(entry) {
  const label = (it) => (it.type === "http" ? "a bearer token" : `the header ${it.name}`);
  const labels = schemesOf(entry).map(label);
  return labels.length > 0 ? `Needs ${labels.join(" or ")}.` : "Open to everyone.";
}

function detailsOf(entry) {
  const { operation, parameters } = entry;
  const contents = resolve(operation.requestBody).value.content;
  const parameter = ({ name, schema, description, required, in: place }) =>
    field(name, { ...schema, description }, required, [], place);
  return h("div", {},
    operation.deprecated && h("p", { class: "problem" }, "Deprecated."),
    paragraphs(operation.description),
    h("p", { class: "quiet" }, accessOf(entry)),
    h("h3", {}, "Try it"), curlView(entry),
    parameters.length > 0 && [
      h("h3", {}, "Parameters"), h("ul", { class: "fields" }, parameters.map(parameter)),
    ],
    contents && [h("h3", {}, "Request body"), contentView(contents)],
    h("h3", {}, "Responses"), Object.entries(operation.responses ?? {}).map(responseView));
}

/** Makes an operation's details, once. */
function fill(entry) {
  if (entry.view.children.length === 1) entry.view.append(detailsOf(entry));
}

function operationView(entry) {
  const { id, method, path, operation } = entry;
  const view = h("details", { class: "operation", id },
    h("summary", {},
      h("span", { class: `badge ${method}` }, method.toUpperCase()), h("code", {}, path),
      h("span", { class: "quiet" }, inline(operation.summary ?? ""))));
  view.addEventListener("toggle", () => {
    if (view.open) fill(entry);
    if (view.open && location.hash !== `#${id}`) history.replaceState(null, "", `#${id}`);
  });
  entry.view = view;
  return view;
}

// ---- The page -------------------------------------------------------------------------------

function show(doc) {
  api = doc;
  operations = operationsOf(doc);
  const [groups, { title, version, description }] = [groupsOf(doc), doc.info];
  const section = ({ name, description: about, members }) => h("section", { id: `group-${name}` },
    h("h2", {}, name), paragraphs(about), members.map(operationView));
  content.replaceChildren(
    h("h1", {}, `${title} ${version}`), ...paragraphs(description),
    h("p", {}, h("a", { href: DOCUMENT }, "The OpenAPI document")),
    ...groups.map(section));
  const link = ({ name, members }) =>
    h("li", {}, h("a", { href: `#group-${name}` }, `${name} (${members.length})`));
  byId("groups").replaceChildren(h("ul", {}, groups.map(link)));
  byId("groups").hidden = groups.length === 0;
  search.disabled = false;
  filter();
  openTarget();
}

/** Shows the operations that have every word of the search. */
function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const { view, words: text } of operations) {
    view.hidden = !words.every((word) => text.includes(word));
  }
  for (const section of content.querySelectorAll("section")) {
    section.hidden = !section.querySelector("details:not([hidden])");
  }
  const [shown, total] = [operations.filter(({ view }) => !view.hidden).length, operations.length];
  byId("count").textContent = shown === total ? `${total} operations` : `${shown} of ${total}`;
}

/** Opens the operation that the address names. */
function openTarget() {
  const found = operations.find(({ id }) => `#${id}` === location.hash);
  if (!found) return;
  fill(found);
  found.view.open = true;
  found.view.scrollIntoView();
}

async function load() {
  content.setAttribute("aria-busy", "true");
  content.replaceChildren(h("p", { class: "quiet" }, "Loading…"));
  try {
    const response = await fetch(DOCUMENT);
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    show(await response.json());
  } catch (error) {
    const again = h("button", { type: "button", onclick: load }, "Try again");
    const text = `The API document could not be shown: ${error.message}.`;
    content.replaceChildren(h("div", { class: "problem", role: "alert" }, h("p", {}, text), again));
  }
  content.setAttribute("aria-busy", "false");
}

search.addEventListener("input", filter);
addEventListener("hashchange", openTarget);
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input")) return;
  event.preventDefault();
  search.focus();
});
load();
