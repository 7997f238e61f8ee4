"""``sparsight index``: documents of a file or a folder into a collection.

Resumable without any book-keeping of its own: every batch is compared with what the collection holds, and only what
is new or different is written. A batch is one write, which is there wholly or not at all, so after a kill the same
command does what is left, and a changed file brings the collection up to date. Documents with ready vectors are
always written (stored vectors are rounded, and cannot be compared), which ends in the same state.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from sparsight.errors import FailedPreconditionError, InvalidArgumentError
from sparsight.service.commands.common import DataOption, JsonOption, Output, ServerOption, open_store
from sparsight.service.commands.fields import parse_fields
from sparsight.types import Document, PassageSpec, SAEField

if TYPE_CHECKING:
    from sparsight.service.commands.common import AnyCollection, Store

__all__ = ["IndexReport", "index", "index_documents"]


@dataclass(slots=True)
class IndexReport:
    """Counts of documents: ``read`` = ``written`` + ``unchanged`` + repeats of an id within a batch."""

    read: int = 0
    written: int = 0
    unchanged: int = 0


def index(
    source: Annotated[str, typer.Argument(metavar="FILE|BEIR_DIR", help="JSON lines (plain, .gz, .zst), Parquet, a "
                                          "BEIR folder, or ir_datasets:NAME.")],
    collection: Annotated[str, typer.Option("--collection", "-c", metavar="NAME",
                                            help="Collection to write to; made when missing.")],
    data: DataOption = "",
    server: ServerOption = "",
    fields: Annotated[str, typer.Option(metavar="FIELDS", help="Fields of a new collection: names (splade, bm25, "
                                        "dense) or NAME=KIND;option=value, between commas.",
                                        show_default="splade,bm25,dense")] = "",
    batch_size: Annotated[int, typer.Option(min=1, max=10_000, help="Documents a write.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=8, help="Word pieces a passage, in a new collection.")] = 256,
    overlap_tokens: Annotated[int, typer.Option(min=0, help="Word pieces that neighbours share.")] = 32,
    max_passages: Annotated[int, typer.Option(min=0, help="Passages a document; 1 cuts the text, 0 is no limit.")] = 0,
    vocabulary: Annotated[str, typer.Option(metavar="FILE", help='Terms of a "vector": vocab.txt or '
                                            "tokenizer.json.")] = "",
    vector_field: Annotated[str, typer.Option(metavar="FIELD", help='Field that a "vector" belongs to.')] = "splade",
    as_json: JsonOption = False,
) -> None:
    """Index documents; run it again to resume, or to bring the collection up to date."""
    from sparsight.retrieval.datasets import count_documents, read_documents
    from sparsight.retrieval.readers import read_vocabulary

    with Output.of(as_json) as output, open_store(data, server, write=True) as store:
        known = read_vocabulary(vocabulary) if vocabulary else None
        documents = read_documents(source, vocabulary=known, vector_field=vector_field)
        total = count_documents(source)
        target = _target(store, collection, fields, PassageSpec(max_tokens, overlap_tokens, max_passages))
        started = time.perf_counter()
        with output.progress() as progress:
            task = progress.add_task(f"indexing into {collection}", total=total or None)
            report = index_documents(target, documents, batch_size, lambda count: progress.advance(task, count))
        seconds = time.perf_counter() - started
        target.flush()
        stored = target.info().documents
        output.result({"collection": collection, "read": report.read, "written": report.written,
                       "unchanged": report.unchanged, "documents": stored, "seconds": round(seconds, 3)})
        output.console.print(f"{report.read} documents read, {report.written} written, {report.unchanged} unchanged, "
                             f"in {seconds:.1f} s; {collection} holds {stored}")


def _target(store: Store, name: str, fields: str, passages: PassageSpec) -> AnyCollection:
    wanted = parse_fields(fields) if fields else None
    if any(isinstance(field, SAEField) for field in wanted or ()):
        raise InvalidArgumentError("an SAE is trained on documents that are there: index them first, then "
                                   "`sparsight train-sae`", field="fields")
    if not any(info.name == name for info in store.list_collections()):
        return store.create_collection(name, wanted, passages=passages)
    target = store.collection(name)
    if wanted is not None:
        have, want = ({field.name: field.kind for field in group} for group in (target.info().fields, wanted))
        if not want.items() <= have.items():
            raise FailedPreconditionError(f"collection {name!r} exists with the fields {', '.join(have)}; leave "
                                          "--fields out or choose another collection", field="fields", name=name)
    return target


def index_documents(
    collection: AnyCollection,
    documents: Iterable[Document],
    batch_size: int,
    advance: Callable[[int], object] = lambda count: None,
) -> IndexReport:
    """Write the documents that the collection does not hold yet in this form.

    Parameters
    ----------
    collection : Collection
        Embedded or remote.
    documents : iterable of Document
        Read as they are needed; of several with the same id the last one stays.
    batch_size : int
        Documents compared and written at once; each batch is one write, wholly there or not at all.
    advance : callable
        Called with the number of documents after every batch.
    """
    report = IndexReport()
    source = iter(documents)
    while batch := list(itertools.islice(source, batch_size)):
        latest = {document.id: document for document in batch}
        stored = {document.id: document for document in
                  collection.get_many(list(latest), include=("title", "text", "metadata"))}
        changed = [document for document in latest.values() if not _same(document, stored.get(document.id))]
        if changed:
            collection.upsert(changed)
        report.read += len(batch)
        report.written += len(changed)
        report.unchanged += len(latest) - len(changed)
        advance(len(batch))
    return report


def _same(document: Document, stored: Document | None) -> bool:
    if stored is None or document.vectors or document.passages:
        return False
    return (document.title, document.text, dict(document.metadata)) == (stored.title, stored.text,
                                                                       dict(stored.metadata))
