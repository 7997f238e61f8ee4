"""The web page's server: what its API answers, what it refuses, and that it starts and stops."""

from __future__ import annotations

import builtins
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from starlette.testclient import TestClient

from sparsight.errors import (
    CorruptIndexError,
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    OverloadedError,
    SearchStoppedError,
)
from sparsight.kernels import CancelFlag
from sparsight.retrieval.collection import Collection
from sparsight.retrieval.engine import Database
from sparsight.service.client import Client
from sparsight.service.commands.serving import _web_server
from sparsight.service.errors import TABLE
from sparsight.service.web import MAX_BODY_BYTES, WebApp, WebServer
from sparsight.service.web_answers import HTTP_STATUS
from sparsight.service.web_api import ENDPOINTS, MAX_K
from sparsight.service.web_guard import allowed_names
from sparsight.types import BM25Field, Edit, FeatureFamily, Query
from tests.service.web_collection import COLLECTION, HOSTILE, make_database

BASE = "http://127.0.0.1:7626"
SEARCH = f"/api/collections/{COLLECTION}/search"
FEATURES = f"/api/collections/{COLLECTION}/features"
EXAMPLES = f"/api/collections/{COLLECTION}/examples"


@pytest.fixture(scope="module")
def web_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with make_database(tmp_path_factory.mktemp("web")) as database:
        yield database


@pytest.fixture(scope="module")
def web(web_database: Database) -> Iterator[TestClient]:
    served = WebApp(web_database)
    with TestClient(served.app, base_url=BASE, raise_server_exceptions=False) as client:
        yield client
    served.close()


def search(web: TestClient, **arguments: Any) -> dict[str, Any]:
    answer = web.post(SEARCH, json=arguments)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: Any, status: int, code: str, field: str = "") -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == (code, field)
    assert set(error) == {"code", "message", "field"} and error["message"]
    return error["message"]


# --- answers ------------------------------------------------------------------------------------------------------


def test_collections(web: TestClient):
    plain, words = web.get("/api/collections").json()["collections"]
    assert (plain["name"], plain["documents"], plain["feature_fields"]) == ("plain", 1, [])
    assert (words["name"], words["documents"], words["feature_fields"]) == (COLLECTION, 151, ["sae"])
    assert [(field["name"], field["kind"], field["takes_text"]) for field in words["fields"]] == [
        ("bm25", "bm25", True), ("dense", "dense", True), ("sae", "sae", True)]


def test_a_search_is_the_engines(web: TestClient, web_database: Database):
    answer = search(web, text="cat on the mat", k=7)
    expected = web_database[COLLECTION].search("cat on the mat", k=7, explain=True)
    assert [(hit["id"], hit["rank"], hit["score"]) for hit in answer["hits"]] == [
        (hit.id, hit.rank, hit.score) for hit in expected]
    assert answer["steered"] is False and answer["exact"] is True and answer["warnings"] == []
    first = answer["hits"][0]
    assert first["title"] == expected[0].title and first["passage"] == expected[0].passage_text
    assert first["metadata"] == expected[0].metadata and first["movement"] is None


def test_contributions_and_the_rest_sum_to_each_retrievers_score(web: TestClient):
    for hit in search(web, text="cat on the mat", fields=["bm25", "dense", "sae"])["hits"]:
        assert sum(part["share"] for part in hit["retrievers"]) == pytest.approx(hit["score"])
        for part in hit["retrievers"]:
            total = sum(item["score"] for item in part["contributions"]) + part["rest"]
            assert total == pytest.approx(part["score"], abs=1e-5)
        assert {part["field"]: part["feature_field"] for part in hit["retrievers"]} == {
            "bm25": "", "dense": "sae", "sae": "sae"}


def test_without_an_explanation_there_are_no_parts(web: TestClient):
    hits = search(web, text="cat", explain=False)["hits"]
    assert hits and all(hit["retrievers"] == [] and hit["movement"] is None for hit in hits)


