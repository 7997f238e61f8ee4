"""Steering profiles: edits that a collection keeps under a name, with all versions.

They are kept in the catalogue's ``profiles``: ``{name: [version, ...]}``, each version ``{"version", "edits", "note",
"created", "fingerprints"}``. A feature is a number of one autoencoder, so a version remembers which filled the field,
and is refused where another does now.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sparsight.errors import FailedPreconditionError, IncompatibleModelError, InvalidArgumentError, UnknownProfileError
from sparsight.index.generation import Generation
from sparsight.index.memory import PROFILES
from sparsight.index.store import CollectionStore
from sparsight.retrieval.preparation import check_text
from sparsight.retrieval.steering import conditions_of, sae_field, steering_of
from sparsight.types import Edit, Profile

__all__ = ["drop", "edits_of", "get", "list_all", "save"]

MAX_PROFILES = 1_000
MAX_VERSIONS = 100
"""Of one profile; the oldest go first."""
MAX_NOTE = 4_096
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_USE = re.compile(r"([a-z][a-z0-9_-]{0,62})(?:@([1-9][0-9]{0,8}))?")


def save(store: CollectionStore, generation: Generation, name: str, edits: Sequence[Edit], note: str) -> Profile:
    """Keep edits as the next version of a profile; durable when this returns.

    Raises
    ------
    InvalidArgumentError, InvalidQueryError, UnknownFeatureError, UnknownFieldError
        The name, an edit or the note is wrong.
    FailedPreconditionError
        There are too many profiles.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            "a profile's name is a small letter and up to 62 small letters, digits, - and _; got "
            f"{name!r:.80}", field="name")  # fmt: skip
    check_text(note, "note", MAX_NOTE)
    if not edits:
        raise InvalidArgumentError("expected at least one edit, got none", field="edits")
    steering_of(generation, edits)
    conditions_of(generation, edits)
    named = [replace(edit, field=sae_field(generation, edit.field, "edits").name) for edit in edits]
    fingerprints = {edit.field: generation.field(edit.field).fingerprint for edit in named}

    def work() -> Profile:
        kept = store.catalog.find_meta(PROFILES)
        versions = kept.setdefault(name, [])
        if len(kept) > MAX_PROFILES:
            raise FailedPreconditionError(f"the collection has {MAX_PROFILES:,} profiles already; drop one",
                                          field="name", reason="TOO_MANY_PROFILES")
        number = versions[-1]["version"] + 1 if versions else 1
        versions.append({"version": number, "edits": [asdict(edit) for edit in named], "note": note,
                         "created": round(time.time(), 6), "fingerprints": fingerprints})
        del versions[:-MAX_VERSIONS]
        store.catalog.set_meta(PROFILES, kept)
        return _profile(name, versions[-1])

    saved: Profile = store.run(work)
    return saved


def get(generation: Generation, name: str, version: int = 0) -> Profile:
    """A version of a profile; 0 is the latest. UnknownProfileError if it is not there."""
    return _profile(name, _version(generation, name, version, "name"))


def list_all(generation: Generation) -> list[Profile]:
    """The latest version of every profile, by name."""
    return [_profile(name, versions[-1]) for name, versions in sorted(generation.profiles.items())]


def drop(store: CollectionStore, name: str) -> None:
    """Forget a profile with all versions. UnknownProfileError if it is not there."""

    def work() -> None:
        kept = store.catalog.find_meta(PROFILES)
        if kept.pop(name, None) is None:
            raise _unknown(kept, name, "name")
        store.catalog.set_meta(PROFILES, kept)

    store.run(work)


def edits_of(generation: Generation, use: str) -> tuple[Edit, ...]:
    """Edits that a query's ``profile`` stands for; none for "".

    Raises
    ------
    InvalidArgumentError, UnknownProfileError
        It is not NAME or NAME@VERSION, or there is none such.
    IncompatibleModelError
        The field has been filled by another autoencoder since.
    """
    if use == "":
        return ()
    match = _USE.fullmatch(use) if isinstance(use, str) else None
    if match is None:
        raise InvalidArgumentError(f"a profile is NAME or NAME@VERSION; got {use!r:.80}", field="profile")
    kept = _version(generation, match[1], int(match[2] or 0), "profile")
    for field, fingerprint in kept["fingerprints"].items():
        found = generation.schema.field(field)
        if found is None or found.fingerprint != fingerprint:
            now = "is gone" if found is None else f"is filled by {found.fingerprint[:12]} now"
            raise IncompatibleModelError(
                f"profile {use!r} has features of model {fingerprint[:12]}; field {field!r} {now}: find the features "
                "again and save the profile anew", field="profile", expected=fingerprint,
                found="" if found is None else found.fingerprint)  # fmt: skip
    return _profile(match[1], kept).edits


def _version(generation: Generation, name: str, version: int, place: str) -> Mapping[str, Any]:
    versions = generation.profiles.get(name)
    if versions is None:
        raise _unknown(generation.profiles, name, place)
    found = [kept for kept in versions if kept["version"] == (version or versions[-1]["version"])]
    if not found:
        raise UnknownProfileError(
            f"profile {name!r} has versions {versions[0]['version']} to {versions[-1]['version']}; got {version!r:.80}",
            field=place, name=name)  # fmt: skip
    return found[0]  # type: ignore[no-any-return]


def _unknown(profiles: Mapping[str, Any], name: str, place: str) -> UnknownProfileError:
    there = ", ".join(sorted(profiles)[:20]) or "none"
    return UnknownProfileError(f"no profile {name!r:.80}; there are: {there}", field=place, name=str(name)[:80])


def _profile(name: str, kept: Mapping[str, Any]) -> Profile:
    edits = tuple(Edit(**edit) for edit in kept["edits"])
    return Profile(name, kept["version"], edits, kept["note"], kept["created"])
