// Questions to the person: a confirmation, a token.

import { token } from "./api.js";
import { h } from "./dom.js";

/**
 * @param {string} title @param {string[]} text @param {string} yes label of the button that goes ahead
 * @returns {Promise<boolean>}
 */
export function confirm(title, text, yes) {
  return show(title, [text.map((line) => h("p", null, line))], yes).then((answer) => answer !== null);
}

/** Asks for a token. @returns {Promise<boolean>} whether there is another one now */
export async function askToken() {
  const input = h("input", { type: "password", id: "token-field", autocomplete: "off", spellcheck: "false" });
  const field = /** @type {HTMLInputElement} */ (input);
  const text = [
    h("p", null, "A token says who you are and whether you may change something. It stays in this tab only."),
    h("label", { for: "token-field" }, "Token (empty to forget it)"),
    field,
  ];
  const answer = await show("Access token", text, "Use it");
  if (answer === null) return false;
  token.set(field.value.trim());
  return true;
}

/** @returns {Promise<string|null>} null if the person changed their mind */
function show(title, content, yes) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("dialog"));
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "dialog-title" }, title),
    ...content,
    h(
      "div.choices",
      null,
      h("button.quiet", { type: "button", value: "no" }, "Cancel"),
      h("button", { type: "submit", value: "yes" }, yes),
    ),
  );
  return new Promise((resolve) => {
    let answer = null;
    form.addEventListener("submit", (event) => {
      // Nothing is sent anywhere: the answer is for this page.
      event.preventDefault();
      answer = "yes";
      dialog.close();
    });
    form.querySelector("[value=no]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => resolve(answer), { once: true });
    dialog.replaceChildren(form);
    dialog.showModal();
  });
}