def test_steering_moves_hits_and_says_from_where(web: TestClient, web_database: Database):
    plain = search(web, text="cat", fields=["dense"], k=30)["hits"]
    feature = plain[-1]["retrievers"][0]["contributions"][0]["index"]
    answer = search(web, text="cat", fields=["dense"], k=30, edits=[{"feature": feature, "strength": 3}])
    assert answer["steered"]
    before = {hit["id"]: (hit["rank"], hit["score"]) for hit in plain}
    seen = 0
    for hit in answer["hits"]:
        movement = hit["movement"]
        assert (movement["rank_after"], movement["score_after"]) == (hit["rank"], hit["score"])
        assert [item["index"] for item in movement["by_feature"]] == [feature]
        if hit["id"] in before:
            seen += 1
            assert (movement["rank_before"], movement["score_before"]) == pytest.approx(before[hit["id"]])
    assert seen and [hit["id"] for hit in answer["hits"]] != [hit["id"] for hit in plain]
    query = Query("cat", ["dense"], edits=[Edit(feature, "boost", 3.0)], k=30)
    assert [hit["id"] for hit in answer["hits"]] == web_database[COLLECTION].search(query).ids


@pytest.mark.parametrize("edit", [{"strength": 0}, {"op": "suppress", "strength": 0.0}])
def test_an_edit_of_strength_0_changes_nothing(web: TestClient, edit: dict[str, Any]):
    plain = search(web, text="cat")
    edited = search(web, text="cat", edits=[{"feature": 1, **edit}])
    assert edited["hits"] == plain["hits"] and not edited["steered"]


def test_require_exclude_and_filter(web: TestClient):
    feature = search(web, text="cat", fields=["sae"])["hits"][0]["retrievers"][0]["contributions"][0]["index"]
    asked = {"text": "cat", "k": 100}
    without = search(web, **asked, edits=[{"feature": feature, "op": "exclude", "strength": 0, "field": "sae"}])
    having = search(web, **asked, edits=[{"feature": feature, "op": "require", "strength": 0}])
    assert having["hits"] and not ({hit["id"] for hit in having["hits"]} & {hit["id"] for hit in without["hits"]})
    filtered = search(web, **asked, filter="year < 2003")["hits"]
    assert filtered and all(hit["metadata"]["year"] < 2003 for hit in filtered)


def test_an_edit_that_moves_nothing_is_a_warning(web: TestClient):
    assert "move nothing" in search(web, text="cat", fields=["bm25"], edits=[{"feature": 1}])["warnings"][0]


def test_texts_come_as_they_are(web: TestClient):
    (hit,) = (hit for hit in search(web, text="zebras")["hits"] if hit["id"] == "hostile")
    assert hit["title"] == HOSTILE and hit["passage"] == "cats <b>and</b> zebras & cat"


