"""The steering report's own arithmetic; what it measures needs the corpora."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benches.steering.lists import precision, rbo
from benches.steering.names import ARXIV, LARGE, SHIPPED
from benches.steering.report import put_beside, write_page
from benches.steering.systems import system_rows
from benches.steering.targets import target_rows
from benches.steering.towards import NAMES, at_overlap


def test_rank_biased_overlap() -> None:
    a = np.arange(10)
    assert rbo(a, a) == pytest.approx(1) and rbo(a, a + 10) == 0
    assert rbo(np.array([0, 1]), np.array([1, 0])) == pytest.approx(0.1 * 0.9 + 0.81)  # nothing, then all in common
    swapped, cut = a[::-1], np.concatenate([a[:5], a[5:] + 10])
    assert rbo(a, swapped) < rbo(a, cut) == rbo(cut, a) < 1  # the first ranks weigh most
    assert precision(a, a % 2 == 0, 5) == pytest.approx(0.6)


def test_gain_at_an_overlap() -> None:
    rows = [{"way": "features", "rbo": overlap, "gain": gain} for overlap, gain in ((0.8, 0.1), (0.4, 0.3), (0.6, 0.2))]
    assert at_overlap(rows, "features") == pytest.approx(0.25)
    assert np.isnan(at_overlap(rows, "features", overlap=0.9))


def test_every_category_that_is_asked_with_has_a_name() -> None:
    assert len(NAMES) == 40 and all(name == name.strip() and name for name in NAMES.values())


def test_targets_and_page(tmp_path: Path) -> None:
    towards = [{"kind": "towards", "way": way, "step": step, "pairs": 7, "before": 0.1, "after": 0.1 + gain,
                "gain": gain, "rbo": overlap}
               for way, factor in (("features", 1.0), ("mean difference", 0.8), ("oracle", 2.0), ("noise", 0.0))
               for step, gain, overlap in ((0.1, 0.1 * factor, 0.7), (0.5, 0.3 * factor, 0.3))]
    towards.append({"kind": "towards", "way": "label behind the query", "step": 0.0, "pairs": 7, "before": 0.1,
                    "after": 0.15, "gain": 0.05, "rbo": 0.6})
    ways = {"none": 4.0, "1 edit": 4.4, "8 edits": 4.6, "explained": 4.5, "1 edit, explained": 9.0}.items()
    cost = [{"kind": "cost", "field": field, "way": way, "ms": ms, "p99_ms": 2 * ms, "times": ms / 4}
            for field in ("dense", "sae") for way, ms in ways]
    strengths = [{"kind": "strengths", "spearman": rank, "gain": 2.0, "others": 0.1, "falls": 0}
                 for rank in (1.0, 0.5, float("nan"))]
    rows = {"towards": towards, "cost": cost, "strengths": strengths}
    targets = {row["what"]: row for row in target_rows(rows)}
    gained, above, monotone, specific, steered, explained = targets.values()
    assert gained["measured"] == pytest.approx(0.2) and not gained["met"] and "oracle +0.400" in gained["note"]
    assert above["measured"] == pytest.approx(1.25) and above["met"]
    assert monotone["measured"] == 0.5 and "2 of 3 pairs" in monotone["note"]
    assert specific["measured"] == pytest.approx(0.05) and specific["met"]
    assert steered["measured"] == pytest.approx(1.15) and explained["measured"] == pytest.approx(0.5)
    write_page({"rows": {"targets": list(targets.values()), **rows}}, tmp_path / "steering.json")
    page = (tmp_path / "steering.md").read_text()
    assert page.count("| met |") == 4 and page.count("**missed**") == 2 and "| oracle | 0.1 | 0.100 |" in page
    assert (tmp_path / "steering.svg").stat().st_size > 1000 < (tmp_path / "steering_targets.svg").stat().st_size


def test_another_encoder_stands_beside(tmp_path: Path) -> None:
    def row(what: str, measured: float) -> dict[str, object]:
        return {"what": what, "bound": "at least", "asked": 0.8, "measured": measured, "unit": "", "note": "",
                "met": measured >= 0.8, "times": measured / 0.8}

    def system(measured: float) -> dict[str, object]:
        return {"system": 23, "name": "Known", "asks": "AUROC", "bound": "at least", "asked": 0.85, "unit": "",
                "measured": measured, "met": measured >= 0.85, "note": ""}

    rows = {"targets": [row("examples", 0.78), row("cost", 0.9)], "systems": [system(0.84)]}
    others = {"targets": [row("examples", 0.83), row("something else", 1.0)], "systems": [system(0.9)]}
    put_beside(rows, others, "large")
    assert rows["targets"][0]["beside"] == {"large": {"measured": 0.83, "met": True}}
    assert "beside" not in rows["targets"][1]
    write_page({"rows": rows}, tmp_path / "steering.json")
    page = (tmp_path / "steering.md").read_text().splitlines()
    assert "[large](steering-large.md)" in page[2]
    assert "| examples | at least 0.8 | 0.78  | **missed** | 0.83 | met |  |" in page
    assert "| cost | at least 0.8 | 0.9  | met |  |  |  |" in page
    assert "| 23 | Known | AUROC | at least 0.85 | 0.84  | **missed** | 0.9 | met |  |" in page
    write_page({"rows": others}, tmp_path / "steering-large.json")
    assert (tmp_path / "steering-large.md").read_text().startswith("# Steering with large\n")
    assert "](steering-large_targets.svg)" in (tmp_path / "steering-large.md").read_text()
    assert (tmp_path / "steering-large_targets.svg").is_file()


def test_criteria_of_systems() -> None:
    rows = {"lobes": [{"z": 12.0, "lobes": 3, "texts": 100, "adjusted": 0.1}],
            "sets": [{"first": 9, "inserted": 10, "spearman": 0.9, "asked": 5}],
            "away": [{"way": "features", "step": step, "pairs": 3, "left": left, "ndcg": ndcg}
                     for step, left, ndcg in ((0.0, 0.4, 0.8), (0.3, 0.2, 0.8), (0.6, 0.1, 0.72))]}
    found = [(row["system"], row["measured"], row["met"]) for row in system_rows(rows)]
    assert found == [(17, 12.0, True), (20, pytest.approx(62.5), True), (27, 90.0, False), (27, 0.9, True)]


def test_names_of_several_dictionaries(tmp_path: Path) -> None:
    rows = [{"kind": "names", "dictionary": dictionary, "labeller": labeller, "texts": 50, "features": 12,
             "named": named, "won": 5, "seconds": seconds, "detection": detection + better, "strong_detection": 0.9,
             "correlation": 0.2, "intruder": 0.5}
            for dictionary, named, seconds, detection in ((SHIPPED, 1.0, 30.0, 0.7), (ARXIV, 1.0, 60.0, 0.85),
                                                          (LARGE, 0.99, 120.0, 0.8))
            for labeller, better in (("contrast", 0.0), ("chosen", 0.06))]
    counted = [{"kind": "names counted", "judge": "table", "strongest": 8, "texts": 40, "detection": 0.95,
                "strong_detection": 0.97, "correlation": 0.25, "intruder": 0.8}]
    detection, named = target_rows({"names": rows})
    assert detection["measured"] == pytest.approx(0.91) and detection["met"]
    assert f"{SHIPPED} 0.760" in detection["note"] and "contrast 0.850 (won 5)" in detection["note"]
    assert named["measured"] == 0.99 and not named["met"] and "in 2.0 minutes for 12" in named["note"]
    assert [row["measured"] for row in system_rows({"names": rows}) if row["system"] == 22] == [100.0]
    write_page({"rows": {"names": rows, "names counted": counted}}, tmp_path / "steering.json")
    page = (tmp_path / "steering.md").read_text()
    assert f"| {LARGE} | 12 | 2.0 | chosen | 5 | 0.860 |" in page and "| 8 | table | 0.950 |" in page
