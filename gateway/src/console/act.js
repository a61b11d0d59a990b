// What an operator does to one entity: a dialog asks why, the server notes it and does it, and its
// answer is shown on the entity's page.

import { byId, h } from "./dom.js";
import { SessionEnded, api, saying } from "./session.js";

/** The acts: what the button says, and what will happen. */
const ACTS = {
  passivate: ["Passivate",
    "It finishes what it has and leaves memory; its next command brings it back."],
  restart: ["Restart",
    "It ends at once. What waits in its mailbox is refused; its next command starts it anew " +
      "from its records."],
  quarantine: ["Quarantine", "It ends at once and takes no command until it is released."],
  release: ["Release", "It takes commands again, and its crashes are forgotten."],
  verify: ["Verify",
    "All its records are replayed and compared with what its snapshot gives. Nothing changes."],
  erase: ["Erase",
    "For good: sessions, keys, memberships and invitations end, then the key is shredded. No " +
      "backup brings it back. A person's own tenant goes with the person."],
};

/** What can be erased, by kind, and where it is asked for. */
const ERASED_AT = { user: "/v1/users/", tenant: "/v1/tenants/" };

let asked = null;

/** The buttons for an entity; `onAnswer` gets what came of an act. */
export function actButtons({ kind, id }, { isLive, isQuarantined }, onAnswer) {
  const names = ["passivate", "restart", isQuarantined ? "release" : "quarantine", "verify"];
  if (ERASED_AT[kind]) names.push("erase");
  // What is not in memory can neither leave it nor start anew.
  const needsActor = ["passivate", "restart"];
  return h("div", { class: "buttons" }, names.map((name) =>
    h("button", {
      type: "button", "data-act": name, disabled: !isLive && needsActor.includes(name),
      onclick: () => ask(name, kind, id, onAnswer),
    }, ACTS[name][0])));
}

function ask(name, kind, id, onAnswer) {
  const [title, about] = ACTS[name];
  asked = { name, kind, id, onAnswer };
  byId("act-title").textContent = `${title} ${kind}/${id}?`;
  byId("act-about").textContent = about;
  byId("act-go").textContent = title;
  byId("act-error").textContent = "";
  byId("act-reason").value = "";
  // What does not come back is named by hand.
  const isErasure = name === "erase";
  byId("act-confirmation").hidden = !isErasure;
  byId("act-confirm").required = isErasure;
  byId("act-confirm").value = "";
  byId("act-id").textContent = id;
  byId("act").showModal();
  byId("act-reason").focus();
}

async function act(name, kind, id) {
  const path = `/v1/operator/actors/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;
  const body = { action: name, reason: byId("act-reason").value };
  return (await api(path, { body })).json();
}

async function erase(_name, kind, id) {
  const confirm = byId("act-confirm").value.trim();
  if (confirm !== id) return Promise.reject(new Error("That is not its id; nothing was erased."));
  const reason = byId("act-reason").value;
  const body = kind === "tenant" ? { confirm, reason } : { reason };
  const path = `${ERASED_AT[kind]}${encodeURIComponent(id)}/erase`;
  const receipt = await (await api(path, { body })).json();
  const { keys_shredded: keys, sessions_ended: sessions, took_ms: took } = receipt;
  const message = `done at ${receipt.erased_at} in ${took} ms; keys shredded: ${keys}, ` +
    `sessions ended: ${sessions}.`;
  return { done: true, message };
}

async function carryOut(event) {
  event.preventDefault();
  const { name, kind, id, onAnswer } = asked;
  const [button, error] = [byId("act-go"), byId("act-error")];
  [button.disabled, error.textContent] = [true, ""];
  try {
    const { done, message } = await (name === "erase" ? erase : act)(name, kind, id);
    byId("act").close();
    onAnswer({ done, text: `${ACTS[name][0]}: ${message}` });
  } catch (failure) {
    if (failure instanceof SessionEnded) byId("act").close();
    else error.textContent = saying(failure);
  } finally {
    button.disabled = false;
  }
}

byId("act-form").onsubmit = carryOut;
byId("act-cancel").onclick = () => byId("act").close();
