// Dark, light, or as the system says; remembered in this browser.

const KEY = "kvmpilot-theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };

/** @param {HTMLElement} button @param {() => void} changed */
export function theme(button, changed) {
  const show = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = `Theme: ${name}`;
  };
  let name = localStorage.getItem(KEY) ?? "auto";
  if (!(name in NEXT)) name = "auto";
  show(name);
  button.addEventListener("click", () => {
    name = NEXT[name];
    localStorage.setItem(KEY, name);
    show(name);
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
