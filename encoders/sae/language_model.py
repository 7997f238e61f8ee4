"""Labels of latents by a language model behind an endpoint that speaks OpenAI's chat completions. Off unless asked for.

A latent is shown to the model as its strongest texts beside near misses, texts about the same that do not fire it, and
the model says in a few words what sets the first apart (Bills et al. 2023, "Language models can explain neurons in
language models"; contrast with near misses: Paulo et al. 2024, "Automatically Interpreting Millions of Features in
Large Language Models"). The texts leave this machine unless the endpoint is on it.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from scipy.sparse import csc_matrix, csr_matrix

from sparsight.encoders.sae.checks import check_codes
from sparsight.encoders.sae.labels import top_examples
from sparsight.errors import InvalidArgumentError, ShapeError, UnavailableError

__all__ = ["LanguageModel"]

_TASK = ("You name features of a text search engine. Some texts have the feature, strongest first; others are about "
         "similar things and do not have it. Answer with what the first have in common and the others lack: 2 to 6 "
         "words, as one would write into a search box, no sentence, no quotes.")
_LONGEST = 80  # characters of a label
_LARGEST = 1 << 20  # bytes of an answer that are read
_TRIES, _FIRST_PAUSE_S = 4, 0.5  # of a request that the endpoint was too busy for; each pause is twice the last
_BUSY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class LanguageModel:
    """A labeller for :func:`sparsight.encoders.sae.naming.name_latents`.

    Attributes
    ----------
    url : str
        Of the API, to which "/chat/completions" is added: "http://127.0.0.1:8080/v1" for a server of one's own.
    model : str
        Its name there.
    key : str
        Sent as a bearer token, if not empty; not shown when this is printed.
    shown : int
        Texts with the feature, and without, in a question; at least 1.
    characters : int
        Of each text, at least 1.
    at_once : int
        Questions that wait for an answer at a time.
    timeout_s : float
        For each answer.
    tell : callable, optional
        Called with (questions answered, questions).

    Raises
    ------
    InvalidArgumentError
        If the address is not one of http or https, or a number is out of its range.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    shown: int = 8
    characters: int = 500
    at_once: int = 4
    timeout_s: float = 60.0
    tell: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InvalidArgumentError(f"expected an address of http or https, got {self.url!r:.200}", field="url")
        if not self.model:
            raise InvalidArgumentError("expected the name of a model, got none", field="model")
        for name in ("shown", "characters", "at_once", "timeout_s"):
            if not getattr(self, name) > 0:
                raise InvalidArgumentError(f"expected {name} above 0, got {getattr(self, name)!r}", field=name)

    def __call__(self, codes: csr_matrix, misses: csc_matrix, texts: Sequence[str]) -> list[str]:
        """Labels of N latents; "" for those that fire on nothing, or that the model has no words for.

        Parameters
        ----------
        codes : csr_matrix, shape (B, N)
        misses : csc_matrix, shape (B, N)
            As :func:`sparsight.encoders.sae.labellers.near_misses`.
        texts : sequence of str, length B

        Raises
        ------
        ShapeError
            If shapes do not fit.
        UnavailableError
            If the endpoint cannot be reached, refuses, is too busy for long, or answers something else. No question is
            asked after that.
        """
        check_codes("codes", codes, rows=len(texts))
        if misses.shape != codes.shape:
            raise ShapeError(f"expected near misses {codes.shape}, got {misses.shape}", field="misses")
        questions: dict[int, str] = {}
        for latent, rows in enumerate(top_examples(codes, self.shown)):
            if rows:
                near = misses.indices[misses.indptr[latent]:misses.indptr[latent + 1]][:self.shown].tolist()
                questions[latent] = self._question([texts[row] for row in rows], [texts[row] for row in near])
        labels = [""] * codes.shape[1]
        with ThreadPoolExecutor(self.at_once) as pool:
            answers = pool.map(self.ask, questions.values())
            try:
                for done, (latent, answer) in enumerate(zip(questions, answers, strict=True), 1):
                    labels[latent] = answer
                    if self.tell is not None:
                        self.tell(done, len(questions))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return labels

    def ask(self, question: str) -> str:
        """One answer as a label: the first line, without quotes, at most 80 characters."""
        body = {"model": self.model, "temperature": 0, "max_tokens": 40,
                "messages": [{"role": "system", "content": _TASK}, {"role": "user", "content": question}]}
        answer = self._post(body)
        try:
            said = answer["choices"][0]["message"]["content"]
            lines = str(said or "").strip().splitlines()
        except (KeyError, IndexError, TypeError):
            raise UnavailableError(f"expected a chat completion from {self.url}, got {json.dumps(answer)[:200]}",
                                   reason="BAD_ANSWER") from None
        label = " ".join((lines or [""])[0].strip(" \t\"'`*.“”").split())
        return "".join(char for char in label if char.isprintable())[:_LONGEST].strip()

    def _question(self, with_it: Sequence[str], without: Sequence[str]) -> str:
        parts = ["Texts with the feature:", *(f"- {self._short(text)}" for text in with_it)]
        if without:
            parts += ["Texts without it:", *(f"- {self._short(text)}" for text in without)]
        return "\n".join([*parts, "The feature:"])

    def _short(self, text: str) -> str:
        return " ".join(text.split())[:self.characters]

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        for attempt in range(_TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
                    return json.loads(answer.read(_LARGEST))
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or attempt == _TRIES - 1:
                    said = error.read(200).decode(errors="replace")
                    raise UnavailableError(f"{self.url} answered {error.code} {error.reason}: {said}",
                                           reason="REFUSED") from None
            except ValueError as error:
                raise UnavailableError(f"expected JSON from {self.url}: {error}", reason="BAD_ANSWER") from None
            except (OSError, HTTPException) as error:
                if attempt == _TRIES - 1:
                    raise UnavailableError(f"{self.url} cannot be reached: {error}", reason="UNREACHABLE") from None
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")
