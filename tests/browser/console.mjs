// Drives the web console as a person does. Arguments: address, directory for screenshots, a token that may change something.
// The last line of its output is JSON: the order that was approved, and what it sets.

import { Browser, ensure, until } from "./browser.mjs";

const [base, shots, token] = process.argv.slice(2);
const DESKTOP = { width: 1280, height: 800, scheme: "dark" };
const PHONE = { width: 360, height: 780, scheme: "light" };
/** Most bytes that the first page may cost. */
const BUDGET = 300_000;

/** The pages, with what is on them when they show live data, and how many charts. */
const PAGES = [
  ["overview", "#/", ["Domains by need", "web", "batch", "Findings", "CPU pressure"]],
  ["map", "#/map", ["Package 0", "pcpu 0", "web/0", "batch/1"]],
  ["domain", "#/domain/web", ["Where the time of its vcpus goes", "httpd", "Processes", "What each means would do next"], 4],
  ["steal", "#/steal", ["Who ran while whose vcpus waited", "the host", "Largest takers"]],
  ["services", "#/services/shop", ["Components", "httpd runs", "Transitions"]],
  ["orders", "#/orders", ["Work orders", "CPU weight: 1024"]],
  ["health", "#/health", ["Nothing is wrong", "Own cost", "weight.protect", "Pressure: share"], 2],
];

const browser = await Browser.start(base, shots);
const step = (text) => console.log(`${((Date.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}`);
const began = Date.now();

/** Goes to a page and waits for its content. */
async function visit(page, hash, words) {
  await page.goto(`${base}/${hash}`);
  for (const word of words) await page.locator("main").getByText(word).first().waitFor({ state: "attached" });
}

async function firstPage(page) {
  const bodies = [];
  // The stream has no end.
  const count = (response) => bodies.push(response.url().endsWith("/events") ? [] : response.body());
  page.on("response", count);
  await visit(page, "#/", ["Domains by need", "web"]);
  await until("the stream of events", async () => (await page.locator("#live").textContent()) === "live");
  page.off("response", count);
  const bytes = (await Promise.all(bodies)).reduce((sum, body) => sum + body.length, 0);
  ensure(bytes > 30_000 && bytes < BUDGET, `the first page took ${bytes} bytes`);
  const policy = (await page.request.get(`${base}/`)).headers()["content-security-policy"];
  ensure(policy.includes("default-src 'none'") && !policy.includes("unsafe"), `policy: ${policy}`);
  step(`the first page is there and live, with ${Math.round(bytes / 1000)} kB`);

  // By keyboard alone to the content.
  await page.keyboard.press("Tab");
  ensure(await page.evaluate(() => document.activeElement.textContent.includes("Skip")), "the first stop is no skip link");
  await page.keyboard.press("Enter");
  ensure(await page.evaluate(() => document.activeElement.id === "main"), "the skip link does not lead to the content");
}

async function everyPage(page, size, name) {
  for (const [title, hash, words, charts] of PAGES) {
    await visit(page, hash, words);
    if (charts)
      await page
        .locator(".plot canvas")
        .nth(charts - 1)
        .waitFor();
    await browser.fits(page, `${title} at ${size.width}`);
    await browser.accessible(page, `${title} at ${size.width}`);
    await browser.shot(page, `${title}-${name}`);
  }
  step(`${PAGES.length} pages at ${size.width} px, ${size.scheme}`);
}

/** Figures and charts change without anybody touching the page. */
async function itMoves(page) {
  await visit(page, "#/domain/web", []);
  const plot = page.locator("[data-chart=cpu]");
  const look = async () => ({
    at: Number(await plot.getAttribute("data-last")),
    drawn: await plot.locator("canvas").evaluate((canvas) => canvas.toDataURL()),
  });
  await plot.locator("canvas").waitFor();
  // What a person has unfolded and where they are stays, whatever is drawn anew.
  const unfolded = await page.locator("main details").first().elementHandle();
  await (await unfolded.$("summary")).click();
  ensure(await unfolded.evaluate((details) => details.open && details.contains(document.activeElement)), "nothing is unfolded");
  const before = await until("the chart to be drawn", async () => {
    const now = await look();
    return now.at > 0 && now;
  });
  const after = await until("the chart to move", async () => {
    const now = await look();
    return now.at > before.at && now.drawn !== before.drawn && now;
  });
  ensure(
    await unfolded.evaluate((details) => details.open && details.contains(document.activeElement)),
    "it was folded, or lost the focus",
  );
  step(`a chart moved on by ${(after.at - before.at) / 1000} s`);
}

