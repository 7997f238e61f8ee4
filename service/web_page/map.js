// The map of features: asked for when it is opened, and told in words beside the picture.

import {featureMap, newest} from "./api.js";
import {learn} from "./book.js";
import {byId, h, shortLabel} from "./dom.js";
import {Drawing, STEP} from "./drawing.js";
import {isArrow, nearest, next} from "./places.js";
import {addOrFocus} from "./sliders.js";

const LISTED = 12; // features of a lobe that are listed
const TELLING = 4; // features of a hit that count as its own

const share = (density) => `${(100 * density).toPrecision(2)} %`;

export class FeatureMap {
  constructor(state, hits) {
    Object.assign(this, {state, hits, questions: newest(), collection: null, shown: "", lobes: [], field: ""});
    this.panel = byId("map");
    this.canvas = byId("map-canvas");
    this.drawing = new Drawing(this.canvas, {look: (point) => this.#tip(point), pick: (point) => this.#add(point)});
    this.panel.addEventListener("toggle", () => this.#open());
    byId("feature-field").addEventListener("change", () => this.#open());
    byId("map-in").addEventListener("click", () => this.drawing.nearer());
    byId("map-out").addEventListener("click", () => this.drawing.nearer(1 / STEP));
    byId("map-all").addEventListener("click", () => this.drawing.all());
    byId("map-size").addEventListener("click", () => this.#enlarge(!this.isLarge));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("blur", () => this.#tip(null));
    document.addEventListener("keydown", ({key}) => key === "Escape" && this.isLarge && this.#enlarge(false));
  }

  /** A collection, as `listCollections` describes it, whose features are on the map. */
  use(collection) {
    if (this.collection === collection) return;
    this.collection = collection;
    this.panel.hidden = collection.feature_fields.length === 0;
    this.#open();
  }

  /** After a slider has come or gone, or hits have: their features are marked. */
  mark() {
    if (!this.shown) return;
    const used = new Set(this.state.view.edits.filter(({field}) => field === this.field).map(({feature}) => feature));
    const own = this.hits.hits.flatMap(({retrievers}) => retrievers
      .filter((part) => part.feature_field === this.field)
      .flatMap(({contributions}) => contributions.slice(0, TELLING).map(({index}) => index)));
    this.drawing.mark(used, new Set(own));
    for (const button of byId("map-lobes").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(used.has(Number(button.dataset.feature))));
    }
  }

  get isLarge() {
    return document.body.classList.contains("map-large");
  }

  #enlarge(large) {
    document.body.classList.toggle("map-large", large);
    byId("map-size").textContent = large ? "Smaller" : "Larger";
    byId("map-size").focus();
  }

  #open() {
    if (!this.panel.open && this.isLarge) this.#enlarge(false);
    if (!this.panel.open || !this.collection?.feature_fields.length) return;
    const {name} = this.collection, field = byId("feature-field").value;
    const wanted = `${name}/${field}`;
    if (wanted === this.shown) return;
    this.shown = "";
    byId("map-body").hidden = true;
    byId("map-status").textContent = "Drawing the map … the first time takes some seconds.";
    this.questions.run(0, (signal) => featureMap(name, field, signal),
      ({points, lobes, field: named}) => {
        Object.assign(this, {shown: wanted, field: named, lobes});
        learn(name, points.map(({index, label, density}) => ({index, label, density, field: named})));
        byId("map-status").textContent = points.length ? "" : "No feature of this collection ever fired.";
        byId("map-body").hidden = points.length === 0;
        this.drawing.show(points);
        byId("map-lobes").replaceChildren(...this.#legend());
        this.mark();
      },
      (error) => {
        byId("map-status").textContent = error.message;
      });
  }

  #add({index}) {
    if (this.isLarge && this.state.hasEdit(index, this.field)) this.#enlarge(false); // its slider lies below
    addOrFocus(this.state, index, this.field);
  }

  // --- in words ---

  #lobeName(lobe) {
    return lobe < 0 ? "fires with no others" : this.lobes[lobe].label || `group ${lobe + 1}`;
  }

  #tip(point) {
    const tip = byId("map-tip");
    tip.hidden = !point;
    if (!point) return;
    tip.replaceChildren(h("b", {}, point.label || `feature ${point.index}`),
                        h("span", {}, `on ${share(point.density)} of passages`));
    const [left, top] = this.drawing.at(point), {clientWidth: width, clientHeight: height} = this.canvas;
    tip.style.left = `${Math.max(0, Math.min(left - 90, width - 190))}px`;
    tip.style.top = top > height - 80 ? "auto" : `${top + 14}px`;
    tip.style.bottom = top > height - 80 ? `${height - top + 14}px` : "auto";
  }

  /** Every lobe with its most frequent features as buttons: the map for those who see no picture. */
  #legend() {
    return [...this.lobes.keys(), -1].flatMap((lobe) => {
      const features = this.drawing.points.filter((point) => point.lobe === lobe), rest = features.length - LISTED;
      if (!features.length) return [];
      return h("li", {}, h("details", {},
        h("summary", {}, h("span", {class: `swatch lobe-${lobe < 0 ? "none" : lobe}`, "aria-hidden": "true"}),
          h("span", {class: "name"}, this.#lobeName(lobe)),
          h("span", {class: "share"}, features.length.toLocaleString("en"))),
        h("ul", {}, ...features.slice(0, LISTED).map((point) => h("li", {}, this.#button(point))),
          rest > 0 ? h("li", {class: "hint"}, `and ${rest.toLocaleString("en")} less frequent ones`) : null)));
    });
  }

  #button(point) {
    const short = shortLabel(point.label, point.index, 4);
    return h("button", {
      type: "button", class: "feature", "data-feature": point.index, title: point.label || short,
      "aria-label": `Slider for ${short}; on ${share(point.density)} of passages`,
      onclick: () => this.#add(point),
      onpointerenter: () => this.drawing.goTo(point), onfocus: () => this.drawing.goTo(point),
    }, short);
  }

  // --- the keyboard ---

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const {drawing} = this, {key} = event, from = drawing.current;
    const at = from ? drawing.at(from) : [];
    const nearer = () => drawing.nearer(STEP, ...at), farther = () => drawing.nearer(1 / STEP, ...at);
    const done = {"+": nearer, "=": nearer, "-": farther, "0": () => drawing.all(),
                  "Enter": () => from && this.#add(from)}[key];
    if (!done && !isArrow(key)) return;
    event.preventDefault();
    if (done) {
      done();
      if (document.activeElement === this.canvas) this.#tip(from);
      return;
    }
    const point = from ? next(drawing.points, from, key) : nearest(drawing.points, drawing.x, drawing.y);
    if (!point) return;
    drawing.goTo(point);
    this.#tip(point);
    const said = [point.label || `feature ${point.index}`, `on ${share(point.density)} of passages`,
                  this.#lobeName(point.lobe)];
    if (this.state.hasEdit(point.index, this.field)) said.push("has a slider");
    byId("map-said").textContent = said.join(", ");
  }
}
