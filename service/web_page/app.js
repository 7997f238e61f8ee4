// The page as a whole: what is changed by whom, and what is asked when.

import {listCollections, newest, search} from "./api.js";
import {learn} from "./book.js";
import {byId, h, setOptions} from "./dom.js";
import {Examples} from "./examples.js";
import {Finder} from "./features.js";
import {HitList} from "./hits.js";
import {listenToKeys} from "./keys.js";
import {FeatureMap} from "./map.js";
import {Profiles} from "./profiles.js";
import {addOrFocus, Sliders} from "./sliders.js";
import {KS, State} from "./state.js";

const TYPING_PAUSE_MS = 250;
const SLIDING_PAUSE_MS = 120;
const PATIENCE_MS = 150; // quicker answers need no sign that one waits

const state = new State();
const examples = new Examples(state);
const hits = new HitList(byId("hits"), state, examples);
const sliders = new Sliders(state);
const finder = new Finder(state);
const profiles = new Profiles(state);
const map = new FeatureMap(state, hits);
const searches = newest();
let collections = [];
let searched = "";
let waiting = 0;

// --- what the controls do ---

byId("query").addEventListener("input", () => state.change({text: byId("query").value}, "typing"));
byId("query").addEventListener("change", () => state.settle());
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  state.settle();
  runSearch(0, true);
});
byId("collection").addEventListener("change", () =>
  state.change({collection: byId("collection").value, by: "", profile: "", edits: []})); // other features, other fields
byId("by").addEventListener("change", () => state.change({by: byId("by").value}));
byId("k").addEventListener("change", () => state.change({k: Number(byId("k").value)}));
byId("home").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  state.change({text: "", profile: "", edits: []});
  byId("query").focus();
});
byId("hits").addEventListener("feature", ({detail: {index, field, label}}) => {
  learn(state.view.collection, [{index, field, label}]);
  addOrFocus(state, index, field);
});
listenToKeys(hits);

// --- what is shown ---

state.subscribe((view, reason) => {
  if (!collections.length) return;
  const edits = named(view);
  if (edits !== view.edits) {
    state.complete({edits});
    return;
  }
  showControls(view);
  runSearch(reason === "typing" ? TYPING_PAUSE_MS : reason.startsWith("slider") ? SLIDING_PAUSE_MS : 0);
});

const current = () => collections.find(({name}) => name === state.view.collection);

/** Edits whose field a link has left out get the collection's first. */
function named({edits}) {
  const first = current()?.feature_fields[0] ?? "";
  return first && edits.some(({field}) => !field) ? edits.map((e) => ({...e, field: e.field || first})) : edits;
}

function showControls(view) {
  const collection = current();
  document.title = view.text ? `${view.text} – sparsight` : "sparsight";
  if (byId("query").value !== view.text) byId("query").value = view.text;
  const unknown = collection || !view.collection ? [] : [{value: view.collection, text: view.collection}];
  setOptions(byId("collection"), [...collections.map(({name}) => ({value: name, text: name})), ...unknown],
             view.collection);
  const fields = (collection?.fields ?? []).filter((field) => field.takes_text).map(({name}) => name);
  const named = view.by && !fields.includes(view.by) ? [view.by] : [];
  setOptions(byId("by"), [{value: "", text: "all fields"}, ...[...fields, ...named].map((name) =>
    ({value: name, text: name}))], view.by);
  setOptions(byId("k"), KS.map((k) => ({value: String(k), text: String(k)})), String(view.k));
  sliders.show(view);
  profiles.show();
  hits.mark();
  finder.mark();
  map.mark();
  if (collection) {
    finder.use(collection);
    profiles.use(collection);
    examples.use(collection);
    map.use(collection);
  }
}

// --- searching ---

function runSearch(delay, again = false) {
  const {collection, text, k, by, profile, edits} = state.view;
  const question = JSON.stringify([collection, text, k, by, profile, edits]);
  if (question === searched && !again) {
    if (!byId("hits").hasAttribute("aria-busy")) isWaiting(false);
    return;
  }
  searched = question;
  if (!text.trim() && current()) {
    searches.drop();
    isWaiting(false);
    showProblem(null);
    hits.clear();
    byId("status").textContent = "";
    showWelcome();
    return;
  }
  byId("welcome").hidden = true;
  isWaiting(true);
  const query = {text, k, fields: by ? [by] : [], profile, edits, explain: true};
  searches.run(delay, (signal) => search(collection, query, signal),
    (answer) => {
      isWaiting(false);
      showProblem(null);
      hits.show(answer.hits, text);
      map.mark();
      byId("status").textContent = summary(answer);
      showWarnings(answer);
    },
    (error) => {
      isWaiting(false);
      hits.clear();
      byId("status").textContent = "";
      showProblem(error);
    });
}

/** Whether an answer is waited for; if not, the list of hits says which address it is of. */
function isWaiting(now) {
  clearTimeout(waiting);
  if (now) {
    byId("hits").setAttribute("aria-busy", "true");
    waiting = setTimeout(() => {
      document.body.classList.add("waiting");
      if (!hits.hits.length) byId("status").textContent = "Searching …";
    }, PATIENCE_MS);
  } else {
    byId("hits").removeAttribute("aria-busy");
    byId("hits").dataset.address = location.search;
    document.body.classList.remove("waiting");
  }
}

function summary({hits: found, milliseconds, steered}) {
  const time = `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
  if (!found.length) {
    const filtered = state.view.edits.some(({op}) => op === "require" || op === "exclude");
    return `No document matches “${state.view.text}”${filtered ? " with the features that are required or excluded" : ""}.`;
  }
  const count = `${found.length} ${found.length === 1 ? "hit" : "hits"} in ${time}`;
  if (!steered) return count;
  const moved = found.filter(({movement}) => movement && movement.rank_before !== movement.rank_after).length;
  return `${count}, ${moved} of them moved by steering`;
}

function showWarnings({warnings}) {
  const box = byId("problem");
  box.className = "warning";
  box.replaceChildren(...warnings.map((text) => h("p", {}, text)));
}

function showProblem(error) {
  const box = byId("problem");
  box.className = "";
  if (!error) {
    box.replaceChildren();
    return;
  }
  const where = error.field ? ` (${error.field})` : "";
  box.replaceChildren(
    h("p", {}, h("strong", {}, "That did not work. "), `${error.message}${where}`),
    h("p", {class: "code"}, error.code),
    h("button", {type: "button", onclick: () => (collections.length ? runSearch(0, true) : begin())}, "Try again"));
}

function showWelcome() {
  const {name, documents, feature_fields: features} = current();
  byId("welcome").hidden = false;
  byId("welcome").replaceChildren(
    h("p", {class: "big"}, `${documents.toLocaleString("en")} ${documents === 1 ? "document" : "documents"} in ${name}`),
    h("p", {}, "Type a query above. Each hit says which words and features it was found by",
      features.length ? "; add one of the features to the panel, and move its slider to steer." : "."));
}

// --- start ---

async function begin() {
  byId("finder").open = !matchMedia("(max-width: 800px)").matches;
  try {
    ({collections} = await listCollections());
  } catch (error) {
    showProblem(error);
    return;
  }
  showProblem(null);
  if (!collections.length) {
    byId("status").textContent = "There is no collection yet. “sparsight index FILE --collection NAME” makes one.";
    return;
  }
  state.complete({collection: state.view.collection || collections[0].name});
}

begin();
