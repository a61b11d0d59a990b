// What console.sh does in the browser. Arguments: the server's address, the browser's program and
// a folder for screenshots, which may be empty.

const { launch } = require("puppeteer-core");

const [url, executablePath, shots] = process.argv.slice(2);
const email = process.env.BAILIWICK_OPERATOR_EMAIL;
const password = process.env.BAILIWICK_OPERATOR_PASSWORD;
const serviceToken = process.env.BAILIWICK_SERVICE_TOKEN;
const RECORDS = 60;
const HISTORY_PAGE = 25;
const WIDTHS = { desk: [1280, 900], phone: [390, 844] };
const WAIT = { timeout: 20_000 };

let complaints = [];
let problemsExpected = 0;

function ok(what) {
  if (complaints.length) throw new Error(`${what}:\n  ${complaints.join("\n  ")}`);
  console.log(`ok ${what}`);
}

async function ask(path, { method = "POST", headers = {}, body } = {}) {
  const sent = { method, headers: { "content-type": "application/json", ...headers } };
  if (body) sent.body = JSON.stringify(body);
  const response = await fetch(url + path, sent);
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return response.json();
}

/** A user with a wallet that has more records than one page of a history shows. */
async function makeWallet() {
  const service = { "x-service-token": serviceToken };
  const account = { email: "ada@example.com", password: "a-long-enough-password" };
  const tokens = await ask("/v1/auth/register", { headers: service, body: account });
  const user = { authorization: `Bearer ${tokens.access_token}` };
  const me = await ask("/v1/auth/me", { method: "GET", headers: user });
  for (let number = 0; number < RECORDS; number += 1) {
    const body = { amount: 1, reason: `debit ${number}` };
    await ask("/v1/billing/debits", { headers: user, body });
  }
  const spend = () => ask("/v1/billing/debits", {
    headers: user, body: { amount: 1, reason: "once more" },
  });
  return { user: me.imperal_id, spend };
}

/** An app of one function, which is called for a price. */
const valuer = (id, version) => ({
  ir_version: "1.0",
  app: {
    id, version, title: "Book valuer", capabilities: ["store"],
    functions: [{
      name: "value", action_type: "write", params_schema: { title: { type: "string" } },
      impl: {
        kind: "declarative",
        steps: [{ id: "put", op: "store.create",
          args: { kind: "report", data: { title: "{{args.title}}" } } }],
      },
    }],
  },
});

/** A developer with an app that has earned, one that waits for a review, and a payout. */
async function makeMarket(operator) {
  const service = { "x-service-token": serviceToken };
  const register = async (name) => {
    const account = { email: `${name}@example.com`, password: "a-long-enough-password" };
    const tokens = await ask("/v1/auth/register", { headers: service, body: account });
    const user = { authorization: `Bearer ${tokens.access_token}` };
    const { tenant_id: tenant } = await ask("/v1/auth/me", { method: "GET", headers: user });
    const grant = { credits: 40_000, kind: "paid", reason: "for the pictures" };
    await ask(`/v1/operator/tenants/${tenant}/grants`, { headers: operator, body: grant });
    return user;
  };
  const [dora, bob] = [await register("dora"), await register("bob")];
  await ask("/v1/developer/register", { headers: dora, body: { tier: "indie", nickname: "dora" } });
  const deploy = async (id, texts) => {
    const app = { app_id: id, display_name: "Book valuer", pricing_model: "per_action",
      git_url: "https://example.com/valuer.git", pricing_config: { default: 2_500 }, ...texts };
    await ask("/v1/developer/apps", { headers: dora, body: app });
    const params = { app_id: id, ir_dict: valuer(id, "1.0.0") };
    const call = { function: "deploy_ir", params };
    await ask("/v1/extensions/developer/call", { headers: dora, body: call });
  };
  await deploy("valuer", { description: "Values a book and keeps a report of it", icon: "book" });
  await deploy("appraiser", {});
  await ask("/v1/admin/apps/valuer/approve", { headers: operator, body: {} });
  const call = { function: "value", params: { title: "Emma" } };
  await ask("/v1/extensions/valuer/batch", { headers: bob, body: { calls: Array(8).fill(call) } });
  const earned = async () =>
    (await ask("/v1/developer/earnings", { method: "GET", headers: dora })).available;
  for (let looks = 0; looks < 100 && (await earned()) < 12_000; looks += 1) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const payout = () =>
    ask("/v1/developer/payouts", { headers: dora, body: { amount_tokens: 10_000 } });
  return { dora, payout };
}

