// Questions to the server. Of questions of one kind only the newest counts.

export class ApiError extends Error {
  constructor(status, code, message, field) {
    super(message);
    Object.assign(this, {status, code, field});
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {credentials: "omit", cache: "no-store", redirect: "error", ...options});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "UNREACHABLE", "The server cannot be reached. Is it still running?", "");
  }
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response.ok && body !== null) return body;
  const {code = "UNKNOWN", message = `The server answered with status ${response.status}.`, field = ""} =
    body?.error ?? {};
  throw new ApiError(response.status, code, message, field);
}

const inCollection = (collection, rest) => `/api/collections/${encodeURIComponent(collection)}/${rest}`;

const parameters = (values) => {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
};

export const listCollections = () => ask("/api/collections");

export const search = (collection, query, signal) =>
  ask(inCollection(collection, "search"), {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(query), signal,
  });

export const findFeatures = (collection, {words, field, page, size}, signal) =>
  ask(inCollection(collection, `features${parameters({words, field, page, size})}`), {signal});

export const getFeature = (collection, index, field) =>
  ask(inCollection(collection, `features/${index}${parameters({field})}`));

export const featureFamilies = (collection, index, field) =>
  ask(inCollection(collection, `features/${index}/families${parameters({field})}`));

export const featuresFromExamples = (collection, examples, signal) =>
  ask(inCollection(collection, "examples"), {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(examples), signal,
  });

export const listProfiles = (collection, signal) => ask(inCollection(collection, "profiles"), {signal});

export const featureMap = (collection, field, signal) =>
  ask(inCollection(collection, `map${parameters({field})}`), {signal});

export const featureWords = (collection, {id, passage, feature, field}, signal) =>
  ask(inCollection(collection, `words${parameters({id, passage, feature, field})}`), {signal});

/**
 * Runs questions of one kind, after a pause in which a newer one may take their place. `run(delay, question, answer,
 * failure)`: `question(signal)` is asked, and one of the others is called, unless a newer one has begun.
 */
export function newest() {
  let number = 0, controller = null, timer = 0;
  const drop = () => {
    number += 1;
    clearTimeout(timer);
    controller?.abort();
    controller = null;
  };
  const run = (delay, question, answer, failure) => {
    drop();
    const mine = number;
    const begin = async () => {
      controller = new AbortController();
      let told;
      try {
        const value = await question(controller.signal);
        told = () => answer(value);
      } catch (error) {
        told = () => failure(error);
      }
      if (mine === number) told();
    };
    if (delay > 0) timer = setTimeout(begin, delay);
    else begin();
  };
  return {run, drop};
}
