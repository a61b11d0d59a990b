// The console: logs in, follows the stream of trees, and draws the view that the address names.
//
// One tree is shown at a time. The modules beside this one: `session` asks the server, `tree`
// follows it, `views`, `entity`, `users`, `confirmations`, `flights` and `market` are what is
// shown, `act` is what is done, `parts`, `text`, `status` and `dom` are what they are made of.

import {
  closeConfirmations, confirmationsView, onConfirmations, openConfirmations,
} from "./confirmations.js";
import { byId, h, morphChildren } from "./dom.js";
import { close, entityView, keepFresh, onEntity, open } from "./entity.js";
import { closeFlights, flightsView, keepFlightsFresh, onFlights, openFlights } from "./flights.js";
import {
  appsView, closeMarket, developersView, onMarket, openMarket, payoutsView,
} from "./market.js";
import { end, isLoggedIn, logIn, onEnd, saying } from "./session.js";
import { problem } from "./status.js";
import { follow, onTree, stopFollowing, trees } from "./tree.js";
import { closeUsers, onUsers, openUsers, usersView } from "./users.js";
import { journal, kinds, overview, supervision } from "./views.js";

const VIEWS = {
  overview: { title: "Overview", render: overview },
  tree: { title: "Supervision tree", render: supervision },
  kinds: { title: "Kinds and commands", render: kinds },
  users: { title: "Users of a tenant", render: usersView },
  flights: { title: "In flight", render: flightsView },
  confirmations: { title: "What waits for somebody", render: confirmationsView },
  apps: { title: "Apps of the marketplace", render: appsView },
  payouts: { title: "Payouts that wait", render: payoutsView },
  developers: { title: "Developers", render: developersView },
  journal: { title: "Journal", render: journal },
  actor: { title: "Entity", render: entityView },
};

/** The views of the marketplace. */
const MARKET = ["apps", "payouts", "developers"];

const addressOf = (kind, id) =>
  `#/actor/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;

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
  const isIn = isLoggedIn();
  for (const id of ["views", "logout", "workspace"]) byId(id).hidden = !isIn;
  byId("login").hidden = isIn;
  if (!isIn) {
    problem("");
    byId("email").focus();
    return;
  }
  const { view, kind, id } = route();
  if (view === "actor") open(kind, id);
  else close();
  if (view === "users") openUsers(kind);
  else closeUsers();
  if (view === "confirmations") openConfirmations();
  else closeConfirmations();
  if (view === "flights") openFlights();
  else closeFlights();
  if (MARKET.includes(view)) openMarket(view, kind);
  else closeMarket();
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
  if (!isLoggedIn() || !trees.now) return;
  const fresh = VIEWS[route().view].render(trees.now);
  morphChildren(place, fresh.flat(Infinity).filter((part) => part instanceof Node));
}

/** The kinds to choose from, once they are known: they stay as long as the server. */
function fillKinds(tree) {
  const [select, names] = [byId("find-kind"), tree.kinds.map(({ kind }) => kind)];
  const isSame = names.length === select.options.length &&
    names.every((name, index) => select.options[index].value === name);
  if (isSame) return;
  const chosen = select.value || "wallet";
  select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  if (names.includes(chosen)) select.value = chosen;
}

async function submitLogin(event) {
  event.preventDefault();
  const form = event.target;
  const [button, error] = [form.querySelector("button"), byId("login-error")];
  [button.disabled, error.textContent] = [true, ""];
  try {
    const { email, password, otp } = Object.fromEntries(new FormData(form));
    await logIn(email, password, otp);
    form.reset();
    byId("second-factor").hidden = true;
    show(true);
    follow();
  } catch (failure) {
    const needsCode = failure.code === "second_factor_required";
    if (needsCode) {
      byId("second-factor").hidden = false;
      byId("otp").focus();
    }
    error.textContent = needsCode
      ? "Now type the code of your authenticator app, or a recovery code."
      : saying(failure);
  } finally {
    button.disabled = false;
  }
}

onEnd((message) => {
  stopFollowing();
  close();
  closeUsers();
  closeConfirmations();
  closeFlights();
  closeMarket();
  byId("act").close();
  byId("login-error").textContent = message;
  show();
});
onTree((tree) => {
  fillKinds(tree);
  if (route().view === "actor") keepFresh(tree);
  keepFlightsFresh();
  draw();
});
onUsers(draw);
onConfirmations(draw);
onFlights(draw);
onMarket(draw);
onEntity({
  changed: draw,
  // The address gets the entity's own id, without a step back to the one that was typed.
  named: (kind, id) => {
    history.replaceState(null, "", addressOf(kind, id));
    show();
  },
});
byId("login").onsubmit = submitLogin;
byId("logout").onclick = () => end();
byId("filter").oninput = draw;
byId("find").onsubmit = (event) => {
  event.preventDefault();
  location.hash = addressOf(byId("find-kind").value, byId("find-id").value.trim());
};
addEventListener("hashchange", () => show(true));
show();
if (isLoggedIn()) follow();
