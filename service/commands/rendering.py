"""Hits, explanations and features on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from sparsight.types import Contribution, Feature, Hit, Movement, RetrieverScore, SearchResult

__all__ = ["bar", "print_features", "print_hits"]

_BAR_CELLS = 24
_CONTRIBUTION_CELLS = 16
_METADATA_LENGTH = 32
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = " ▁▂▃▄▅▆▇█"


def bar(value: float, largest: float, cells: int = _BAR_CELLS) -> str:
    """A bar of ``cells`` characters for the largest value, in eighths of a character.

    Examples
    --------
    >>> bar(1.0, 2.0, 4)
    '██'
    """
    if largest <= 0.0:
        return ""
    eighths = round(min(abs(value) / largest, 1.0) * cells * 8)
    return _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def print_hits(console: Console, result: SearchResult, *, explain: bool = False, contributions: int = 6) -> None:
    """A line per hit; with ``explain`` also what its score is made of, and what moved it."""
    moved = any(hit.explanation and hit.explanation.movement for hit in result.hits)
    table = _hit_table(moved)
    for position, hit in enumerate(result.hits):
        if position and explain:
            table = _hit_table(moved, header=False)
        table.add_row(*_hit_row(hit, moved))
        if explain:
            console.print(table)
            _print_explanation(console, hit, contributions)
    if result.hits and not explain:
        console.print(table)
    for warning in result.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    if not result.hits:
        console.print("no hits")
    timings = result.timings
    total = timings.total_ms or timings.server_ms
    console.print(f"[dim]{len(result.hits)} hits in {total:.1f} ms (encoding {timings.encode_ms:.1f}, search "
                  f"{timings.search_ms:.1f}, fetching {timings.fetch_ms:.1f})[/]")
    for work in result.work:
        if work.mode != "exact":
            console.print(f"[dim]{escape(work.field)}: {work.mode}, {work.terms} terms and {work.postings} postings "
                          f"scanned, {work.rescored} passages scored with all terms[/]")
        if work.reranked:
            console.print(f"[dim]{escape(work.field)}: {work.reranked} documents scored again[/]")


def _hit_table(moved: bool, header: bool = True) -> Table:
    table = Table(box=None, pad_edge=False, show_header=header)
    table.add_column("#", justify="right", style="bold")
    if moved:
        table.add_column("was", justify="right", style="dim")
    table.add_column("score", justify="right", style="cyan")
    table.add_column("id", style="green", no_wrap=True)
    table.add_column("title", ratio=1)
    table.add_column("", style="dim", justify="right", no_wrap=True, max_width=_METADATA_LENGTH)
    return table


def _hit_row(hit: Hit, moved: bool) -> list[str]:
    row = [str(hit.rank), f"{hit.score:.4g}", escape(hit.id), escape(hit.title or _shorten(hit.text, 80)),
           escape(_metadata(hit))]
    if moved:
        movement = hit.explanation.movement if hit.explanation else None
        row.insert(1, _before(movement))
    return row


def _before(movement: Movement | None) -> str:
    if movement is None:
        return ""
    return str(movement.rank_before) if movement.rank_before else "-"


def _metadata(hit: Hit) -> str:
    """Short values first and lists by their first entry; a value that stands in a list is not repeated."""
    lists = [value for value in hit.metadata.values() if isinstance(value, list | tuple) and value]
    single = [str(value) for value in hit.metadata.values() if not isinstance(value, dict | list | tuple)
              and not any(value in entries for entries in lists)]
    firsts = [f"{entries[0]}{' +' if len(entries) > 1 else ''}" for entries in lists]
    return _shorten("  ".join(sorted(single, key=len) + firsts), _METADATA_LENGTH)


def _shorten(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3].rstrip() + "..."


def _print_explanation(console: Console, hit: Hit, limit: int) -> None:
    if hit.explanation is None:
        return
    largest = max((abs(part.share) for part in hit.explanation.retrievers), default=0.0)
    for part in hit.explanation.retrievers:
        place = f"rank {part.rank}" if part.rank else "not among its first"
        console.print(f"     [magenta]{escape(part.field):<8}[/] {part.share:>8.4f} [magenta]{bar(part.share, largest)}"
                      f"[/] [dim]{part.score:.4g} there, {place}[/]")
        _print_contributions(console, part, limit)
    if hit.explanation.movement is not None:
        _print_movement(console, hit.explanation.movement, limit)


def _print_contributions(console: Console, part: RetrieverScore, limit: int) -> None:
    largest_first = sorted(part.contributions, key=lambda entry: -abs(entry.score))
    shown = largest_first[:limit]
    if not shown:
        return
    table = _contribution_table(shown)
    rest = part.rest + sum(entry.score for entry in largest_first[limit:])
    if len(largest_first) > len(shown) or part.rest:
        table.add_row("the rest", f"{rest:.4g}", "")
    if part.dense:
        table.add_row("dense, in no feature", f"{part.dense:.4g}", "")
    console.print(Padding(table, (0, 0, 0, 14)))


def _contribution_table(contributions: Sequence[Contribution]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(max_width=34, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    largest = max(abs(entry.score) for entry in contributions)
    for entry in contributions:
        colour = "blue" if entry.score >= 0 else "red"
        table.add_row(escape(entry.label or f"#{entry.index}"), f"{entry.score:.4g}",
                      f"[{colour}]{bar(entry.score, largest, _CONTRIBUTION_CELLS)}[/]")
    return table


def _print_movement(console: Console, movement: Movement, limit: int) -> None:
    before = f"rank {movement.rank_before}" if movement.rank_before else "not among the candidates"
    console.print(f"     [yellow]moved[/]    {before} -> rank {movement.rank_after}, score "
                  f"{movement.score_before:.4g} -> {movement.score_after:.4g}")
    shown = sorted(movement.by_feature, key=lambda entry: -abs(entry.score))[:limit]
    if shown:
        console.print(Padding(_contribution_table(shown), (0, 0, 0, 14)))
    if movement.other_passage:
        console.print(f"              [dim]another passage was best before: {movement.other_passage:.4g}[/]")


def _about(feature: Feature) -> Iterator[str]:
    if feature.label_source:
        yield f"label by {feature.label_source}"
    if (quality := feature.quality) is not None and quality.detection is not None:
        strong = "" if quality.strong_detection is None else f", {quality.strong_detection:.2f} of strong ones"
        yield f"the label tells {quality.detection:.2f} of passages that fire it from others (0.5 is chance){strong}"
    if most := max(feature.histogram, default=0):
        # Few passages fire a feature much: by the square root they are seen beside the many that fire it little.
        bars = "".join(_HEIGHTS[math.ceil(8 * math.sqrt(count / most))] for count in feature.histogram)
        yield f"activations from 0 to the largest: {bars} ({sum(feature.histogram):,} passages)"
    if feature.stability is not None:
        yield (f"found again in {feature.stability:.0%} of the other trainings" if feature.stability
               else "no other training found it again")
    if feature.history:
        yield f"before: {'; '.join(feature.history)}"


def print_features(console: Console, features: Sequence[Feature], cosines: Sequence[float] = (), *,
                   examples: bool = False) -> None:
    """A line per feature; with ``examples`` also what is known of its label and firing, and its strongest texts.

    ``cosines`` are those with the words that were looked for, or none.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("feature", justify="right", style="bold")
    table.add_column("words", ratio=1)
    table.add_column("fires on", justify="right")
    table.add_column("scale", justify="right")
    if cosines:
        table.add_column("cosine", justify="right")
    for at, feature in enumerate(features):
        cosine = [f"{cosines[at]:.2f}"] if cosines else []
        table.add_row(str(feature.index), escape(feature.label), f"{feature.density:.2%}", f"{feature.scale:.3g}",
                      *cosine)
    console.print(table)
    if examples:
        for feature in features:
            for line in _about(feature):
                console.print(f"  {escape(line)}")
            for example in feature.examples:
                console.print(f"  - {escape(_shorten(example, 100))}")
