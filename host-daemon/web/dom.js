// Making and renewing elements. Texts go in as text, never as markup: names of domains, processes and services come from
// guests.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element: `h("td.num", {title: "..."}, "12 %")`. Attributes that are null or false are left out; `vars` sets
 * custom properties through the CSSOM, which the Content-Security-Policy permits (an attribute `style` it does not).
 * @param {string} what tag and classes
 * @param {Object<string, any>|null} [attributes]
 * @param {...any} children nodes, texts, numbers, or lists of them; null and false are left out
 * @returns {HTMLElement}
 */
export function h(what, attributes, ...children) {
  const [tag, ...classes] = what.split(".");
  return build(document.createElement(tag), classes, attributes, children);
}

/**
 * The same for SVG.
 * @param {string} what
 * @param {Object<string, any>|null} [attributes]
 * @param {...any} children
 * @returns {SVGElement}
 */
export function s(what, attributes, ...children) {
  const [tag, ...classes] = what.split(".");
  return build(document.createElementNS(SVG, tag), classes, attributes, children);
}

function build(element, classes, attributes, children) {
  if (classes.length > 0) element.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "vars") {
      for (const [key, text] of Object.entries(value)) element.style.setProperty(key, String(text));
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Makes `old` look like `fresh` with as few changes as there can be, so that focus, selection, scroll positions and what is
 * unfolded stay where they are while figures change. Children with the same `data-key` are the same; elements with
 * `data-own` are somebody else's inside.
 * @param {Element} old
 * @param {Element} fresh
 */
export function renew(old, fresh) {
  const focused = document.activeElement;
  renewElement(old, fresh);
  if (focused instanceof HTMLElement && focused !== document.activeElement && old.contains(focused)) {
    focused.focus({ preventScroll: true });
  }
}

function renewElement(old, fresh) {
  renewAttributes(old, fresh);
  if (old.hasAttribute("data-own")) return;
  let at = old.firstChild;
  for (const want of [...fresh.childNodes]) {
    const have = same(at, want);
    if (!have) {
      old.insertBefore(want, at);
      continue;
    }
    if (have === at) at = at.nextSibling;
    else old.insertBefore(have, at);
    if (have instanceof Element) renewElement(have, want);
    else if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** The node, `at` or behind it, that `want` renews. */
function same(at, want) {
  const key = keyOf(want);
  if (key === null) return at && at.nodeName === want.nodeName && keyOf(at) === null ? at : null;
  for (let node = at; node; node = node.nextSibling) {
    if (node.nodeName === want.nodeName && keyOf(node) === key) return node;
  }
  return null;
}

function keyOf(node) {
  return node instanceof Element ? node.getAttribute("data-key") : null;
}

function renewAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    // A person unfolds and chooses; `style` follows below.
    if (name !== "style" && name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (name !== "style" && name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
}