/** Dark and light by the switch, remembered. */
async function switchTheme(page) {
  const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const found = new Set([await ground()]);
  const button = page.getByRole("button", { name: /^Theme/ });
  await button.click();
  ensure((await button.textContent()) === "Theme: light", "it is not light");
  found.add(await ground());
  // Also before the page has anything to draw: once that was an error (CI of 2026-11-26).
  let answer;
  const held = new Promise((resolve) => (answer = resolve));
  await page.route("**/api/v1/domains/**", async (route) => {
    await held;
    await route.continue();
  });
  await page.goto(`${base}/#/domain/web`);
  await page.reload();
  await page.locator("main h1").waitFor();
  ensure((await button.textContent()) === "Theme: light", "it forgot the theme");
  await button.click();
  await button.click();
  found.add(await ground());
  ensure((await page.locator("main dl.tiles").count()) === 0, "the page was there before its answers");
  answer();
  await page.locator("main dl.tiles").first().waitFor();
  await page.unrouteAll({ behavior: "wait" });
  ensure(found.size === 2, `colours of the ground: ${[...found]}`);
  step("dark, light and back");
}

/** Without a token: no buttons for changes, and the API says no, with and without the console's own header. */
async function readOnly(page) {
  ensure((await page.locator("#who").textContent()) === "read-only", "it does not say that it is read-only");
  for (const hash of ["#/", "#/orders", "#/domain/web"]) {
    await visit(page, hash, []);
    await until("content", () => page.locator("main table").count());
    ensure((await page.getByRole("button", { name: /approve|reject|roll back/i }).count()) === 0, `${hash} has buttons`);
  }
  await visit(page, "#/orders?state=proposed", ["CPU weight"]);
  const id = await weightOrder(page);
  browser.expected.add(`403 /api/v1/orders/${id}/approve`);
  for (const headers of [{ "X-Kvmpilot": "1" }, {}]) {
    const status = await page.evaluate(
      ([url, headers]) => fetch(url, { method: "POST", headers }).then((answer) => answer.status),
      [`api/v1/orders/${id}/approve`, headers],
    );
    ensure(status === 403, `the API answered ${status}`);
  }
  await visit(page, `#/orders/${id}`, ["What was seen", "weight.protect", "It waits for a decision"]);
  ensure((await page.locator("main button").count()) === 0, "an order has buttons");
  await browser.accessible(page, "an order");
  await browser.shot(page, "order-read-only");
  step(`nobody without a token can decide on order ${id}`);
}

/** The number of web's proposed weight, from the list that is shown. */
function weightOrder(page) {
  const row = page
    .locator("main tr", { hasText: "CPU weight: 1024" })
    .filter({ has: page.getByRole("link", { name: "web", exact: true }) });
  return row.first().locator("th").textContent();
}

/** Who clicks faster than pages come gets the page that was clicked last. */
async function overtaken(page) {
  await visit(page, "#/", ["Domains by need"]);
  let answer;
  const held = new Promise((resolve) => (answer = resolve));
  await page.route("**/assets/pages/steal.js", async (route) => {
    await held;
    await route.continue();
  });
  await page.evaluate(() => (location.hash = "#/steal"));
  await visit(page, "#/", []);
  const came = page.waitForResponse("**/assets/pages/steal.js");
  answer();
  await came;
  // Its turn came and went when the module is there for everybody and a frame was drawn.
  await page.evaluate(() => import("/assets/pages/steal.js").then(() => new Promise(requestAnimationFrame)));
  await page.locator("main").getByText("Domains by need").first().waitFor();
  ensure((await page.locator("main").getByText("Largest takers").count()) === 0, "an earlier page came late");
  ensure((await page.locator("main").getByText("Domains by need").count()) > 0, "the last page is not there");
  await page.unrouteAll({ behavior: "wait" });
  step("a page that comes late stays away");
}