def test_features_come_by_frequency_page_by_page(web: TestClient, web_database: Database):
    found, page, pages = [], "", 0
    while True:
        answer = web.get(FEATURES, params={"size": 20, "page": page}).json()
        found += answer["features"]
        page, pages = answer["next_page"], pages + 1
        if not page:
            break
    everything = web_database[COLLECTION].features(page_size=1000).features
    assert [item["index"] for item in found] == [item.index for item in everything]
    assert pages == -(-len(found) // 20)
    density = [item["density"] for item in found]
    assert density == sorted(density, reverse=True)


def test_features_by_words(web: TestClient, web_database: Database):
    answer = web.get(FEATURES, params={"words": "cat", "field": "sae"}).json()
    found = web_database[COLLECTION].features("cat").features
    assert [item["index"] for item in answer["features"]] == [item.index for item in found[:20]]
    refused(web.get(FEATURES, params={"words": "dog", "page": "nonsense"}), 400, "INVALID_ARGUMENT", "page_token")


def test_one_feature_has_titles_of_its_examples(web: TestClient, web_database: Database):
    known = web_database[COLLECTION].features().features[0]
    answer = web.get(f"{FEATURES}/{known.index}").json()
    assert (answer["index"], answer["field"], answer["scale"]) == (known.index, "sae", known.scale)
    assert [example["id"] for example in answer["examples"]] == list(known.examples) and known.examples
    assert all(example["title"] for example in answer["examples"])
    assert answer["label_source"] == known.label_source and answer["detection"] is None
    assert answer["histogram"] == list(known.histogram) and sum(known.histogram) > 0 and answer["stability"] is None


def test_families_of_a_feature(web: TestClient, web_database: Database, monkeypatch):
    """So small a collection has none: one is put in, of its own features."""
    parent, *children = web_database[COLLECTION].features().features[:11]
    family = FeatureFamily(parent, tuple(children), (parent.index,) * 10, (0.5,) * 10)
    asked = []
    monkeypatch.setattr(Collection, "families", lambda self, index, **more: asked.append((index, more)) or (family,))
    (one,) = web.get(f"{FEATURES}/{parent.index}/families?field=sae").json()["families"]
    assert asked == [(parent.index, {"field": "sae", "count": 3})]
    assert one["parent"]["label"] == parent.label and one["more"] == 2
    assert [child["index"] for child in one["children"]] == [child.index for child in children[:8]]


def test_features_from_examples(web: TestClient, web_database: Database):
    asked = {"positives": ["d1", "d4"], "negatives": ["d2"], "field": "sae", "count": 5}
    answer = web.post(EXAMPLES, json=asked)
    assert answer.status_code == 200, answer.text
    found = web_database[COLLECTION].find_features(["d1", "d4"], ["d2"], count=5)
    assert found and [(item["index"], item["label"], item["share"], item["strength"])
                      for item in answer.json()["features"]] == [
        (item.feature.index, item.feature.label, item.share, item.edit(0.4).strength) for item in found]
    assert len(web.post(EXAMPLES, json={"positives": ["d1"]}).json()["features"]) <= 12
    alone = web.post(EXAMPLES, json={"words": "cat"}).json()["features"]
    assert [item["index"] for item in alone] == [
        item.feature.index for item in web_database[COLLECTION].find_features(words="cat", count=12)]


@pytest.mark.parametrize(("arguments", "status", "code", "field"), [
    ({}, 400, "INVALID_ARGUMENT", "positives"),
    ({"negatives": ["d1"]}, 400, "INVALID_ARGUMENT", "positives"),
    ({"positives": "d1"}, 400, "INVALID_ARGUMENT", "positives"),
    ({"positives": ["d1", 2]}, 400, "INVALID_ARGUMENT", "positives[1]"),
    ({"positives": ["d1"], "negatives": ["nope"]}, 404, "UNKNOWN_DOCUMENT", "negatives[0]"),
    ({"positives": ["d1"], "count": 0}, 400, "INVALID_ARGUMENT", "count"),
    ({"positives": ["d1"], "field": "bm25"}, 400, "INVALID_QUERY", "field"),
    ({"positives": ["d1"], "field": "nope"}, 404, "UNKNOWN_FIELD", "field"),
    ({"positives": ["d1"], "texts": []}, 400, "INVALID_ARGUMENT", "texts"),
    ({"positives": ["x"] * 1001}, 400, "INVALID_ARGUMENT", "positives"),
])
def test_wrong_examples(web: TestClient, arguments: dict[str, Any], status: int, code: str, field: str):
    refused(web.post(EXAMPLES, json=arguments), status, code, field)


def test_profiles_are_listed_and_steer(web: TestClient, web_database: Database):
    collection, path = web_database[COLLECTION], f"/api/collections/{COLLECTION}/profiles"
    assert web.get(path).json() == {"profiles": []}
    edits = [Edit(3, "boost", 2.0), Edit(5, "boost", -1.0)]
    collection.save_profile("mine", edits, note="for a test")
    try:
        assert web.get(path).json()["profiles"] == [{"name": "mine", "version": 1, "note": "for a test", "edits": 2}]
        steered = search(web, text="cat", fields=["dense"], profile="mine")
        assert steered["steered"]
        assert [hit["id"] for hit in steered["hits"]] == collection.search(Query("cat", ["dense"], edits=edits)).ids
        refused(web.post(SEARCH, json={"text": "cat", "profile": "mine@9"}), 404, "UNKNOWN_PROFILE", "profile")
    finally:
        collection.drop_profile("mine")
    refused(web.post(SEARCH, json={"text": "cat", "profile": "mine"}), 404, "UNKNOWN_PROFILE", "profile")
    refused(web.post(SEARCH, json={"text": "cat", "profile": 7}), 400, "INVALID_ARGUMENT", "profile")
    refused(web.get(path + "?x=1"), 400, "INVALID_ARGUMENT", "x")


def test_the_map_is_the_collections(web: TestClient, web_database: Database):
    found = web_database[COLLECTION].feature_map()
    for query in ("", "?field=sae"):
        answer = web.get(f"/api/collections/{COLLECTION}/map{query}").json()
        assert answer["field"] == "sae" and answer["lobes"] == [
            {"label": lobe.label, "size": lobe.size} for lobe in found.lobes]
        assert [(point["index"], point["lobe"], point["label"], point["density"]) for point in answer["points"]] == [
            (point.index, point.lobe, point.label, point.density) for point in found.points]
        assert all(abs(point["x"] - one.x) < 1e-4 and abs(point["y"] - one.y) < 1e-4
                   for point, one in zip(answer["points"], found.points, strict=True))


def test_words_of_a_feature_are_places_in_the_passage(web: TestClient, web_database: Database):
    collection = web_database[COLLECTION]
    hit = web.post(SEARCH, json={"text": "cat dog", "fields": ["dense"], "k": 1}).json()["hits"][0]
    index = hit["retrievers"][0]["contributions"][0]["index"]
    asked = f"id={hit['id']}&passage={hit['passage_number']}&feature={index}&field=sae"
    words = web.get(f"/api/collections/{COLLECTION}/words?{asked}").json()["words"]
    (told,) = collection.words(hit["id"], [index], count=20)
    assert words and len(words) <= len(told.words)
    assert [hit["passage"][one["start"]:one["end"]] for one in words] == [
        one.word for one in told.words if one.start >= told.begins]
    for wrong, field in (
        (asked.replace("id=", "id=x"), "id"), (asked.replace("feature=", "feature=9999"), "features[0]"),
        (asked.replace("passage=0", "passage=7"), "passage"), (asked + "&x=1", "x")):
        answer = web.get(f"/api/collections/{COLLECTION}/words?{wrong}")
        assert answer.status_code in (400, 404) and answer.json()["error"]["field"] == field


# --- errors -------------------------------------------------------------------------------------------------------


def test_every_error_has_a_status():
    assert {row.code for row in TABLE.values()} <= set(HTTP_STATUS)
    assert HTTP_STATUS[grpc.StatusCode.NOT_FOUND] == 404


@pytest.mark.parametrize(("arguments", "status", "code", "field"), [
    ({"text": 5}, 400, "INVALID_ARGUMENT", "text"),
    ({"text": None}, 400, "INVALID_ARGUMENT", "text"),
    ({"text": "\ud800"}, 400, "INVALID_ARGUMENT", "text"),
    ({"text": "cat", "k": 0}, 400, "INVALID_ARGUMENT", "k"),
    ({"text": "cat", "k": MAX_K + 1}, 400, "INVALID_ARGUMENT", "k"),
    ({"text": "cat", "k": "ten"}, 400, "INVALID_ARGUMENT", "k"),
    ({"text": "cat", "k": "10"}, 400, "INVALID_ARGUMENT", "k"),
    ({"text": "cat", "k": True}, 400, "INVALID_ARGUMENT", "k"),
    ({"text": "cat", "k": 1.5}, 400, "INVALID_ARGUMENT", "k"),
    ({"text": "cat", "explain": "yes"}, 400, "INVALID_ARGUMENT", "explain"),
    ({"text": "cat", "filter": "year >"}, 400, "INVALID_FILTER", "filter"),
    ({"text": "cat", "fields": "bm25"}, 400, "INVALID_ARGUMENT", "fields"),
    ({"text": "cat", "fields": ["bm25", 3]}, 400, "INVALID_ARGUMENT", "fields[1]"),
    ({"text": "cat", "fields": ["nope"]}, 404, "UNKNOWN_FIELD", "retrievers[0].field"),
    ({"text": "cat", "edits": {}}, 400, "INVALID_ARGUMENT", "edits"),
    ({"text": "cat", "edits": [5]}, 400, "INVALID_ARGUMENT", "edits[0]"),
    ({"text": "cat", "edits": [{}]}, 400, "INVALID_ARGUMENT", "edits[0].feature"),
    ({"text": "cat", "edits": [{"feature": 10**6}]}, 404, "UNKNOWN_FEATURE", "edits[0].feature"),
    ({"text": "cat", "edits": [{"feature": 10**400}]}, 400, "INVALID_ARGUMENT", "edits[0].feature"),
    ({"text": "cat", "edits": [{"feature": -1}]}, 400, "INVALID_ARGUMENT", "edits[0].feature"),
    ({"text": "cat", "edits": [{"feature": 1, "op": "shake"}]}, 400, "INVALID_QUERY", "edits[0].op"),
    ({"text": "cat", "edits": [{"feature": 1, "op": []}]}, 400, "INVALID_ARGUMENT", "edits[0].op"),
    ({"text": "cat", "edits": [{"feature": 1, "strength": 1e9}]}, 400, "INVALID_QUERY", "edits[0].strength"),
    ({"text": "cat", "edits": [{"feature": 1, "strength": "1"}]}, 400, "INVALID_ARGUMENT", "edits[0].strength"),
    ({"text": "cat", "edits": [{"feature": 1, "field": "nope"}]}, 404, "UNKNOWN_FIELD", "edits[0].field"),
    ({"text": "cat", "edits": [{"feature": 1, "field": "bm25"}]}, 400, "INVALID_QUERY", "edits[0].field"),
    ({"text": "cat", "edits": [{"feature": 1, "strenght": 2}]}, 400, "INVALID_ARGUMENT", "edits[0].strenght"),
    ({"text": "cat", "edits": [{"feature": 1}] * 300}, 400, "INVALID_QUERY", "edits"),
    ({"text": "cat", "size": 3}, 400, "INVALID_ARGUMENT", "size"),
])
def test_wrong_arguments(web: TestClient, arguments: dict[str, Any], status: int, code: str, field: str):
    body = json.dumps(arguments).encode()
    refused(web.post(SEARCH, content=body, headers={"content-type": "application/json"}), status, code, field)


@pytest.mark.parametrize("body", [
    b"", b"{", b"nonsense", b"[1]", b'"text"', b"null", b"\xff\xfe", b'{"text": NaN}', b"[" * 100_000,
    b'{"k": ' + b"9" * 5_000 + b"}",
])
def test_a_body_that_is_no_json_object(web: TestClient, body: bytes):
    answer = web.post(SEARCH, content=body, headers={"content-type": "application/json"})
    refused(answer, 400, "MALFORMED_JSON", "body")


def test_a_number_that_is_infinite_in_python(web: TestClient):
    answer = web.post(SEARCH, content=b'{"edits": [{"feature": 1, "strength": 1e999}]}',
                      headers={"content-type": "application/json"})
    refused(answer, 400, "INVALID_ARGUMENT", "edits[0].strength")


def test_a_body_of_another_type_or_too_long(web: TestClient):
    refused(web.post(SEARCH, content=b"{}", headers={"content-type": "text/plain"}), 400, "NOT_JSON", "body")
    refused(web.post(SEARCH, data={"text": "cat"}), 400, "NOT_JSON", "body")
    long = json.dumps({"text": "x" * MAX_BODY_BYTES}).encode()
    refused(web.post(SEARCH, content=long, headers={"content-type": "application/json"}), 400, "MESSAGE_TOO_LARGE",
            "body")


@pytest.mark.parametrize(("path", "status", "code", "field"), [
    ("/api/collections?x=1", 400, "INVALID_ARGUMENT", "x"),
    ("/api/collections/none/features", 404, "UNKNOWN_COLLECTION", "name"),
    ("/api/collections/..%2f..%2fetc/features", 404, "NO_SUCH_PAGE", ""),
    ("/api/collections/%00/features", 400, "INVALID_ARGUMENT", "name"),
    ("/api/collections/UPPER/features", 400, "INVALID_ARGUMENT", "name"),
    ("/api/collections/plain/features", 400, "NO_FEATURES", "field"),
    (f"{FEATURES}?field=none", 404, "UNKNOWN_FIELD", "field"),
    (f"{FEATURES}?field=bm25", 400, "INVALID_QUERY", "field"),
    ("/api/collections/plain/map", 400, "NO_FEATURES", "field"),
    ("/api/collections/none/map", 404, "UNKNOWN_COLLECTION", "name"),
    (f"/api/collections/{COLLECTION}/map?field=none", 404, "UNKNOWN_FIELD", "field"),
    (f"/api/collections/{COLLECTION}/map?field=bm25", 400, "INVALID_QUERY", "field"),
    (f"/api/collections/{COLLECTION}/map?size=1", 400, "INVALID_ARGUMENT", "size"),
    (f"{FEATURES}?size=0", 400, "INVALID_ARGUMENT", "size"),
    (f"{FEATURES}?size=many", 400, "INVALID_ARGUMENT", "size"),
    (f"{FEATURES}/100000", 404, "UNKNOWN_FEATURE", "index"),
    (f"{FEATURES}/1e3", 400, "INVALID_ARGUMENT", "feature"),
    (f"{FEATURES}/-1", 400, "INVALID_ARGUMENT", "feature"),
    ("/api/nothing", 404, "NO_SUCH_PAGE", ""),
    ("/nothing.html", 404, "NO_SUCH_PAGE", ""),
    ("/%2e%2e/web.py", 404, "NO_SUCH_PAGE", ""),
    ("/..%2fweb.py", 404, "NO_SUCH_PAGE", ""),
    ("/%00", 404, "NO_SUCH_PAGE", ""),
    ("/" + "x" * 5_000, 404, "NO_SUCH_PAGE", ""),
    (SEARCH, 405, "METHOD_NOT_ALLOWED", ""),
])
def test_wrong_paths(web: TestClient, path: str, status: int, code: str, field: str):
    refused(web.get(path), status, code, field)


@pytest.mark.parametrize(("error", "status", "retry"), [
    (OverloadedError("too much"), 429, "1"),
    (DeadlineError("too late"), 504, None),
    (FailedPreconditionError("not now"), 409, None),
    (CorruptIndexError("a bit flipped"), 500, None),
])
def test_errors_of_the_engine(web: TestClient, monkeypatch, error: Exception, status: int, retry: str | None):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Collection, "search", fail)
    answer = web.post(SEARCH, json={"text": "cat"})
    assert refused(answer, status, error.reason) == str(error)  # type: ignore[attr-defined]
    assert answer.headers.get("retry-after") == retry


