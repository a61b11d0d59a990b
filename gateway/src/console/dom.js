// Elements: made from code, and changed only where they differ, so that focus, selection and
// opened parts stay as they are. Text goes into the page as text, never as markup.

export const byId = (id) => document.getElementById(id);

const LISTENERS = ["onclick", "oninput", "onchange", "onsubmit"];
const SVG = new Set(["svg", "polyline"]);

/** An element; `on…` are listeners, `null` and `false` leave an attribute or a child out. */
export function h(tag, attributes = {}, ...children) {
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

export function morphChildren(parent, fresh) {
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
