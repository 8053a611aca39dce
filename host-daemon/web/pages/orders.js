// Work orders: the list with its filter, or one order told as a colleague would; decisions for those who may take them.

import { get, part, post } from "../api.js";
import { confirm } from "../ask.js";
import { h } from "../dom.js";
import { words } from "../format.js";
import { actionText, choices, isAdvice, orderTable } from "../orders.js";
import { badge, button, domainLink, section } from "../parts.js";
import { tale } from "../why.js";

const STATES = ["proposed", "approved", "applied", "verified", "kept", "rolled_back", "rejected", "expired", "failed"];
const PAGE = 50;

/** @param {import("../main.js").Context} context @param {string[]} path @param {URLSearchParams} query */
export function page(context, path, query) {
  return path[0] ? one(context, path[0]) : list(context, query);
}

function list(context, query) {
  let state = query.get("state") ?? "";
  let domain = query.get("domain") ?? "";
  let orders = [];
  let next = null;
  let pages = 1;
  let names = [];

  async function read() {
    const found = [];
    let before = null;
    for (let at = 0; at < pages; at += 1) {
      const filter = [`limit=${PAGE}`, state && `state=${part(state)}`, domain && `domain=${part(domain)}`, before && `before=${before}`];
      const answer = await get(`orders?${filter.filter(Boolean).join("&")}`);
      found.push(...answer.orders);
      before = answer.next_before;
      if (before === null) break;
    }
    orders = found;
    next = before;
  }

  const choose = async () => {
    const filter = [state && `state=${part(state)}`, domain && `domain=${part(domain)}`].filter(Boolean).join("&");
    history.replaceState(null, "", filter ? `#/orders?${filter}` : "#/orders");
    pages = 1;
    await read();
    context.redraw();
  };

  return {
    title: "Orders",
    async load(tick) {
      names = tick ? tick.domains.map((one) => one.name) : (await get("domains")).domains.map((one) => one.name);
      await read();
    },
    view() {
      const option = (value, chosen, label) => h("option", { value, selected: value === chosen }, label);
      const all = [...new Set([...names, ...(domain ? [domain] : [])])];
      return section(
        "Work orders",
        h(
          "p.filter",
          null,
          h(
            "span",
            null,
            h("label", { for: "state" }, "State "),
            h(
              "select",
              { id: "state", "data-action": "state" },
              option("", state, "all"),
              STATES.map((name) => option(name, state, words(name))),
            ),
          ),
          h(
            "span",
            null,
            h("label", { for: "domain" }, "Domain "),
            h(
              "select",
              { id: "domain", "data-action": "domain" },
              option("", domain, "all"),
              all.map((name) => option(name, domain, name)),
            ),
          ),
        ),
        orderTable(orders, { full: true }, context.mayChange ? buttons : null),
        next === null ? null : h("button", { type: "button", "data-action": "older" }, "Show older orders"),
      );
    },
    actions: {
      ...decisions(context),
      async state(element) {
        state = element.value;
        await choose();
      },
      async domain(element) {
        domain = element.value;
        await choose();
      },
      async older() {
        pages += 1;
        await context.reload();
      },
    },
  };
}

function one(context, id) {
  let order;
  let story;
  return {
    title: `Order ${id}`,
    async load() {
      [order, story] = await Promise.all([get(`orders/${part(id)}`), get(`orders/${part(id)}/why`)]);
    },
    view() {
      return [
        h("p", { "data-key": "what" }, domainLink(order.domain_name), `: ${actionText(order.action)} `, badge(order.state)),
        context.mayChange ? h("p.decide", { "data-key": "decide" }, buttons(order)) : null,
        section("Why", tale(story, order.action)),
        h("p", { "data-key": "back" }, h("a", { href: "#/orders" }, "All orders")),
      ];
    },
    actions: decisions(context),
  };
}

const LABELS = { approve: "Approve", reject: "Reject", rollback: "Roll back" };

function buttons(order) {
  return choices(order).map((choice) => button(choice, order.id, LABELS[choice], `order ${order.id}`));
}

const MEANING = {
  approve: "kvmpilot makes this change now, and measures whether it helps.",
  reject: "Nothing is changed, and it is not proposed again for a while.",
  rollback: "The value before the change goes back now.",
};

/** What the buttons do: ask, send, say what came of it. */
function decisions(context) {
  const decide = (choice) => async (element) => {
    const id = element.getAttribute("data-value");
    const order = await get(`orders/${part(id)}`);
    const meaning =
      choice === "approve" && isAdvice(order) ? "Somebody else does it: kvmpilot only notes that it will be done." : MEANING[choice];
    const text = [`${order.domain_name}: ${actionText(order.action)}`, order.reason.summary, meaning];
    if (!(await confirm(`${LABELS[choice]} order ${id}?`, text.filter(Boolean), LABELS[choice]))) return;
    const reply = await post(`orders/${part(id)}/${choice}`);
    context.say(reply.message);
    await context.reload();
  };
  return { approve: decide("approve"), reject: decide("reject"), rollback: decide("rollback") };
}
