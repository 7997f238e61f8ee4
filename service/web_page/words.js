// Which words of a passage are the query's, and the passage with them marked.

import {h} from "./dom.js";

const COMMON = new Set(("a an and are as at be by can do does for from has have how in into is it its of on or that the " +
  "their them they this to was what when where which who why will with").split(" "));

const WORD = /[\p{L}\p{N}]+/gu;

/** A word without the ending that its forms differ in; rough on purpose, it only colours text. */
function stem(word) {
  const lower = word.toLowerCase();
  for (const ending of ["ations", "ation", "ings", "ing", "ies", "ed", "es", "al", "s", "e", "y"]) {
    if (lower.endsWith(ending) && lower.length - ending.length >= 3) return lower.slice(0, -ending.length);
  }
  return lower;
}

export function queryStems(text) {
  const words = text.match(WORD) ?? [];
  const telling = words.filter((word) => !COMMON.has(word.toLowerCase()));
  return new Set((telling.length ? telling : words).map(stem));
}

/** `{text, marked}` pieces that together are the passage. */
export function pieces(passage, stems) {
  const found = [];
  let end = 0;
  for (const match of passage.matchAll(WORD)) {
    if (!stems.has(stem(match[0]))) continue;
    if (match.index > end) found.push({text: passage.slice(end, match.index), marked: false});
    found.push({text: match[0], marked: true});
    end = match.index + match[0].length;
  }
  if (end < passage.length) found.push({text: passage.slice(end), marked: false});
  return found;
}

export const highlighted = (passage, stems) =>
  pieces(passage, stems).map(({text, marked}) => (marked ? h("mark", {}, text) : text));

/** The passage with the words of a feature marked, the more the stronger: `{start, end, share}` in characters. */
export function shaded(passage, words) {
  const characters = [...passage], top = Math.max(...words.map(({share}) => share)), parts = [];
  let at = 0;
  for (const {start, end, share} of [...words].sort((a, b) => a.start - b.start)) {
    if (end > characters.length) break; // the passage was cut
    const mark = h("mark", {class: "fired"}, characters.slice(start, end).join(""));
    mark.style.setProperty("--share", (share / top).toFixed(2));
    parts.push(characters.slice(at, start).join(""), mark);
    at = end;
  }
  return [...parts, characters.slice(at).join("")];
}