/** Notes everything that a page must not do. */
function watch(page) {
  page.on("console", (message) => {
    const text = message.text();
    // A refusal that a step provokes is logged by the browser itself.
    if (problemsExpected > 0 && text.startsWith("Failed to load resource")) problemsExpected -= 1;
    else complaints.push(`console ${message.type()}: ${text}`);
  });
  page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
  page.on("request", (request) => {
    const to = request.url();
    if (!to.startsWith(url) && !to.startsWith("data:")) complaints.push(`leaves: ${to}`);
  });
  page.on("requestfailed", (request) => {
    const why = request.failure()?.errorText ?? "";
    if (why !== "net::ERR_ABORTED") complaints.push(`failed: ${request.url()} ${why}`);
  });
}

async function look(page, name) {
  const [scrolled, width] = await page.evaluate(() =>
    [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  if (scrolled > width) complaints.push(`${name} is ${scrolled} px wide in ${width} px`);
  await page.evaluate(() => scrollTo(0, 0));
  if (shots) await page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
}

const text = (page, selector) => page.$eval(selector, (element) => element.textContent);
const says = (page, selector, part) =>
  page.waitForFunction(
    (selector, part) => document.querySelector(selector)?.textContent.includes(part),
    WAIT, selector, part);

async function logIn(page) {
  await page.goto(`${url}/console`);
  await page.waitForSelector("#login:not([hidden])", WAIT);
  await page.type("#email", email);
  await page.type("#password", "not the password");
  problemsExpected = 1;
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("#login-error").textContent, WAIT);
  await page.$eval("#password", (input) => (input.value = ""));
  await page.type("#password", password);
  await page.keyboard.press("Enter");
  await says(page, "#view", "Busiest entities");
}

async function views(page, width) {
  for (const view of [
    "overview", "tree", "kinds", "users", "flights", "confirmations", "apps", "payouts",
    "developers", "journal",
  ]) {
    await page.click(`#views a[data-view="${view}"]`);
    await page.waitForFunction(
      (view) => document.querySelector(`#views a[data-view="${view}"][aria-current="page"]`)
        && !document.querySelector("#view .loading"), WAIT, view);
    await look(page, `${view}-${width}`);
  }
}

async function history(page, user, width) {
  await find(page, "wallet", user);
  const title = await text(page, "#title");
  if (title.includes(user)) complaints.push(`the address kept the id that was typed: ${title}`);
  // The wallet has a few more records than debits: its welcome credits, its ledger's numbers.
  const shown = await text(page, ".pages .quiet");
  const [oldest, newest, head] = shown.match(/\d+/g).map(Number);
  if (newest !== head || oldest !== head - HISTORY_PAGE + 1) complaints.push(`the newest page is ${shown}`);
  await look(page, `entity-${width}`);
  const button = (label) => `::-p-xpath(//div[contains(@class,"pages")]/button[text()="${label}"])`;
  await page.click(button("Older"));
  await says(page, ".pages", `Records ${oldest - HISTORY_PAGE} to ${oldest - 1} of`);
  await page.click(button("Older"));
  await says(page, ".pages", `Records 1 to ${oldest - HISTORY_PAGE - 1} of`);
  await page.click('button[aria-label="State after record 2"]');
  await says(page, "#view", "State after record 2");
  await says(page, ".changes", "→");
  await look(page, `entity-before-${width}`);
  await page.click(button("Newest"));
  await says(page, ".pages", `to ${head} of ${head}`);
}

async function act(page, name, expected, width) {
  await page.click(`button[data-act="${name}"]`);
  await page.waitForSelector("#act[open]", WAIT);
  await page.type("#act-reason", `to see what ${name} does`);
  await look(page, `${name}-${width}`);
  await page.click("#act-go");
  await says(page, ".answer", expected);
  await page.waitForFunction(() => !document.querySelector("#act").open, WAIT);
}

/** A reason that the server refuses: its words are shown, and the dialog stays. */
async function refused(page) {
  await page.click('button[data-act="verify"]');
  await page.waitForSelector("#act[open]", WAIT);
  await page.$eval("#act-reason", (area) => (area.value = "turned \u202e around"));
  problemsExpected = 1;
  await page.click("#act-go");
  await says(page, "#act-error", "reason: must not hold");
  await page.click("#act-cancel");
}

async function find(page, kind, id) {
  await page.click('#views a[data-view="tree"]');
  await page.waitForSelector("#find-kind option", WAIT);
  await page.select("#find-kind", kind);
  await page.$eval("#find-id", (input) => (input.value = ""));
  await page.type("#find-id", id);
  await page.click("#find button");
  await says(page, "#view", "State now");
}

/** Frozen with a receipt, and resumed. */
async function freeze(page, user, width) {
  await find(page, "tenant", user);
  await act(page, "freeze", "Stopped in", width);
  await says(page, "#view", "frozen");
  await page.waitForSelector('button[data-act="resume"]', WAIT);
  await look(page, `frozen-${width}`);
  await act(page, "resume", "It goes on", width);
  await page.waitForSelector('button[data-act="freeze"]', WAIT);
}

/** Erased, once its id has been typed. */
async function erase(page, user, width) {
  await find(page, "user", user);
  await page.click('button[data-act="erase"]');
  await page.waitForSelector("#act[open]", WAIT);
  await page.type("#act-reason", "they asked for it");
  await page.type("#act-confirm", "somebody else");
  await page.click("#act-go");
  await says(page, "#act-error", "That is not its id");
  await page.$eval("#act-confirm", (input) => (input.value = ""));
  await page.type("#act-confirm", await text(page, "#act-id"));
  await look(page, `erase-${width}`);
  await page.click("#act-go");
  await says(page, ".answer", "keys shredded");
  await look(page, `erased-${width}`);
}

/** Presses a button of the view, types a reason, if one is asked for, and waits for the answer. */
async function decide(page, button, reason, expected, shot) {
  await page.click(`::-p-xpath(${button})`);
  await page.waitForSelector("#act[open]", WAIT);
  if (reason) await page.type("#act-reason", reason);
  if (shot) await look(page, shot);
  await page.click("#act-go");
  await says(page, ".answer", expected);
  await page.waitForFunction(() => !document.querySelector("#act").open, WAIT);
}

const inRow = (key, label) => `//tr[@data-key="${key}"]//button[text()="${label}"]`;
const inQueue = (key, label) => `//li[@data-key="${key}"]//button[text()="${label}"]`;

/** An app rejected, submitted again and approved, suspended and taken up; a payout paid. */
async function market(page, { dora, payout }, width) {
  const open = async (view, text) => {
    await page.click(`#views a[data-view="${view}"]`);
    await says(page, "#view", text);
  };
  await open("apps", "2 checks not met");
  await page.click('li[data-key="appraiser"] summary');
  await look(page, `review-${width}`);
  await decide(page, inQueue("appraiser", "Reject…"), "it says nothing of itself", "draft",
    `reject-${width}`);
  await says(page, "#view", "Nothing waits for a review.");
  const params = { app_id: "appraiser", ir_dict: valuer("appraiser", `1.0.${width.length}`) };
  await ask("/v1/extensions/developer/call",
    { headers: dora, body: { function: "deploy_ir", params } });
  await page.waitForSelector('li[data-key="appraiser"]', WAIT);
  await decide(page, inQueue("appraiser", "Approve…"), null, "active");
  await decide(page, inRow("appraiser", "Suspend…"), "a complaint", "suspended");
  await page.select("#apps-state", "suspended");
  await page.waitForFunction(() => location.hash === "#/apps/suspended", WAIT);
  await page.waitForFunction(() => document.querySelectorAll("#view tbody tr").length === 1, WAIT);
  await decide(page, inRow("appraiser", "Take up…"), "the complaint was none", "active");
  await says(page, "#view", "There is no such app.");
  ok(`${width}: an app rejected, approved, suspended and taken up`);
  const { id } = await payout();
  await open("payouts", "asked for");
  await look(page, `payout-${width}`);
  await decide(page, inRow(id, "Approve…"), null, "to be paid");
  const end = width === "desk" ? ["Reject…", "rejected"] : ["Paid…", "paid"];
  await decide(page, inRow(id, end[0]), "as agreed", end[1], `payout-end-${width}`);
  await says(page, "#view", "No payout waits.");
  await open("developers", "dora");
  ok(`${width}: a payout approved, then ${end[1]}; developers`);
  // For the next width.
  if (width === "desk") {
    for (const status of ["suspended", "draft"]) {
      await ask("/v1/admin/apps/appraiser/status",
        { headers: { "x-service-token": serviceToken }, body: { status } });
    }
    await ask("/v1/extensions/developer/call", { headers: dora, body: { function: "deploy_ir",
      params: { app_id: "appraiser", ir_dict: valuer("appraiser", "1.1.0") } } });
  }
}

async function docs(page, width) {
  await page.goto(`${url}/docs`);
  await page.waitForSelector("details.operation", WAIT);
  await page.type("#search", "debits");
  await page.click("details.operation:not([hidden]) summary");
  await page.waitForSelector("details.operation[open] .curl", WAIT);
  await look(page, `docs-${width}`);
}

async function walk(browser, { user, spend }, shop, width) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const [pixels, height] = WIDTHS[width];
  await page.setViewport({ width: pixels, height });
  watch(page);
  await logIn(page);
  ok(`${width}: logged in, after a refusal`);
  await views(page, width);
  ok(`${width}: every view`);
  await market(page, shop, width);
  await history(page, user, width);
  ok(`${width}: an entity by its user's id, its history and its state before`);
  await refused(page);
  ok(`${width}: a refusal is shown in its own words`);
  await act(page, "verify", "the same state", width);
  await act(page, "quarantine", "until it is released", width);
  await says(page, "#view .notice", "quarantine");
  await page.waitForSelector('button[data-act="release"]', WAIT);
  await look(page, `quarantine-${width}`);
  await act(page, "release", "commands again", width);
  await page.waitForSelector('button[data-act="quarantine"]', WAIT);
  ok(`${width}: verified, quarantined and released`);
  await spend();
  await page.waitForSelector('button[data-act="passivate"]:not([disabled])', WAIT);
  await act(page, "passivate", "leaves memory", width);
  await page.waitForSelector('button[data-act="passivate"][disabled]', WAIT);
  await says(page, "#view", "It is not in memory now.");
  ok(`${width}: passivated, and looking at it did not bring it back`);
  await freeze(page, user, width);
  ok(`${width}: a tenant frozen with a receipt, and resumed`);
  if (width === Object.keys(WIDTHS).at(-1)) {
    await erase(page, user, width);
    ok(`${width}: a person erased, once the id was typed`);
  }
  await page.click("#logout");
  await page.waitForSelector("#login:not([hidden])", WAIT);
  await docs(page, width);
  ok(`${width}: logged out; the documentation`);
  await context.close();
}

async function main() {
  const wallet = await makeWallet();
  const { access_token: token } = await ask("/v1/auth/login", { body: { email, password } });
  const shop = await makeMarket({ authorization: `Bearer ${token}` });
  const args = ["--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic"];
  // As root there is no sandbox to be had.
  if (process.getuid?.() === 0) args.push("--no-sandbox");
  const browser = await launch({ executablePath, args, headless: true });
  try {
    for (const width of Object.keys(WIDTHS)) await walk(browser, wallet, shop, width);
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(`console: ${error.message}`);
  for (const complaint of complaints) console.error(`  ${complaint}`);
  process.exit(1);
});
