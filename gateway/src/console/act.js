// What an operator does to one entity: a dialog asks why, the server notes it and does it, and its
// answer is shown on the entity's page.

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
};

let asked = null;

/** The buttons for an entity; `onAnswer` gets what came of an act. */
export function actButtons({ kind, id }, { isLive, isQuarantined, isFrozen }, onAnswer) {
  const names = ["passivate", "restart", isQuarantined ? "release" : "quarantine", "verify"];
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
  asked = { name, kind, id, onAnswer };
  byId("act-title").textContent = `${title} ${kind}/${id}?`;
  byId("act-about").textContent = about;
  byId("act-go").textContent = title;
  byId("act-error").textContent = "";
  byId("act-reason").value = "";
  byId("act-classes").hidden = name !== "freeze";
  byId("act").showModal();
  byId("act-reason").focus();
}

/** Asks for an act, and answers what came of it. */
async function sent(name, kind, id, reason) {
  if (name === "freeze" || name === "resume") {
    const chosen = name === "freeze" ? { reason_class: byId("act-class").value } : {};
    const answer = await api(freezePath(name, kind, id), { body: { reason, ...chosen } });
    return { done: true, message: sentence(await answer.json()) };
  }
  const path = `/v1/operator/actors/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;
  return (await api(path, { body: { action: name, reason } })).json();
}

async function carryOut(event) {
  event.preventDefault();
  const { name, kind, id, onAnswer } = asked;
  const [button, error] = [byId("act-go"), byId("act-error")];
  [button.disabled, error.textContent] = [true, ""];
  try {
    const reason = byId("act-reason").value;
    const { done, message } = await sent(name, kind, id, reason);
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
