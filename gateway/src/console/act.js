// What an operator does: a dialog asks why, the server notes it and does it, and its answer is
// shown where it was asked for.

import { byId, h } from "./dom.js";
import { freezePath, isFreezable, sentence } from "./freeze.js";
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
  freeze: ["Freeze",
    "Every credential for it is refused and nothing new of it begins. What runs is stopped, what " +
      "is held is released, and the receipt says what was. It can be undone."],
  resume: ["Resume", "It goes on as it was; what waited meanwhile comes a few at a time."],
  verify: ["Verify",
    "All its records are replayed and compared with what its snapshot gives. Nothing changes."],
  erase: ["Erase",
    "For good: sessions, keys, memberships and invitations end, then the key is shredded. No " +
      "backup brings it back. A person's own tenant goes with the person."],
};

/** What can be erased, by kind, and where it is asked for. */
const ERASED_AT = { user: "/v1/users/", tenant: "/v1/tenants/" };

/** Who reads the reason, unless an act says otherwise. */
const NOTED = "It stands in the tenant's chain and in the platform's, with your name.";

let asked = null;

/** The buttons for an entity; `onAnswer` gets what came of an act. */
export function actButtons({ kind, id }, { isLive, isQuarantined, isFrozen }, onAnswer) {
  const names = ["passivate", "restart", isQuarantined ? "release" : "quarantine", "verify"];
  if (ERASED_AT[kind]) names.push("erase");
  if (isFreezable(kind)) names.push(isFrozen ? "resume" : "freeze");
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
  // What does not come back is named by hand.
  const confirmed = name === "erase" ? id : null;
  const classes = name === "freeze";
  askWhy({ title, about, whose: `${kind}/${id}`, confirmed, classes }, async (reason) => {
    const { done, message } = await sent(name, kind, id, reason);
    onAnswer({ done, text: `${title}: ${message}` });
  });
}

/** Asks for an act, and answers what came of it. */
async function sent(name, kind, id, reason) {
  if (name === "erase") return erase(kind, id, reason);
  if (name === "freeze" || name === "resume") {
    const chosen = name === "freeze" ? { reason_class: byId("act-class").value } : {};
    const answer = await api(freezePath(name, kind, id), { body: { reason, ...chosen } });
    return { done: true, message: sentence(await answer.json()) };
  }
  const path = `/v1/operator/actors/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;
  return (await api(path, { body: { action: name, reason } })).json();
}

async function erase(kind, id, reason) {
  const body = kind === "tenant" ? { confirm: id, reason } : { reason };
  const path = `${ERASED_AT[kind]}${encodeURIComponent(id)}/erase`;
  const receipt = await (await api(path, { body })).json();
  const { keys_shredded: keys, sessions_ended: sessions, took_ms: took } = receipt;
  const message = `done at ${receipt.erased_at} in ${took} ms; keys shredded: ${keys}, ` +
    `sessions ended: ${sessions}.`;
  return { done: true, message };
}

/**
 * Asks for a reason, and does with it what is to be done. What is `confirmed` has to be typed first;
 * with `classes` a class of reasons is chosen, too. A reason that `isOptional` may be left out, and
 * what `isSilent` has none; `note` says who reads it.
 */
export function askWhy(question, act) {
  const { title, about, whose, confirmed = null, classes = false } = question;
  const { isOptional = false, isSilent = false, note = NOTED } = question;
  asked = { act, confirmed };
  byId("act-why").hidden = isSilent;
  byId("act-reason").required = !isOptional && !isSilent;
  byId("act-label").textContent = isOptional ? "Note, which may be left out" : "Reason";
  byId("act-note").textContent = note;
  byId("act-title").textContent = `${title} ${whose}?`;
  byId("act-about").textContent = about;
  byId("act-go").textContent = title;
  byId("act-error").textContent = "";
  byId("act-reason").value = "";
  byId("act-confirmation").hidden = confirmed === null;
  byId("act-confirm").required = confirmed !== null;
  byId("act-confirm").value = "";
  byId("act-id").textContent = confirmed ?? "";
  byId("act-classes").hidden = !classes;
  byId("act").showModal();
  byId(isSilent ? "act-go" : "act-reason").focus();
}

async function carryOut(event) {
  event.preventDefault();
  const [button, error] = [byId("act-go"), byId("act-error")];
  const { act, confirmed } = asked;
  if (confirmed !== null && byId("act-confirm").value.trim() !== confirmed) {
    error.textContent = "That is not its id; nothing was done.";
    return;
  }
  [button.disabled, error.textContent] = [true, ""];
  try {
    await act(byId("act-reason").value);
    byId("act").close();
  } catch (failure) {
    if (failure instanceof SessionEnded) byId("act").close();
    else error.textContent = saying(failure);
  } finally {
    button.disabled = false;
  }
}

byId("act-form").onsubmit = carryOut;
byId("act-cancel").onclick = () => byId("act").close();
