// The features that steer, each with its slider.

import {fillAbout} from "./about.js";
import {lookUp, whole} from "./book.js";
import {byId, h, shortLabel, signed} from "./dom.js";
import {FINE, isSigned, LIMIT, onSlider, OPERATIONS, STEP} from "./state.js";

const MEANING = {
  boost: "more or less of it",
  set: "exactly this much in the query",
  clamp: "at most this much in the query",
  require: "only documents with it",
  exclude: "no documents with it",
};

/** A slider for a feature; the focus on it if it is there already. */
export function addOrFocus(state, feature, field) {
  if (state.hasEdit(feature, field)) {
    document.querySelector(`.slider[data-feature="${feature}"][data-field="${CSS.escape(field)}"] [type=range]`)?.focus();
  } else {
    state.addEdit(feature, field);
  }
}

export class Sliders {
  constructor(state) {
    this.state = state;
    this.rows = new Map();
    byId("zero").addEventListener("click", () => {
      state.change({edits: state.view.edits.map((edit) => ({...edit, strength: 0}))});
    });
    byId("clear").addEventListener("click", () => {
      state.change({edits: []});
      byId("words").focus();
    });
  }

  /** Rows are kept while their feature stays: one that is being dragged must not be replaced. */
  show({collection, edits}) {
    const rows = new Map();
    for (const edit of edits) {
      const key = `${collection}/${edit.field}/${edit.feature}`;
      const row = this.rows.get(key) ?? this.#row(collection, edit);
      row.update(edit);
      rows.set(key, row);
    }
    const list = byId("slider-list"), wanted = [...rows.values()].map((row) => row.element);
    if (wanted.length !== list.children.length || wanted.some((element, at) => list.children[at] !== element)) {
      list.replaceChildren(...wanted);
    }
    this.rows = rows;
    byId("no-sliders").hidden = edits.length > 0;
    byId("clear").hidden = edits.length === 0;
    byId("zero").hidden = !edits.some((edit) => edit.strength !== 0);
  }

  #row(collection, {feature, field}) {
    const {state} = this;
    const group = `slider ${field} ${feature}`;
    const name = h("span", {class: "name"});
    const value = h("output", {class: "number"});
    const range = h("input", {
      type: "range", max: LIMIT, step: STEP,
      oninput: () => state.setEdit(feature, field, {strength: Number(range.value)}, group),
      onchange: () => state.settle(),
    });
    const operation = h("select", {class: "operation", onchange: () => {
      const op = operation.value, now = state.view.edits.find((e) => e.feature === feature && e.field === field);
      state.setEdit(feature, field, {op, strength: onSlider(now?.strength ?? 1, op)});
    }}, ...OPERATIONS.map((op) => h("option", {value: op}, op)));
    const remove = h("button", {type: "button", class: "remove", onclick: () => this.#remove(feature, field)}, "×");
    const examples = h("ul", {class: "examples"});
    const details = h("details", {class: "more-of"}, h("summary", {}, "About"), examples);
    details.addEventListener("toggle", () => {
      if (!details.open) return;
      fillAbout(examples, {state, add: (...which) => addOrFocus(state, ...which)}, collection, feature, field);
    });
    const element = h("li", {class: "slider", "data-feature": feature, "data-field": field},
      h("div", {class: "line"}, name, remove),
      h("div", {class: "line"}, operation, range, value), details);
    const label = () => {
      const known = lookUp(collection, field, feature);
      const short = shortLabel(known?.label, feature);
      name.textContent = short;
      name.title = known?.label || short;
      range.setAttribute("aria-label", `Strength of ${short}`);
      operation.setAttribute("aria-label", `What ${short} does`);
      remove.setAttribute("aria-label", `Remove ${short}`);
      remove.title = "Remove";
    };
    label();
    if (!lookUp(collection, field, feature)) {
      whole(collection, field, feature).then(label, () => element.classList.add("unknown"));
    }
    const update = ({op, strength}) => {
      range.min = isSigned(op) ? -LIMIT : 0;
      if (strength % STEP) range.step = FINE;
      range.value = strength;
      const at = (value) => String((value - Number(range.min)) / (LIMIT - Number(range.min)));
      range.style.setProperty("--from", at(Math.min(0, strength)));
      range.style.setProperty("--to", at(Math.max(0, strength)));
      range.style.setProperty("--zero", at(0));
      range.classList.toggle("below", strength < 0);
      operation.value = op;
      operation.title = MEANING[op];
      value.textContent = isSigned(op) ? signed(strength, 2) : strength.toFixed(2);
      range.setAttribute("aria-valuetext", `${op} ${value.textContent}`);
      element.classList.toggle("off", isSigned(op) && strength === 0);
    };
    return {element, update};
  }

  #remove(feature, field) {
    this.state.removeEdit(feature, field);
    (document.querySelector("#slider-list .remove") ?? byId("words")).focus();
  }
}
