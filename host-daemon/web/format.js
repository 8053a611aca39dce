// Figures as people read them. What is not known is a dash.

const NONE = "–";

/** @param {number|null|undefined} ratio 0 to 1 */
export function percent(ratio) {
  return known(ratio) ? `${number(ratio * 100)} %` : NONE;
}

/** @param {number|null|undefined} value 0 to 100 */
export function percentage(value) {
  return known(value) ? `${number(value)} %` : NONE;
}

/** @param {number|null|undefined} value */
export function number(value) {
  if (!known(value)) return NONE;
  if (value !== 0 && Math.abs(value) < 10) return value.toFixed(1);
  return String(Math.round(value));
}

const BYTES = ["B", "kB", "MB", "GB", "TB"];
const KIB = ["KiB", "MiB", "GiB", "TiB"];

/** @param {number|null|undefined} value bytes a second */
export function rate(value) {
  return known(value) ? `${scaled(value, 1000, BYTES)}/s` : NONE;
}

/** @param {number|null|undefined} value KiB */
export function memory(value) {
  return known(value) ? scaled(value, 1024, KIB) : NONE;
}

function scaled(value, step, units) {
  let at = 0;
  let rest = value;
  while (rest >= step && at < units.length - 1) {
    rest /= step;
    at += 1;
  }
  return `${at === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${units[at]}`;
}

/** @param {number|null|undefined} us */
export function micros(us) {
  if (!known(us)) return NONE;
  if (us < 1000) return `${Math.round(us)} µs`;
  return us < 1e6 ? `${number(us / 1000)} ms` : `${number(us / 1e6)} s`;
}

/** @param {number|null|undefined} seconds */
export function span(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** @param {number|null|undefined} unixMs */
export function time(unixMs) {
  if (!known(unixMs)) return NONE;
  const date = new Date(unixMs);
  const day = new Date().toDateString() === date.toDateString() ? "" : `${date.toLocaleDateString("sv-SE")} `;
  return day + date.toLocaleTimeString("sv-SE");
}

/** @param {string} word as the API writes it */
export function words(word) {
  return word.replaceAll("_", " ");
}

/** @param {any} value */
export function known(value) {
  return value !== null && value !== undefined;
}