def test_a_bug_tells_nothing_but_an_id(web: TestClient, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Collection, "search", fail)
    answer = web.post(SEARCH, json={"text": "cat"})
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.json()["error"]["code"] == "INTERNAL" and len(answer.json()["error"]["error_id"]) == 32


# --- who may ask --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:7626", "localhost:7626", "localhost", "LOCALHOST:1", "[::1]:7626"])
def test_our_names_are_answered(web: TestClient, host: str):
    assert web.get("/api/collections", headers={"host": host}).status_code == 200
    assert web.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:7626", "127.0.0.1.evil.example", "localhost.evil.example:7626", "10.0.0.1:7626", "",
    "localhost:7626:1", "evil@localhost", "localhost:99999999", "[127.0.0.1", "localhost.",
])
@pytest.mark.parametrize("path", ["/", "/app.js", "/api/collections"])
def test_other_names_are_not(web: TestClient, host: str, path: str):
    refused(web.get(path, headers={"host": host}), 403, "FOREIGN_HOST")


def test_one_host_header_only(web: TestClient):
    refused(web.get("/", headers=[("host", "localhost"), ("host", "evil.example")]), 403, "FOREIGN_HOST")


@pytest.mark.parametrize("headers", [
    {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:7627"}, {"origin": "nonsense"},
    {"origin": "http://localhost:7626"}, {"origin": "file://127.0.0.1:7626"}, {"origin": "http://[127.0.0.1"},
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
    {"origin": "http://127.0.0.1:7626", "sec-fetch-site": "cross-site"},
])
def test_other_pages_may_not_ask(web: TestClient, headers: dict[str, str]):
    refused(web.post(SEARCH, json={"text": "cat"}, headers=headers), 403, "CROSS_ORIGIN")
    refused(web.get("/api/collections", headers=headers), 403, "CROSS_ORIGIN")
    assert web.get("/", headers=headers).status_code == 200  # a link to the page is no harm


def test_our_own_page_may(web: TestClient):
    headers = {"origin": BASE, "sec-fetch-site": "same-origin"}
    assert web.post(SEARCH, json={"text": "cat"}, headers=headers).status_code == 200


def test_no_other_page_may_read(web: TestClient):
    answer = web.options(SEARCH, headers={"origin": "http://evil.example", "access-control-request-method": "POST"})
    assert answer.status_code == 403
    for path in ("/", "/api/collections"):
        assert not [name for name in web.get(path).headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/app.js", "/style.css", "/api/collections", "/api/nothing", "/nothing"])
def test_protecting_headers(web: TestClient, path: str):
    headers = web.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == ("no-store" if path.startswith("/api/") else "no-cache")


def test_beyond_loopback_addresses_are_answered_and_other_names_are_not():
    names, any_address = allowed_names("127.0.0.1")
    assert names == {"localhost", "127.0.0.1", "::1"} and not any_address
    names, any_address = allowed_names("0.0.0.0")
    assert any_address and socket.gethostname().lower() in names and "evil.example" not in names


# --- the page's files ---------------------------------------------------------------------------------------------


def test_the_page_is_served_whole(web: TestClient):
    page = web.get("/")
    assert page.headers["content-type"].startswith("text/html") and "<title>sparsight</title>" in page.text
    folder = Path(sys.modules["sparsight.service.web"].__file__ or "").parent / "web_page"
    types = {".js": ("text/javascript", "application/javascript"), ".css": ("text/css",), ".svg": ("image/svg+xml",),
             ".html": ("text/html",)}
    for path in folder.iterdir():
        answer = web.get(f"/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].startswith(types[path.suffix]), path
        text = path.read_text()
        assert "innerHTML" not in text and "https://" not in text and "eval(" not in text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


# --- the server ---------------------------------------------------------------------------------------------------


def test_it_starts_answers_and_stops(web_database: Database):
    with WebServer(web_database, port=0) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/" and server.port > 0
        with urllib.request.urlopen(server.url + "api/collections", timeout=20) as answer:
            assert json.load(answer)["collections"][1]["name"] == COLLECTION
            assert "server" not in answer.headers
        with pytest.raises(FailedPreconditionError, match="another server"):
            WebServer(web_database, port=server.port).start()
    with pytest.raises(OSError):
        urllib.request.urlopen(server.url, timeout=5)
    server.stop()  # once more does nothing
    assert not [thread for thread in threading.enumerate() if thread.name == "sparsight-web"]


def test_it_stays_on_this_machine(web_database: Database):
    with pytest.raises(InvalidArgumentError, match="other machines"):
        WebServer(web_database, "0.0.0.0")


def test_a_caller_that_leaves_stops_its_search(web_database: Database, monkeypatch):
    stopped = threading.Event()

    def slow(*_: object, cancel: CancelFlag, **__: object) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                cancel.check()
            except SearchStoppedError:
                stopped.set()
                raise
            time.sleep(0.01)

    monkeypatch.setattr(Collection, "search", slow)
    with WebServer(web_database, port=0) as server:
        body = b'{"text": "cat"}'
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.2)
        assert stopped.wait(10)


def test_a_missing_package_is_said(web_database: Database, monkeypatch):
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".")[0] == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, "sparsight.service.web")
    monkeypatch.delitem(sys.modules, "uvicorn")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FailedPreconditionError, match=r"pip install sparsight\[web\]") as raised:
        _web_server(web_database, "127.0.0.1", 0, False, "error")
    assert raised.value.details["package"] == "uvicorn"


@pytest.mark.slow
def test_serve_brings_the_page_and_stops_with_it(tmp_path: Path):
    with Database(tmp_path / "data") as database:
        database.create_collection("plain", [BM25Field()]).upsert([{"id": "1", "text": "a plain cat"}])
    command = [sys.executable, "-m", "sparsight.service.cli", "serve", "--data", str(tmp_path / "data"), "--port", "0",
               "--web", "--web-port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        with Client(ready["target"]) as client:
            assert client["plain"].search("cat").ids == ["1"]
        assert ready["web"].startswith("http://127.0.0.1:")
        request = urllib.request.Request(ready["web"] + "api/collections/plain/search", b'{"text": "cat"}',
                                         {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert [hit["id"] for hit in json.load(answer)["hits"]] == ["1"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out == "" and "Traceback" not in err
        assert '"event": "web call"' in err and "cat" not in err
    finally:
        process.kill()
        process.wait()


def test_endpoints_have_limits_and_paths_of_their_own():
    assert len({(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}) == len(ENDPOINTS)
    assert all(endpoint.path.startswith("/api/") for endpoint in ENDPOINTS)