/** What a guest calls itself is text, whatever it is. */
async function hostileNames(page) {
  const nasty = "<img src=x onerror=alert(1)>";
  await page.route("**/processes", async (route) => {
    const answer = await route.fetch();
    const body = await answer.json();
    body.applications[0].name = nasty;
    await route.fulfill({ response: answer, json: body });
  });
  page.on("dialog", () => browser.faults.push("a name was run"));
  await visit(page, "#/domain/web", [nasty]);
  ensure((await page.locator("main img").count()) === 0, "a name became an element");
  await page.unrouteAll({ behavior: "wait" });
  step("a hostile name stays text");
}

/** With the token that is entered, buttons are there; one of them approves. */
async function approve(page) {
  await browser.enterToken(page, token);

  await visit(page, "#/orders?state=proposed&domain=web", ["CPU weight"]);
  const id = await weightOrder(page);
  const button = page.getByRole("button", { name: `Approve order ${id}`, exact: true });
  await button.click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("web: CPU weight: 1024").waitFor();
  await browser.accessible(page, "a confirmation");
  await browser.shot(page, "confirm-desktop");
  await dialog.getByRole("button", { name: "Cancel" }).click();
  ensure((await (await page.request.get(`${base}/api/v1/orders/${id}`)).json()).state === "proposed", "cancelled and yet approved");
  await button.click();
  await dialog.getByRole("button", { name: "Approve" }).click();
  await until(
    "the order to leave the list",
    async () => (await page.getByRole("button", { name: `Approve order ${id}`, exact: true }).count()) === 0,
  );
  await visit(page, `#/orders/${id}`, ["The original value is in the ledger", "token console-test"]);
  await browser.shot(page, "order-approved");
  step(`order ${id} is approved`);
  const { action } = await (await page.request.get(`${base}/api/v1/orders/${id}`)).json();
  return { order: Number(id), to: action.to };
}

/** Where nobody may even look without a token, the console asks for it by itself. Played by the browser: one daemon has one rule. */
async function tokenFirst(page) {
  await page.route("**/api/v1/**", (route) => {
    if (route.request().headers().authorization === `Bearer ${token}`) return route.continue();
    const json = { type: "about:blank", title: "Unauthorized", status: 401, detail: "clients need a token" };
    browser.expected.add(`401 ${new URL(route.request().url()).pathname}`);
    return route.fulfill({ status: 401, contentType: "application/problem+json", json });
  });
  await page.goto(`${base}/#/steal`);
  await page
    .getByRole("dialog")
    .getByLabel(/^Token/)
    .fill(token);
  ensure((await page.locator("#live").textContent()) === "no access", "it does not say that it has no access");
  await page.keyboard.press("Enter");
  await page.locator("main").getByText("Largest takers").waitFor();
  await until("the stream of events", async () => (await page.locator("#live").textContent()) === "live");
  await page.unrouteAll({ behavior: "ignoreErrors" });
  step("it asks for a token where none may do without");
}

/** When the daemon cannot be reached, the console says so and since when, and comes back by itself. */
async function silence(page) {
  await visit(page, "#/", ["Domains by need"]);
  await until("the stream of events", async () => (await page.locator("#live").textContent()) === "live");
  await page.context().setOffline(true);
  const reply = await until("word of the silence", async () => {
    const text = await page.locator("#live").textContent();
    return /disconnected since \d\d:\d\d:\d\d/.test(text) && text;
  });
  await page.context().setOffline(false);
  await until("the stream to come back", async () => (await page.locator("#live").textContent()) === "live");
  step(`it said "${reply}", and came back`);
}

const desktop = await browser.page(DESKTOP);
await firstPage(desktop);
await overtaken(desktop);
await readOnly(desktop);
await everyPage(desktop, DESKTOP, "desktop");
await itMoves(desktop);
await hostileNames(desktop);
await switchTheme(desktop);
const phone = await browser.page(PHONE);
await everyPage(phone, PHONE, "phone");
await silence(desktop);
await tokenFirst(await browser.page(PHONE));
const outcome = await approve(desktop);
await browser.end();
console.log(JSON.stringify(outcome));
