// A browser that notes what must not happen: errors on the console, requests to other hosts, answers that nobody expected.

import fs from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** How long anything may take to appear. */
export const PATIENCE = 30000;

export class Browser {
  /** @param {string} base address of the console @param {string} shots directory for screenshots */
  static async start(base, shots) {
    fs.mkdirSync(shots, { recursive: true });
    const options = { executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] };
    return new Browser(await chromium.launch(options), base, shots);
  }

  constructor(chrome, base, shots) {
    Object.assign(this, { chrome, base, shots, faults: [], expected: new Set() });
  }

  /** A page of its own, without anything that another one remembers. */
  async page({ width, height, scheme }) {
    const context = await this.chrome.newContext({ viewport: { width, height }, colorScheme: scheme });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on("console", (message) => {
      if (message.type() !== "error" && message.type() !== "warning") return;
      // The browser itself says so of each answer of 400 and more; `response` below knows which were wanted.
      if (message.text().startsWith("Failed to load resource")) return;
      this.faults.push(`console: ${message.text()}`);
    });
    page.on("pageerror", (error) => this.faults.push(`error on the page: ${error.stack}`));
    page.on("request", (request) => {
      if (!request.url().startsWith(`${this.base}/`) && !request.url().startsWith("data:")) this.faults.push(`request to ${request.url()}`);
    });
    page.on("response", (response) => {
      const what = `${response.status()} ${new URL(response.url()).pathname}`;
      if (response.status() >= 400 && !this.expected.has(what)) this.faults.push(`answer ${what}`);
    });
    return page;
  }

  /** What axe-core finds serious or critical. The script comes through the debugger: the page's own policy forbids it. */
  async accessible(page, what) {
    const debug = await page.context().newCDPSession(page);
    const expression = `${AXE}; axe.run().then((found) => JSON.stringify(found.violations))`;
    const { result, exceptionDetails } = await debug.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    await debug.detach();
    if (exceptionDetails) throw new Error(`axe-core does not run: ${JSON.stringify(exceptionDetails)}`);
    for (const { impact, id, nodes } of JSON.parse(result.value)) {
      if (impact !== "serious" && impact !== "critical") continue;
      this.faults.push(
        `${what}: ${impact} ${id}: ${nodes
          .slice(0, 3)
          .map((node) => `${node.html} ${node.any[0]?.message ?? ""}`)
          .join(" | ")}`,
      );
    }
  }

  /** Enters a token by the button for it. */
  async enterToken(page, token) {
    await page.getByRole("button", { name: "Token" }).click();
    await page.getByLabel(/^Token/).fill(token);
    await this.accessible(page, "the question for a token");
    await page.getByRole("button", { name: "Use it" }).click();
    await until("the token to count", async () => (await page.locator("#who").textContent()).includes("console-test"));
    ensure(!page.url().includes(token), "the token is in the address");
  }

  async shot(page, name) {
    await page.screenshot({ path: `${this.shots}/${name}.png` });
  }

  /** Nothing may be wider than the window, or the page could be pushed to the side. */
  async fits(page, what) {
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (over > 0) this.faults.push(`${what}: ${over} px wider than the window`);
  }

  async end() {
    await this.chrome.close();
    if (this.faults.length > 0) throw new Error(`the browser noted:\n${[...new Set(this.faults)].join("\n")}`);
  }
}

/** @param {any} holds @param {string} what */
export function ensure(holds, what) {
  if (!holds) throw new Error(what);
}

/** Waits until `look` returns something that holds. */
export async function until(what, look, patience = PATIENCE) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what} did not happen in ${patience / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
