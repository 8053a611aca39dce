// Starts the console: which page is shown, its renewal, the header.

import { ApiError, get, token } from "./api.js";
import { askToken } from "./ask.js";
import { h, renew } from "./dom.js";
import { time } from "./format.js";
import { live } from "./live.js";
import { theme } from "./theme.js";

/**
 * What a page module exports as `page`: a function that makes one for an address.
 * @typedef {object} Page
 * @property {string} title
 * @property {(tick: any) => Promise<void>} load reads what it needs; with a tick when something has changed
 * @property {() => any[]} view its content
 * @property {Record<string, (element: HTMLElement) => any>} [actions] by the `data-action` of buttons and fields
 * @property {(root: HTMLElement) => void} [drawn] after the content is on the screen
 * @property {() => void} [close]
 *
 * @typedef {{mayChange: boolean, name: string, redraw: () => void, reload: () => Promise<void>, say: (text: string) => void}} Context
 */

const main = document.getElementById("main");
const PAGES = { "": "overview", map: "map", domain: "domain", steal: "steal", services: "services", orders: "orders", health: "health" };

/** @type {Page|null} */
let page = null;
/** The page whose first load has ended; before, there is nothing that it could draw. @type {Page|null} */
let loaded = null;
/** Counts the pages that were asked for: what comes late of an earlier one is not wanted any more. */
let asked = 0;
let busy = false;
let silence = 0;
let lost = false;
/** States of orders that are worth a word. */
const NEWS = ["proposed", "failed", "rolled_back"];
/** How long it shows what was said last. */
const SAID_MS = 8000;

/** @type {Context} */
const context = {
  mayChange: false,
  name: "",
  redraw() {
    if (!page || page !== loaded) return;
    const fresh = h("main", { id: "main", tabindex: -1 }, h("h1", null, page.title), page.view());
    renew(main, fresh);
    page.drawn?.(main);
  },
  async reload() {
    const current = page;
    await current?.load(null);
    show(current);
  },
  say(text) {
    const said = document.getElementById("said");
    said.textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => said.replaceChildren(), SAID_MS);
  },
};

/** @param {boolean} moved whether another page was shown before */
async function open(moved) {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const turn = ++asked;
  page?.close?.();
  page = null;
  markNav(name === "domain" ? "" : name);
  if (!(name in PAGES)) {
    fail("There is no such page", "The links above lead to all there are.");
    return;
  }
  try {
    const module = await import(`./pages/${PAGES[name]}.js`);
    // Modules that are here already overtake one that is still on its way.
    if (turn !== asked) return;
    const next = module.page(context, rest.map(decodeURIComponent), new URLSearchParams(query));
    page = next;
    main.replaceChildren(h("h1", null, next.title));
    main.dataset.page = PAGES[name];
    if (moved) {
      // Who came by keyboard or listens goes on at the new content, not at the link.
      main.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    document.title = `${next.title} · kvmpilot`;
    await next.load(null);
    show(next);
  } catch (error) {
    if (turn !== asked) return;
    fail("This cannot be shown", error.message);
    if (error instanceof ApiError && error.status === 401) await enterToken();
  }
}

/** Draws what was loaded, unless another page was opened meanwhile. */
function show(current) {
  if (current !== page) return;
  loaded = current;
  context.redraw();
}

function fail(title, text) {
  page = null;
  main.replaceChildren(h("h1", null, title), h("p", null, text));
  document.title = "kvmpilot";
}

function markNav(name) {
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Renews the page, unless it is still being renewed or nobody looks. */
async function refresh(tick) {
  if (busy || !page || document.hidden) return;
  busy = true;
  const current = page;
  try {
    await current.load(tick);
    show(current);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404 && current === page) fail("It is gone", error.message);
  } finally {
    busy = false;
  }
}

function showState() {
  const label = document.getElementById("live");
  const words = {
    connecting: "connecting",
    live: "live",
    polling: "live, polling",
    denied: "no access",
    lost: `disconnected since ${time(live.heard)}`,
  };
  label.dataset.state = live.state;
  label.textContent = words[live.state];
  document.body.classList.toggle("stale", live.state === "lost");
}

/** After a silence the daemon may be another one, and what it lets us do, too. */
async function comeBack(state) {
  const back = lost && state !== "lost";
  lost = state === "lost";
  if (!back) return;
  await whoami();
  if (page) await refresh(null);
  else await open(false);
}

async function whoami() {
  const who = await get("whoami").catch((error) => ({ error }));
  context.mayChange = who.may_change === true;
  context.name = who.name ?? "";
  document.getElementById("who").textContent = context.mayChange ? context.name : "read-only";
  document.getElementById("token").hidden = context.mayChange && !token.get();
  const host = await get("host").catch(() => null);
  document.getElementById("host").textContent = host?.name ?? "";
}

async function enterToken() {
  if (!(await askToken())) return;
  live.again();
  await whoami();
  await open(true);
}

/** Buttons act on clicks, fields when their value changes. */
async function act(event, wanted) {
  const element = event.target instanceof Element ? event.target.closest("[data-action]") : null;
  if (!element || (element.tagName === "BUTTON") !== (wanted === "click")) return;
  try {
    await page?.actions?.[element.getAttribute("data-action")]?.(element);
  } catch (error) {
    context.say(error.message);
  }
}

main.addEventListener("click", (event) => void act(event, "click"));
main.addEventListener("input", (event) => void act(event, "input"));
document.getElementById("token").addEventListener("click", () => void enterToken());
theme(document.getElementById("theme"), () => context.redraw());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) void refresh(null);
});
addEventListener("hashchange", () => void open(true));
live.on("state", showState);
live.on("state", (state) => void comeBack(state));
live.on("tick", (tick) => void refresh(tick));
live.on("order", (order) => {
  if (NEWS.includes(order.state)) context.say(`Order ${order.id} for ${order.domain_name} is ${order.state.replaceAll("_", " ")}.`);
  void refresh(null);
});
await whoami();
void open(false);
live.start();
