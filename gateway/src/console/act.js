// What an operator does: a dialog asks why, the server notes it and does it, and its answer is
// shown where it was asked for.

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
};

let asked = null;

/** The buttons for an entity; `onAnswer` gets what came of an act. */
export function actButtons({ kind, id }, { isLive, isQuarantined }, onAnswer) {
  const names = ["passivate", "restart", isQuarantined ? "release" : "quarantine", "verify"];
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
  const path = `/v1/operator/actors/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;
  askWhy({ title, about, whose: `${kind}/${id}` }, async (reason) => {
    const body = { action: name, reason };
    const { done, message } = await (await api(path, { body })).json();
    onAnswer({ done, text: `${title}: ${message}` });
  });
}

/** Asks for a reason, and does with it what is to be done. */
export function askWhy({ title, about, whose }, act) {
  asked = act;
  byId("act-title").textContent = `${title} ${whose}?`;
  byId("act-about").textContent = about;
  byId("act-go").textContent = title;
  byId("act-error").textContent = "";
  byId("act-reason").value = "";
  byId("act").showModal();
  byId("act-reason").focus();
}

async function carryOut(event) {
  event.preventDefault();
  const [button, error] = [byId("act-go"), byId("act-error")];
  [button.disabled, error.textContent] = [true, ""];
  try {
    await asked(byId("act-reason").value);
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
