// What is shown, and the address that says the same: a link brings the same view, and back and forward work.
//
//   ?c=COLLECTION&q=QUERY&k=20&by=FIELD&profile=NAME&e=FEATURE:OP:STRENGTH:SAE_FIELD&e=...

export const KS = [10, 20, 50, 100];
export const OPERATIONS = ["boost", "set", "clamp", "require", "exclude"];
export const LIMIT = 3;
export const STEP = 0.25;
export const FINE = 0.01; // the step of a slider whose strength was found, not set
const MAX_EDITS = 64;

const EMPTY = Object.freeze({collection: "", text: "", k: KS[0], by: "", profile: "", edits: Object.freeze([])});

export const isSigned = (op) => op === "boost";

/** The strength that a slider can show: in its range, in hundredths. */
export function onSlider(strength, op) {
  const within = Math.min(LIMIT, Math.max(isSigned(op) ? -LIMIT : 0, strength));
  return Math.round(within / FINE) / (1 / FINE) + 0; // divided, so that 0.07 is 0.07; + 0: there is a -0
}

function readEdit(text) {
  const [feature, op = "boost", strength = "1", ...field] = text.split(":");
  const down = op === "suppress"; // the same slider, the other way
  const known = down || OPERATIONS.includes(op);
  if (!/^\d{1,9}$/.test(feature) || !known || !Number.isFinite(Number(strength))) return null;
  const kind = down ? "boost" : op;
  return {feature: Number(feature), op: kind, strength: onSlider(down ? -Number(strength) : Number(strength), kind),
          field: field.join(":")};
}

export function readAddress(query) {
  const values = new URLSearchParams(query);
  const k = Number(values.get("k"));
  const edits = [];
  for (const edit of values.getAll("e").map(readEdit)) {
    const known = edit && edits.some((other) => other.feature === edit.feature && other.field === edit.field);
    if (edit && !known && edits.length < MAX_EDITS) edits.push(edit);
  }
  return {collection: values.get("c") ?? "", text: values.get("q") ?? "", k: KS.includes(k) ? k : KS[0],
          by: values.get("by") ?? "", profile: values.get("profile") ?? "", edits};
}

export function writeAddress(view) {
  const values = new URLSearchParams();
  if (view.collection) values.set("c", view.collection);
  if (view.text) values.set("q", view.text);
  if (view.k !== KS[0]) values.set("k", String(view.k));
  if (view.by) values.set("by", view.by);
  if (view.profile) values.set("profile", view.profile);
  for (const edit of view.edits) values.append("e", [edit.feature, edit.op, edit.strength, edit.field].join(":"));
  const query = values.toString().replaceAll("%3A", ":").replaceAll("%40", "@");
  return query ? `?${query}` : location.pathname;
}

/**
 * Holds the view. `change(part, group)` sets some of it, and `subscribe` is told. Changes of one group that follow each
 * other (letters of a query, positions of a slider) are one step of the browser's history, until `settle`.
 */
export class State {
  #listeners = [];
  #group = "";

  constructor() {
    this.view = {...EMPTY, ...readAddress(location.search)};
    addEventListener("popstate", () => {
      this.#group = "";
      this.view = {...EMPTY, ...readAddress(location.search)};
      this.#tell("history");
    });
  }

  subscribe(listener) {
    this.#listeners.push(listener);
  }

  change(part, group = "") {
    const address = writeAddress(this.view);
    this.view = {...this.view, ...part};
    const next = writeAddress(this.view);
    if (next !== address) {
      const same = group !== "" && group === this.#group;
      history[same ? "replaceState" : "pushState"](null, "", next);
      this.#group = group;
    }
    this.#tell(group);
  }

  /** Sets what the view must have anyway (the only collection, say): no step of the history. */
  complete(part) {
    this.view = {...this.view, ...part};
    history.replaceState(null, "", writeAddress(this.view));
    this.#tell("");
  }

  settle() {
    this.#group = "";
  }

  #tell(reason) {
    for (const listener of this.#listeners) listener(this.view, reason);
  }

  // --- edits ---

  #at = (feature, field) => this.view.edits.findIndex((edit) => edit.feature === feature && edit.field === field);

  hasEdit(feature, field) {
    return this.#at(feature, field) >= 0;
  }

  addEdit(feature, field, strength = 1) {
    if (this.hasEdit(feature, field) || this.view.edits.length >= MAX_EDITS) return;
    this.change({edits: [...this.view.edits, {feature, op: "boost", strength, field}]});
  }

  /**
   * Several at once, `{feature, field, strength}`, as one step of the history; the edits that they have become. One
   * that is there takes the new strength. Edits `instead` of which they come go, if they are still as they were.
   */
  addEdits(added, instead = []) {
    const edits = this.view.edits.filter((edit) => !instead.some((old) => old.feature === edit.feature &&
      old.field === edit.field && old.op === edit.op && old.strength === edit.strength));
    const fresh = [];
    for (const {feature, field, strength} of added) {
      const edit = {feature, op: "boost", strength: onSlider(strength, "boost"), field};
      const at = edits.findIndex((one) => one.feature === feature && one.field === field);
      if (at < 0 && edits.length >= MAX_EDITS) break;
      edits.splice(at < 0 ? edits.length : at, 1, edit);
      fresh.push(edit);
    }
    this.change({edits});
    return fresh;
  }

  setEdit(feature, field, part, group = "") {
    const at = this.#at(feature, field);
    if (at >= 0) this.change({edits: this.view.edits.with(at, {...this.view.edits[at], ...part})}, group);
  }

  removeEdit(feature, field) {
    this.change({edits: this.view.edits.filter((edit) => edit.feature !== feature || edit.field !== field)});
  }
}
