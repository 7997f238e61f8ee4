// What is known of a feature: its label and how good that is, how it fires, documents, and families.

import {featureFamilies} from "./api.js";
import {learn, whole} from "./book.js";
import {h, shortLabel} from "./dom.js";

const SOURCES = {
  contrast: "words of its passages against all others",
  matched: "words of its passages against those that nearly fire it",
  expansion: "terms of the sparse encoder",
  nearest: "words that lie its way",
  model: "a language model",
  user: "somebody here",
};

/** Fills the list of a feature's facts; `add(index, field)` makes a slider. */
export async function fillAbout(list, {state, add}, collection, feature, field) {
  try {
    const found = await whole(collection, field, feature);
    learn(collection, [found]);
    list.replaceChildren(...facts(found).map((fact) => h("li", {class: "fact"}, fact)),
                         ...found.examples.map(({id, title}) => h("li", {}, title || id)));
    const {families} = await featureFamilies(collection, feature, field);
    list.append(...families.map((family) => familyTree({state, add}, family, feature)));
  } catch (error) {
    list.replaceChildren(h("li", {class: "fact"}, error.message));
  }
}

function facts({label, label_source: source, detection, density, scale, histogram, stability}) {
  const percent = (share) => `${(100 * share).toPrecision(2)} %`;
  const told = detection === null ? "" : `; it tells ${percent(detection)} of pairs of passages right`;
  return [
    label,
    source ? `named by ${SOURCES[source] ?? source}${told}` : "",
    `on ${percent(density)} of the passages it was trained on`,
    `1.00 is an activation of ${scale.toPrecision(3)}`,
    stability === null ? "" : stability === 0 ? "no other training found it again" :
      `found again in ${percent(stability)} of the other trainings`,
    histogram.length ? bars(histogram) : "",
  ].filter(Boolean);
}

/** Passages by activation, ten bars: by the square root, so that few strong ones are seen beside many weak ones. */
function bars(histogram) {
  const most = Math.max(...histogram, 1), all = histogram.reduce((sum, count) => sum + count, 0);
  return h("span", {class: "histogram", role: "img", "aria-label":
      `Passages by activation, from none to the largest: ${histogram.join(", ")}`},
    ...histogram.map((count, at) => {
      const bar = h("span", {title: `${count.toLocaleString("en")} of ${all.toLocaleString("en")} passages, ` +
        `${10 * at} to ${10 * at + 10} % of the largest activation`});
      bar.style.setProperty("--share", String(Math.sqrt(count / most)));
      return bar;
    }));
}

/** A family as a small tree, each feature of which can become a slider. */
function familyTree({state, add}, {parent, children, more}, feature) {
  const {collection} = state.view;
  const name = (item) => item.index === feature ? h("b", {}, shortLabel(item.label, item.index)) : h("button", {
    type: "button", class: "plain relative", title: item.label, onclick: () => {
      learn(collection, [item]);
      add(item.index, item.field);
    },
  }, shortLabel(item.label, item.index));
  const rest = more ? h("li", {class: "fact"}, `and ${more} more`) : null;
  const all = h("button", {
    type: "button", class: "plain all",
    title: `A slider for each of these ${children.length + 1} features, all at +1.00`,
    onclick: () => {
      learn(collection, [parent, ...children]);
      state.addEdits([parent, ...children].map(({index, field}) => ({feature: index, field, strength: 1})));
    },
  }, "Steer all");
  return h("li", {class: "family"}, name(parent), " ", all,
           h("ul", {}, ...children.map((child) => h("li", {}, name(child))), rest));
}
