// Why a hit has its score: bars of its words and features, to the right for what adds, to the left for what takes away.

import {h, shortLabel, signed, termName} from "./dom.js";

const BRIEF = 4;

/** By retriever, the largest parts to either side among all hits: bars of different hits can then be compared. */
export function scalesOf(hits) {
  const scales = {};
  for (const {retrievers} of hits) {
    for (const {field, contributions, rest} of retrievers) {
      const scale = (scales[field] ??= {up: 0, down: 0, upAll: 0, downAll: 0});
      contributions.forEach(({score}, at) => {
        const brief = at < BRIEF;
        scale.upAll = Math.max(scale.upAll, score);
        scale.downAll = Math.max(scale.downAll, -score);
        if (brief) scale.up = Math.max(scale.up, score);
        if (brief) scale.down = Math.max(scale.down, -score);
      });
      scale.upAll = Math.max(scale.upAll, rest);
      scale.downAll = Math.max(scale.downAll, -rest);
    }
  }
  return scales;
}

function barRow(name, score, up, down) {
  const span = up + down || 1;
  const fill = h("span", {class: score < 0 ? "fill down" : "fill up"});
  const zero = (100 * down) / span, length = (100 * Math.abs(score)) / span;
  fill.style.width = `${length}%`;
  fill.style.left = `${score < 0 ? zero - length : zero}%`;
  const axis = h("span", {class: "axis"});
  axis.style.left = `${zero}%`;
  return h("li", {class: "bar-row"}, name, h("span", {class: "track", "aria-hidden": "true"}, fill, down > 0 ? axis : ""),
           h("span", {class: "number"}, signed(score)));
}

function featureName(item, field, state) {
  const used = state.hasEdit(item.index, field);
  const short = shortLabel(item.label, item.index);
  const tell = (name) => (event) => event.currentTarget.dispatchEvent(new CustomEvent(name, {
    bubbles: true, detail: {index: item.index, field},
  }));
  return h("button", {
    onpointerenter: tell("look"), onpointerleave: tell("leave"), onfocus: tell("look"), onblur: tell("leave"),
    type: "button", class: "name feature", title: item.label || short, "data-feature": item.index, "data-field": field,
    "aria-pressed": String(used), "aria-label": `Slider for ${short}`,
    onclick: (event) => event.currentTarget.dispatchEvent(new CustomEvent("feature", {
      bubbles: true, detail: {index: item.index, field, label: item.label},
    })),
  }, short);
}

function group(part, scale, state, everything) {
  const {field, feature_field: origin, contributions, rest} = part;
  const [up, down] = everything ? [scale.upAll, scale.downAll] : [scale.up, scale.down];
  const shown = everything ? contributions : contributions.slice(0, BRIEF);
  const rows = shown.map((item) => barRow(
    origin ? featureName(item, origin, state) : h("span", {class: "name word", title: item.label}, termName(item.label)),
    item.score, up, down));
  if (everything && Math.abs(rest) > 1e-9) {
    rows.push(barRow(h("span", {class: "name rest"}, "everything else"), rest, up, down));
  }
  if (!rows.length) return null;
  return h("section", {class: "group"},
           h("h4", {}, `${origin ? "Features" : "Words"} `, h("span", {class: "of"}, field)), h("ul", {}, ...rows));
}

/** The retrievers that a glance is enough for: one that shows words, one that shows features. */
function telling(retrievers) {
  const given = retrievers.filter(({contributions}) => contributions.length);
  const words = given.find((part) => !part.feature_field);
  const features = given.find((part) => part.feature_field === part.field) ?? given.find((part) => part.feature_field);
  return [words, features].filter(Boolean);
}

export function bars(hit, scales, state, everything) {
  const chosen = everything ? hit.retrievers : telling(hit.retrievers);
  const groups = chosen.map((part) => group(part, scales[part.field], state, everything)).filter(Boolean);
  return h("div", {class: "groups"}, ...groups);
}

/** Each retriever's share of the score, as one line of text. */
export function shares(hit) {
  if (hit.retrievers.length < 2 || hit.score <= 0) return null;
  const parts = hit.retrievers.map(({field, share}) => `${field} ${Math.round((100 * share) / hit.score)} %`);
  return h("span", {class: "shares", title: "Shares of the retrievers in the score"}, parts.join(" · "));
}

/** Whether there is more to see than a glance shows. */
export function hasMore({retrievers}) {
  const brief = telling(retrievers);
  return brief.length < retrievers.filter(({contributions}) => contributions.length).length ||
    brief.some(({contributions, rest}) => contributions.length > BRIEF || Math.abs(rest) > 1e-9);
}
