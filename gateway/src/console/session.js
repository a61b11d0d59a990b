// The operator's session: the tokens live in this tab's session storage and go nowhere but to
// this server. A token that has run out is exchanged once, however many requests notice it.

const SESSION = "bailiwick-operator";

let session = JSON.parse(sessionStorage.getItem(SESSION) ?? "null");
let refreshing = null;
let whenEnded = () => {};

/** The session is over: whoever asked need not tell it again. */
export class SessionEnded extends Error {}

export const isLoggedIn = () => session !== null;

/** Says what to do when the session ends: a function of the reason, which may be empty. */
export function onEnd(listener) {
  whenEnded = listener;
}

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

/** What a refusal says: the message of its problem document. */
async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  const detail = typeof body.detail === "string" ? body.detail : body.message;
  return detail || `The server answered ${response.status}.`;
}

/** Asks this server; a body makes it a POST, or what `method` says. A refusal is an error with the
 * problem's message. */
export async function api(path, { signal, body, method } = {}, mayRefresh = true) {
  if (!session) throw new SessionEnded();
  const headers = { authorization: `Bearer ${session.access_token}` };
  const request = { headers, signal };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    Object.assign(request, { method: method ?? "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, request);
  if (response.ok) return response;
  if (response.status !== 401) {
    const hint = response.status === 403 ? "This account is not an operator. " : "";
    throw new Error(hint + (await problemOf(response)));
  }
  if (mayRefresh) {
    refreshing ??= refresh().finally(() => (refreshing = null));
    if (await refreshing) return api(path, { signal, body, method }, false);
  }
  end("Your session is over. Log in again.");
  throw new SessionEnded();
}

/** Forgets the tokens. */
export function end(message = "") {
  session = null;
  sessionStorage.removeItem(SESSION);
  whenEnded(message);
}

/** Logs in; a refusal is an error with the problem's message, and its code as `code`. */
export async function logIn(email, password, otp) {
  const response = await post("/v1/auth/login", { email, password, otp: otp || null });
  if (!response.ok) {
    const { error: code } = await response.clone().json().catch(() => ({}));
    throw Object.assign(new Error(await problemOf(response)), { code });
  }
  keep(await response.json());
}

/** What went wrong, for people. */
export const saying = (failure) =>
  failure instanceof TypeError ? "The server cannot be reached." : failure.message;
