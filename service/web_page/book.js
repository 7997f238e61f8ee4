// What is known of features: learnt from answers, asked for where a link names a feature that none has told of.

import {getFeature} from "./api.js";

const known = new Map();
const asked = new Map();
const key = (collection, field, index) => `${collection}/${field}/${index}`;

export function learn(collection, features) {
  for (const feature of features) {
    const name = key(collection, feature.field, feature.index);
    known.set(name, {...known.get(name), ...feature});
  }
}

export const lookUp = (collection, field, index) => known.get(key(collection, field, index));

/** All that the server knows of a feature, its example documents too; asked once, again only after a failure. */
export function whole(collection, field, index) {
  const name = key(collection, field, index);
  if (!asked.has(name)) {
    const answer = getFeature(collection, index, field).then((feature) => {
      known.set(name, feature);
      return feature;
    });
    answer.catch(() => asked.delete(name));
    asked.set(name, answer);
  }
  return asked.get(name);
}
