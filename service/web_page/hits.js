// The list of hits: rank and movement, passage, why.

import {featureWords, newest} from "./api.js";
import {bars, hasMore, scalesOf, shares} from "./bars.js";
import {h, shortLabel, signed} from "./dom.js";
import {highlighted, queryStems, shaded} from "./words.js";

const METADATA = 4;
const LOOK_MS = 250; // on a feature before its words are asked for: they cost a pass of the encoder
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** How a hit moved: {sign, text, spoken}. */
export function moved({rank_before: before, rank_after: after}) {
  if (before === null) return {way: "new", text: "new", spoken: "not among the candidates before"};
  if (before === after) return {way: "same", text: "=", spoken: "where it was"};
  const up = before > after, by = Math.abs(before - after);
  return {way: up ? "up" : "down", text: `${up ? "▲" : "▼"} ${by}`,
          spoken: `moved ${up ? "up" : "down"} ${by}, from ${before} to ${after}`};
}

function rail(hit) {
  const parts = [h("span", {class: "rank"}, String(hit.rank))];
  if (hit.movement) {
    const {way, text, spoken} = moved(hit.movement);
    parts.push(h("span", {class: `move ${way}`, role: "img", "aria-label": spoken, title: spoken}, text));
    if (hit.movement.rank_before !== null) parts.push(h("span", {class: "was"}, `was ${hit.movement.rank_before}`));
  }
  return h("div", {class: "rail"}, ...parts);
}

function scores(hit) {
  const before = hit.movement?.score_before ?? null;
  return h("div", {class: "scores"},
           h("span", {class: "score", title: "Score"}, hit.score.toFixed(3)),
           before === null ? null : h("span", {class: "was", title: "Score without the edits"},
                                      `was ${before.toFixed(3)}`));
}

function movers(hit) {
  const parts = (hit.movement?.by_feature ?? []).filter(({score}) => Math.abs(score) >= 0.0005).slice(0, 4);
  if (!parts.length) return null;
  return h("p", {class: "movers"}, "Moved by ", ...parts.map(({index, label, score}) =>
    h("span", {class: score < 0 ? "mover down" : "mover up", title: label}, `${shortLabel(label, index, 2)} `,
      h("b", {}, signed(score)))));
}

