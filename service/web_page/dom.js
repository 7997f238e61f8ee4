// Making elements. Text goes in as text, never as markup, and the page's policy refuses anything else.

/** An element: `h("button", {class: "plain", onclick: f, "aria-label": "x"}, "text", child, ...)`. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** The options of a <select>, and which is chosen; left alone when they are as they should be. */
export function setOptions(select, options, chosen) {
  const now = [...select.options].map((option) => `${option.value}\n${option.text}`).join("\0");
  const wanted = options.map(({value, text}) => `${value}\n${text}`).join("\0");
  if (now !== wanted) select.replaceChildren(...options.map(({value, text}) => h("option", {value}, text)));
  select.value = chosen;
}

/** A number with its sign: +0.24, −1.5. */
export function signed(value, digits = 3) {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : "+") + text;
}

/** A term as a reader knows it: word pieces that go on with a word are written "##ing" in vocabularies. */
export const termName = (label) => label.replace(/^##/, "…");

/** The first words of a feature's label; a latent without one is called by its number. */
export function shortLabel(label, index, words = 3) {
  const parts = String(label ?? "").split(",").map((part) => part.trim()).filter(Boolean);
  if (!parts.length) return `feature ${index}`;
  return parts.slice(0, words).join(", ");
}
