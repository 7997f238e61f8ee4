// Hits that are examples of what is wanted, or of what is not, and the features that tell them apart.

import {featuresFromExamples, newest} from "./api.js";
import {learn} from "./book.js";
import {byId, h, shortLabel, signed} from "./dom.js";

const COUNT = 12; // features that are found
const PAUSE_MS = 150;
const LEAST = 0.005; // a strength that shows

/** Those whose strength in a step can be seen on a slider. */
export const telling = (features) => features.filter(({strength}) => Math.abs(strength) >= LEAST);

export class Examples {
  constructor(state) {
    Object.assign(this, {state, questions: newest(), collection: null, marks: new Map(), found: [], steered: []});
    byId("steer-examples").addEventListener("click", () => this.#steer());
    byId("forget-examples").addEventListener("click", () => this.#forget());
    byId("feature-field").addEventListener("change", () => this.#changed());
  }

  /** A collection, as `listCollections` describes it; examples of another one are forgotten. */
  use(collection) {
    if (this.collection === collection) return;
    this.collection = collection;
    this.#forget();
  }

  get possible() {
    return Boolean(this.collection?.feature_fields.length);
  }

  /** "more", "less", or "" for a document that is no example. */
  kindOf(id) {
    return this.marks.get(id)?.kind ?? "";
  }

  /** Makes a document an example, or no longer, if it is one of this kind. */
  toggle(id, title, kind) {
    if (this.kindOf(id) === kind) this.marks.delete(id);
    else this.marks.set(id, {title, kind});
    this.#changed();
  }

  #forget() {
    this.marks.clear();
    this.steered = [];
    this.#changed();
  }

  #of(kind) {
    return [...this.marks.keys()].filter((id) => this.kindOf(id) === kind);
  }

  #changed() {
    byId("examples").hidden = this.marks.size === 0;
    byId("example-marks").replaceChildren(...[...this.marks].map(([id, {title, kind}]) => h("li", {class: kind},
      h("span", {class: "kind"}, kind === "more" ? "more like" : "less like"), h("span", {class: "name", title}, title),
      h("button", {type: "button", class: "remove", title: "Remove", "aria-label": `Remove the example ${title}`,
                   onclick: () => this.toggle(id, title, kind)}, "×"))));
    byId("hits").dispatchEvent(new CustomEvent("examples"));
    const positives = this.#of("more"), negatives = this.#of("less"), field = byId("feature-field").value;
    if (!positives.length) {
      this.questions.drop();
      this.#show([], "Mark a hit as “more like this”, too.");
      return;
    }
    this.questions.run(PAUSE_MS,
      (signal) => featuresFromExamples(this.collection.name, {positives, negatives, field, count: COUNT}, signal),
      ({features}) => {
        learn(this.collection.name, features);
        const found = telling(features);
        this.#show(found, found.length ? "" : "No feature tells these examples apart.");
      },
      (error) => this.#show([], error.message));
  }

  #show(found, remark) {
    this.found = found;
    byId("examples-status").textContent = remark;
    byId("example-features").replaceChildren(...found.map(({index, label, strength}) => h("li", {title: label},
      h("span", {class: "name"}, shortLabel(label, index)), h("span", {class: "number"}, signed(strength, 2)))));
    byId("steer-examples").hidden = found.length === 0;
  }

  /** Sliders for all that was found; those of the examples before go, unless somebody has moved them. */
  #steer() {
    const added = this.found.map(({index, field, strength}) => ({feature: index, field, strength}));
    this.steered = this.state.addEdits(added, this.steered);
  }
}