function about(hit) {
  const values = Object.entries(hit.metadata).filter(([, value]) => value !== null && value !== "").slice(0, METADATA)
    .map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(", ") : value}`);
  return h("p", {class: "about"}, h("span", {class: "id"}, hit.id), ...values.map((text) => h("span", {}, text)));
}

/** Two buttons that make a hit an example of what is wanted, or of what is not. */
function marks(hit, examples) {
  if (!examples.possible) return null;
  const title = hit.title || hit.id, kind = examples.kindOf(hit.id);
  return h("span", {class: "marks"}, ...[["more", "More like this"], ["less", "Less like this"]].map(([own, text]) =>
    h("button", {type: "button", class: "plain", "data-kind": own, "aria-pressed": String(kind === own),
                 onclick: () => examples.toggle(hit.id, title, own)}, text)));
}

export class HitList {
  /**
   * `list`: the <ol>. Its hits send "feature" events, with {index, field, label}, when a feature of theirs is chosen.
   */
  constructor(list, state, examples) {
    this.list = list;
    this.state = state;
    this.examples = examples;
    this.hits = [];
    this.open = new Set();
    this.opened = new Set(); // whose passage is shown in full
    this.looks = newest();
    list.addEventListener("look", (event) => this.#look(event));
    list.addEventListener("leave", (event) => this.#leave(event));
    list.addEventListener("examples", () => this.#markExamples());
    list.addEventListener("focusin", (event) => this.#makeCurrent(event.target.closest(".hit")));
  }

  show(hits, text) {
    const before = new Map(this.items.map((item) => [item.dataset.id, item.getBoundingClientRect().top]));
    const focused = this.list.contains(document.activeElement) ? document.activeElement.closest(".hit") : null;
    this.hits = hits;
    this.stems = queryStems(text);
    this.scales = scalesOf(hits);
    this.list.replaceChildren(...hits.map((hit) => this.#item(hit)));
    this.#makeCurrent(this.#itemOf(focused?.dataset.id) ?? this.items[0]);
    if (focused) this.#itemOf(focused.dataset.id)?.focus({preventScroll: true});
    this.#glide(before);
  }

  clear() {
    this.hits = [];
    this.list.replaceChildren();
  }

  /** After a slider has come or gone: features with one look different. */
  mark() {
    for (const button of this.list.querySelectorAll(".feature")) {
      const used = this.state.hasEdit(Number(button.dataset.feature), button.dataset.field);
      button.setAttribute("aria-pressed", String(used));
    }
  }

  #markExamples() {
    for (const button of this.list.querySelectorAll(".marks button")) {
      const kind = this.examples.kindOf(button.closest(".hit").dataset.id);
      button.setAttribute("aria-pressed", String(kind === button.dataset.kind));
    }
  }

  get items() {
    return [...this.list.children];
  }

  /** Moves the focus by `step` hits; false when there is none there. */
  step(step) {
    const items = this.items, at = items.indexOf(document.activeElement?.closest?.(".hit"));
    const next = items[at < 0 ? (step > 0 ? 0 : -1) : at + step];
    next?.focus();
    next?.scrollIntoView({block: "nearest"});
    return Boolean(next);
  }

  toggle(id) {
    const hit = this.hits.find((one) => one.id === id), item = this.#itemOf(id);
    if (!hit || !item || !hasMore(hit)) return;
    if (!this.open.delete(id)) this.open.add(id);
    const had = item.contains(document.activeElement), onButton = document.activeElement?.classList.contains("more");
    const fresh = this.#item(hit);
    item.replaceWith(fresh);
    this.#makeCurrent(fresh);
    if (had) (onButton ? fresh.querySelector(".more") : fresh).focus({preventScroll: true});
  }

  /** Marks the words of a passage that fired the feature somebody looks at. */
  #look({target, detail: {index, field}}) {
    const item = target.closest(".hit"), hit = this.hits.find(({id}) => id === item?.dataset.id);
    const passage = item?.querySelector(".passage");
    if (!passage) return;
    const asked = {id: hit.id, passage: hit.passage_number, feature: index, field};
    this.looks.run(LOOK_MS, (signal) => featureWords(this.state.view.collection, asked, signal),
      ({words}) => words.length && passage.replaceChildren(...shaded(hit.passage, words)),
      () => {}); // ready vectors have no words: then the query's stay marked
  }

  #leave({target}) {
    this.looks.drop();
    const item = target.closest(".hit"), hit = this.hits.find(({id}) => id === item?.dataset.id);
    if (hit) item.querySelector(".passage")?.replaceChildren(...highlighted(hit.passage, this.stems));
  }

  #itemOf(id) {
    return this.items.find((item) => item.dataset.id === id);
  }

  #makeCurrent(item) {
    if (!item) return;
    for (const other of this.items) other.tabIndex = other === item ? 0 : -1;
  }

  #item(hit) {
    const open = this.open.has(hit.id), title = hit.title || hit.id;
    const movement = hit.movement ? `, ${moved(hit.movement).spoken}` : "";
    const passage = h("p", {class: this.opened.has(hit.id) ? "passage full" : "passage"},
                      ...highlighted(hit.passage, this.stems));
    passage.addEventListener("click", () => {
      if (getSelection()?.isCollapsed === false) return; // somebody marks text
      passage.classList.toggle("full");
      if (!this.opened.delete(hit.id)) this.opened.add(hit.id);
    });
    const more = hasMore(hit) ? h("button", {
      type: "button", class: "plain more", "aria-expanded": String(open), onclick: () => this.toggle(hit.id),
    }, open ? "Fewer parts" : "All parts") : null;
    return h("li", {class: "hit", tabindex: "-1", "data-id": hit.id,
                    "aria-label": `${hit.rank}. ${title}, score ${hit.score.toFixed(3)}${movement}`},
             rail(hit),
             h("div", {class: "body"},
               h("div", {class: "head"},
                 h("div", {}, h("h3", {}, ...highlighted(title, this.stems)), about(hit), movers(hit)), scores(hit)),
               hit.passage ? passage : null,
               bars(hit, this.scales, this.state, open),
               h("div", {class: "foot"}, marks(hit, this.examples), shares(hit), more)));
  }

  /** Hits glide from where they stood, so that the eye can follow what moved. */
  #glide(before) {
    if (still.matches || document.hidden) return;
    for (const item of this.items) {
      const was = before.get(item.dataset.id), now = item.getBoundingClientRect().top;
      if (was === undefined || Math.abs(was - now) < 2) continue;
      item.animate([{transform: `translateY(${was - now}px)`}, {transform: "none"}],
                   {duration: 260, easing: "cubic-bezier(.2, .7, .2, 1)"});
    }
  }
}
