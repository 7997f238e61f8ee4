"""Draw the demo's 2,000 abstracts from a BEIR folder of arXiv abstracts; the shipped file is its output.

    python benches/sample_demo_corpus.py FOLDER service/demo_data/arxiv_2000.jsonl.gz

A purely random sample of a field as broad as arXiv holds a paper or two on any one subject, which makes a dull search.
So 40 % are drawn from 20 subjects given as patterns over the titles (at most 40 papers each), and 60 % from all
primary categories, in proportion to the square root of their sizes, spread over the years. Draws go by the SHA-256
of seed and id: no random state, the same papers on every machine.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparsight.retrieval.datasets import BeirFolder
from sparsight.types import Document

SEED = "sparsight demo 1"
DOCUMENTS = 2000
PER_TOPIC = 40
# Shorter abstracts say little, longer ones are cut by the encoders.
TEXT_LENGTH = range(300, 1801)
TOPICS = {
    "sparse coding": r"sparse (cod|represent|recover|autoencod|signal)|dictionary learning|compress(ed|ive) sens",
    "information retrieval": r"information retrieval|ad[- ]hoc retrieval|search engine|learning to rank|query expan",
    "neural machine translation": r"machine translation",
    "word embeddings": r"word embedding|word vector|distributed representations? of words",
    "galaxy surveys": r"galax(y|ies)|redshift",
    "exoplanets": r"exoplanet|planetary system|habitab",
    "stars": r"supernova|neutron star|pulsar|white dwarf|solar flare",
    "cosmology": r"dark matter|dark energy|cosmic microwave",
    "reinforcement learning": r"reinforcement learning|q-learning|multi-armed bandit",
    "recommendation": r"recommend(er|ation)|collaborative filtering",
    "image segmentation": r"image segmentation|object detection|image classification",
    "speech": r"speech recognition|speaker|speech synthesis",
    "music": r"\bmusic",
    "robots": r"\brobot.*(grasp|navigat|walk|manipul)|\bSLAM\b",
    "cryptography": r"encrypt|cryptograph|key exchange",
    "blockchain": r"blockchain|bitcoin|smart contract",
    "privacy": r"differential(ly)? priva|anonymi",
    "causal inference": r"causal (inference|effect)|propensity score|instrumental variable",
    "program verification": r"model checking|program verification|type system|theorem prov",
    "epidemics": r"epidemic|infectious disease|influenza|vaccin",
}


def year(identifier: str) -> int:
    """Year of an arXiv id: ``1205.0282`` (yymm.number) or ``astro-ph/9301001`` (archive/yymmnumber)."""
    two = int(identifier.rpartition("/")[2][:2])
    return 1900 + two if two >= 91 else 2000 + two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="BEIR folder whose corpus has `cat` (categories between commas, primary first)")
    parser.add_argument("target", type=Path, help="gzip JSON lines file to write")
    arguments = parser.parse_args()
    papers = [paper for paper in BeirFolder(arguments.source).documents() if len(paper.text) in TEXT_LENGTH]
    chosen = {paper.id: paper for paper in by_topic(papers)}
    for paper in by_category(papers):
        if len(chosen) >= DOCUMENTS:
            break
        chosen.setdefault(paper.id, paper)
    records = map(record, sorted(chosen.values(), key=order))
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records)
    # No time in the header: the same papers make the same file.
    arguments.target.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    print(f"{len(chosen)} papers, {arguments.target.stat().st_size} bytes")


def order(paper: Document) -> str:
    """Place of a paper in every draw."""
    return hashlib.sha256(f"{SEED}/{paper.id}".encode()).hexdigest()


def by_topic(papers: Iterable[Document]) -> Iterator[Document]:
    """Up to PER_TOPIC papers of each subject."""
    found: dict[str, list[Document]] = defaultdict(list)
    for paper in papers:
        for topic, pattern in TOPICS.items():
            if re.search(pattern, paper.title, re.IGNORECASE):
                found[topic].append(paper)
    for topic in TOPICS:
        yield from sorted(found[topic], key=order)[:PER_TOPIC]


def by_category(papers: Iterable[Document]) -> Iterator[Document]:
    """All papers, such that every first part holds categories by the square root of their size and all their years."""
    groups: dict[str, dict[int, list[Document]]] = defaultdict(lambda: defaultdict(list))
    for paper in sorted(papers, key=order):
        groups[primary(paper)][year(paper.id)].append(paper)
    placed = []
    for years in groups.values():
        size = sum(map(len, years.values()))
        # Round robin over the years: the first of every year, then the second of every year, ...
        ranked = sorted((place, order(paper), paper) for among in years.values() for place, paper in enumerate(among))
        placed += [((place + 0.5) / math.sqrt(size), tie, paper) for place, (_, tie, paper) in enumerate(ranked)]
    return (paper for _, _, paper in sorted(placed, key=lambda entry: entry[:2]))


def primary(paper: Document) -> str:
    """The first category, which is arXiv's primary one."""
    return str(paper.metadata["cat"]).split(",")[0]


def record(paper: Document) -> dict[str, object]:
    """The line of a paper."""
    categories = str(paper.metadata["cat"]).split(",")
    metadata = {"year": year(paper.id), "cat": categories, "primary": categories[0]}
    return {"_id": paper.id, "title": paper.title, "text": paper.text, "metadata": metadata}


if __name__ == "__main__":
    main()
