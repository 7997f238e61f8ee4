"""Labels by a language model: what an endpoint is asked, what becomes of its answers, and of its failures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from sparsight.encoders.sae import language_model
from sparsight.encoders.sae.language_model import LanguageModel
from sparsight.errors import InvalidArgumentError, ShapeError, UnavailableError
from tests.encoders.sae.chat_endpoint import Endpoint, said

TEXTS = ["galaxies and stars", "stars that explode", "parsers of grammars", "a violin", "stars in films"]
CODES = csr_matrix(np.array([[2, 0, 0], [3, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32))
MISSES = csc_matrix(np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]], bool))


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(language_model, "_FIRST_PAUSE_S", 0.01)
    made = Endpoint()
    yield made
    made.close()


def test_each_latent_that_fires_is_asked_about(endpoint: Endpoint) -> None:
    endpoint.answer = lambda body: (200, said("stars" if "stars" in body["messages"][1]["content"] else "grammar"))
    told: list[tuple[int, int]] = []
    model = LanguageModel(endpoint.url, "small", key="secret", tell=lambda done, of: told.append((done, of)))
    assert model(CODES, MISSES, TEXTS) == ["stars", "grammar", ""]
    assert told == [(1, 2), (2, 2)]
    assert {body["path"] for body in endpoint.asked} == {"/v1/chat/completions"}
    assert {body["model"] for body in endpoint.asked} == {"small"}
    assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer secret"}
    about_stars = next(body["messages"][1]["content"] for body in endpoint.asked if "explode" in str(body))
    assert about_stars.splitlines() == ["Texts with the feature:", "- stars that explode", "- galaxies and stars",
                                        "Texts without it:", "- stars in films", "The feature:"]
    assert "secret" not in repr(model)


@pytest.mark.parametrize(("answer", "label"), [
    ("  “Supernovae.”\nBecause ...", "Supernovae"), ("**stars\tand\x00 galaxies**", "stars and galaxies"), ("", ""),
    (None, ""), ("long " * 40, ("long " * 16).strip()),
])  # fmt: skip
def test_an_answer_becomes_one_short_line(endpoint: Endpoint, answer: str | None, label: str) -> None:
    endpoint.answer = lambda body: (200, said(answer))
    assert LanguageModel(endpoint.url, "small").ask("?") == label


def test_texts_are_cut(endpoint: Endpoint) -> None:
    LanguageModel(endpoint.url, "small", shown=1, characters=5)(CODES, MISSES, TEXTS)
    assert "- stars\nTexts" in next(str(b["messages"][1]["content"]) for b in endpoint.asked if "stars" in str(b))


def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    answers = iter([(429, b"slow down"), (503, b""), (200, said("stars"))])
    endpoint.answer = lambda body: next(answers)
    assert LanguageModel(endpoint.url, "small").ask("?") == "stars"
    assert len(endpoint.asked) == 3


def test_one_that_stays_busy_is_given_up(endpoint: Endpoint) -> None:
    endpoint.answer = lambda body: (429, b"slow down")
    with pytest.raises(UnavailableError, match=r"429.*slow down"):
        LanguageModel(endpoint.url, "small").ask("?")
    assert len(endpoint.asked) == 4


@pytest.mark.parametrize(("status", "body", "expected"), [
    (401, b"no such key", "401.*no such key"), (200, b"<html>", "expected JSON"),
    (200, {"choices": []}, "expected a chat completion"), (200, {"error": "x"}, "expected a chat completion"),
])  # fmt: skip
def test_what_is_no_answer(endpoint: Endpoint, status: int, body: Any, expected: str) -> None:
    endpoint.answer = lambda _: (status, body)
    with pytest.raises(UnavailableError, match=expected):
        LanguageModel(endpoint.url, "small")(CODES, MISSES, TEXTS)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "_FIRST_PAUSE_S", 0.01)
    server = Endpoint()
    server.close()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        LanguageModel(server.url, "small", timeout_s=1).ask("?")


def test_a_cancelled_run_asks_no_more(endpoint: Endpoint) -> None:
    many = csr_matrix(np.eye(200, dtype=np.float32))

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LanguageModel(endpoint.url, "small", at_once=1, tell=stop)(many, csc_matrix((200, 200), dtype=bool),
                                                                  ["text"] * 200)
    assert len(endpoint.asked) < 20


@pytest.mark.parametrize(("arguments", "field"), [
    ({"url": "ftp://x/v1"}, "url"), ({"url": "/v1"}, "url"), ({"model": ""}, "model"), ({"shown": 0}, "shown"),
    ({"at_once": 0}, "at_once"), ({"timeout_s": -1.0}, "timeout_s"), ({"characters": 0}, "characters"),
])  # fmt: skip
def test_bad_settings(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        LanguageModel(**{"url": "http://127.0.0.1:1/v1", "model": "small"} | arguments)
    assert caught.value.field == field


def test_shapes() -> None:
    with pytest.raises(ShapeError):
        LanguageModel("http://127.0.0.1:1/v1", "small")(CODES, MISSES[:, :2], TEXTS)
