// Finding features: by words, or the most frequent ones, page by page; and steering towards words as a whole.

import {featuresFromExamples, findFeatures, newest} from "./api.js";
import {learn} from "./book.js";
import {byId, h, setOptions, shortLabel} from "./dom.js";
import {telling} from "./examples.js";
import {addOrFocus} from "./sliders.js";

const SIZE = 12; // features of a page, and of a step towards words
const PAUSE_MS = 250;
const HARDLY = 0.3; // cosine of words with a feature that is not about them

/** What is said above a list: below 0.3 nothing in it is much about the words. */
function remarkOf(words, features) {
  if (!words) return "The most frequent ones:";
  return features.every(({cosine}) => cosine !== null && cosine < HARDLY) ? `No feature is about “${words}”; the nearest:` : "";
}

export class Finder {
  constructor(state) {
    this.state = state;
    this.questions = newest();
    this.steps = newest();
    this.steered = [];
    this.collection = null;
    this.page = "";
    this.found = [];
    byId("words").addEventListener("input", () => this.#find(PAUSE_MS));
    byId("feature-field").addEventListener("change", () => this.#find(0));
    byId("more-features").addEventListener("click", () => this.#find(0, this.page));
    byId("steer-words").addEventListener("click", () => this.#steer());
  }

  /** A collection, as `listCollections` describes it, whose features are to be found. */
  use(collection) {
    if (this.collection === collection) return;
    this.collection = collection;
    this.steered = [];
    this.steps.drop();
    const fields = collection.feature_fields;
    setOptions(byId("feature-field"), fields.map((field) => ({value: field, text: field})), fields[0] ?? "");
    byId("field-choice").hidden = fields.length < 2;
    byId("words").disabled = fields.length === 0;
    if (fields.length) {
      this.#find(0);
    } else {
      this.questions.drop();
      this.#show([], "", "This collection has no features yet. “sparsight train-sae” makes some.");
    }
  }

  mark() {
    for (const button of byId("feature-list").querySelectorAll("button")) {
      const used = this.state.hasEdit(Number(button.dataset.feature), button.dataset.field);
      button.setAttribute("aria-pressed", String(used));
    }
  }

  #find(delay, page = "") {
    const words = byId("words").value.trim(), field = byId("feature-field").value, {name} = this.collection;
    if (!field) return;
    byId("feature-list").setAttribute("aria-busy", "true");
    this.questions.run(delay, (signal) => findFeatures(name, {words, field, page, size: SIZE}, signal),
      ({features, next_page: next}) => {
        learn(name, features);
        const all = page ? [...this.found, ...features] : features;
        this.#show(all, next, all.length ? remarkOf(words, all) : `No feature is found by “${words}”.`);
      },
      (error) => this.#show([], "", error.message));
  }

  /** Sliders for a step towards the words; those of the words before go, unless somebody has moved them. */
  #steer() {
    const words = byId("words").value.trim(), field = byId("feature-field").value, {name} = this.collection;
    this.steps.run(0, (signal) => featuresFromExamples(name, {words, field, count: SIZE}, signal),
      ({features}) => {
        learn(name, features);
        this.steered = this.state.addEdits(
          telling(features).map(({index, strength}) => ({feature: index, field, strength})), this.steered);
      },
      (error) => { byId("finder-status").textContent = error.message; });
  }

  #show(features, next, remark) {
    this.found = features;
    this.page = next;
    const byWords = features.some(({cosine}) => cosine !== null);
    const most = Math.max(1e-9, ...features.map(({density}) => density));
    const list = byId("feature-list");
    list.replaceChildren(...features.map((feature) => this.#item(feature, byWords, most)));
    byId("steer-words").hidden = !byWords;
    list.removeAttribute("aria-busy");
    byId("finder-status").textContent = remark;
    byId("more-features").hidden = next === "";
  }

  /** Its number and bar say how much its direction is that of the words, or on how many passages it fires. */
  #item({index, label, density, cosine, field}, byWords, most) {
    const short = shortLabel(label, index, 5);
    const [number, told, part] = byWords
      ? [cosine.toFixed(2), `cosine with the words ${cosine.toFixed(2)}`, Math.max(cosine, 0)]
      : [`${(100 * density).toPrecision(2)} %`, `on ${(100 * density).toPrecision(2)} % of passages`, Math.sqrt(density / most)];
    const meter = h("span", {class: "density", "aria-hidden": "true"});
    meter.style.setProperty("--share", String(part));
    return h("li", {}, h("button", {
      type: "button", class: "found", "data-feature": index, "data-field": field, title: label || short,
      "aria-pressed": String(this.state.hasEdit(index, field)),
      "aria-label": `Slider for ${short}; ${told}`,
      onclick: () => addOrFocus(this.state, index, field),
    }, h("span", {class: "name"}, short), h("span", {class: "share"}, number), meter));
  }
}
