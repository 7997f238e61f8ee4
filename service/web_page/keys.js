// The keyboard: "/" searches, "f" finds features, arrows move between hits, Enter opens one, Esc leaves.

import {byId} from "./dom.js";

const writes = (element) => element instanceof HTMLTextAreaElement || element instanceof HTMLSelectElement ||
  (element instanceof HTMLInputElement && element.type !== "range");

function focusOn(input) {
  input.focus();
  input.select();
}

export function listenToKeys(hits) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return;
    const {target, key} = event;
    if (key === "Escape") {
      event.preventDefault(); // a search box would be emptied
      if (target instanceof HTMLElement) target.blur();
    } else if (key === "/" && !writes(target)) {
      event.preventDefault();
      focusOn(byId("query"));
    } else if (key === "f" && !writes(target)) {
      event.preventDefault();
      byId("finder").open = true;
      focusOn(byId("words"));
    } else if ((key === "ArrowDown" || key === "ArrowUp") && movesHits(target)) {
      event.preventDefault();
      const moved = hits.step(key === "ArrowDown" ? 1 : -1);
      if (!moved && key === "ArrowUp" && target.closest?.(".hit")) byId("query").focus();
    } else if (key === "Enter" && target.classList?.contains("hit")) {
      event.preventDefault();
      hits.toggle(target.dataset.id);
    }
  });
}

const movesHits = (target) => target === document.body || target.id === "query" || target.id === "results" ||
  Boolean(target.closest?.("#hits"));
