// Finding features: by words, or the most frequent ones, page by page.

import {findFeatures, newest} from "./api.js";
import {learn} from "./book.js";
import {byId, h, setOptions, shortLabel} from "./dom.js";
import {addOrFocus} from "./sliders.js";

const SIZE = 12;
const PAUSE_MS = 250;

export class Finder {
  constructor(state) {
    this.state = state;
    this.questions = newest();
    this.collection = null;
    this.page = "";
    this.found = [];
    byId("words").addEventListener("input", () => this.#find(PAUSE_MS));
    byId("feature-field").addEventListener("change", () => this.#find(0));
    byId("more-features").addEventListener("click", () => this.#find(0, this.page));
  }

  /** A collection, as `listCollections` describes it, whose features are to be found. */
  use(collection) {
    if (this.collection === collection) return;
    this.collection = collection;
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
        this.#show(all, next, all.length ? (words ? "" : "The most frequent ones:") : `No feature is found by “${words}”.`);
      },
      (error) => this.#show([], "", error.message));
  }

  #show(features, next, remark) {
    this.found = features;
    this.page = next;
    const most = Math.max(1e-9, ...features.map(({density}) => density));
    const list = byId("feature-list");
    list.replaceChildren(...features.map((feature) => this.#item(feature, most)));
    list.removeAttribute("aria-busy");
    byId("finder-status").textContent = remark;
    byId("more-features").hidden = next === "";
  }

  #item({index, label, density, field}, most) {
    const short = shortLabel(label, index, 5), share = `${(100 * density).toPrecision(2)} %`;
    const meter = h("span", {class: "density", "aria-hidden": "true"});
    meter.style.setProperty("--share", String(Math.sqrt(density / most)));
    return h("li", {}, h("button", {
      type: "button", class: "found", "data-feature": index, "data-field": field, title: label || short,
      "aria-pressed": String(this.state.hasEdit(index, field)),
      "aria-label": `Slider for ${short}; on ${share} of passages`,
      onclick: () => addOrFocus(this.state, index, field),
    }, h("span", {class: "name"}, short), h("span", {class: "share"}, share), meter));
  }
}
