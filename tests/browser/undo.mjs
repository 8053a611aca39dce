// Rolls one order back and rejects another, as a person does. Arguments: address, directory for screenshots, a token that may
// change something, the order to roll back. The last line of its output is JSON: the order that was rejected.

import { Browser, ensure, until } from "./browser.mjs";

const [base, shots, token, id] = process.argv.slice(2);
const browser = await Browser.start(base, shots);
const page = await browser.page({ width: 1280, height: 800, scheme: "light" });
const state = async (order) => (await (await page.request.get(`${base}/api/v1/orders/${order}`)).json()).state;

async function decide(button, verb) {
  await button.click();
  await page.getByRole("dialog").getByRole("button", { name: verb, exact: true }).click();
}

await page.goto(`${base}/#/orders/${id}`);
await page.locator("main").getByText("What came of it").waitFor();
await browser.enterToken(page, token);
await decide(page.getByRole("button", { name: `Roll back order ${id}`, exact: true }), "Roll back");
await until("the rollback", async () => (await state(id)) === "rolled_back");
await page.locator("main").getByText("It is not in force any more").waitFor();
await browser.shot(page, "order-rolled-back");

await page.goto(`${base}/#/orders?state=proposed`);
// The list follows events: what is last now need not be so in a moment.
const last = page.getByRole("button", { name: /^Reject order/ }).last();
const rejected = Number(await last.getAttribute("data-value"));
await decide(page.locator(`[data-action=reject][data-value="${rejected}"]`), "Reject");
await until("the rejection", async () => (await state(rejected)) === "rejected");
await until(
  "the order to leave the list",
  async () => (await page.locator(`[data-action=reject][data-value="${rejected}"]`).count()) === 0,
);
ensure(page.url().endsWith("#/orders?state=proposed"), "the filter is gone");
await browser.shot(page, "orders-light");
await browser.end();
console.log(JSON.stringify({ rejected }));
