// The collection's saved profiles, of which one may steer the search beside the sliders.

import {listProfiles, newest} from "./api.js";
import {byId, setOptions} from "./dom.js";

const described = ({name, edits}) => `${name} (${edits} ${edits === 1 ? "edit" : "edits"})`;

export class Profiles {
  constructor(state) {
    Object.assign(this, {state, questions: newest(), collection: "", saved: []});
    byId("profile").addEventListener("change", () => state.change({profile: byId("profile").value}));
  }

  use({name}) {
    if (this.collection === name) return;
    Object.assign(this, {collection: name, saved: []});
    this.show();
    this.questions.run(0, (signal) => listProfiles(name, signal), ({profiles}) => {
      this.saved = profiles;
      this.show();
    }, () => {}); // the search says what is wrong
  }

  /** The choice, while there is one; a profile that only a link knows (a version, say) is in it, too. */
  show() {
    const {profile} = this.state.view, one = this.saved.find(({name}) => name === profile);
    const unknown = profile && !one ? [{value: profile, text: profile}] : [];
    setOptions(byId("profile"), [{value: "", text: "none"},
      ...this.saved.map((saved) => ({value: saved.name, text: described(saved)})), ...unknown], profile);
    byId("profile").title = one?.note ?? "";
    byId("profile-choice").hidden = !this.saved.length && !profile;
  }
}
