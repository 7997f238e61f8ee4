"""Clusters of features: a planted circle, through an embedded collection and over gRPC, and drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import sparsight
from sparsight.encoders.sae.model import SAE, describe_latents
from sparsight.errors import InvalidArgumentError, UnknownFieldError
from sparsight.retrieval import Database
from sparsight.service.server import ServerThread
from sparsight.types import ClusterPoint, DenseField, Feature, FeatureCluster, SAEField

D, ROUND = 12, 6  # latents 0 to 5 lie around a circle in the first two dimensions, latents 6 on in one dimension each


def _dictionary() -> SAE:
    around = np.arange(ROUND) * np.pi / 3
    rows = np.zeros((ROUND + D - 2, D), np.float32)
    rows[:ROUND, :2] = np.stack([np.cos(around), np.sin(around)], axis=1)
    rows[ROUND:, 2:] = np.eye(D - 2)
    n = len(rows)
    return SAE(2, rows, np.zeros(n, np.float32), rows, np.zeros(D, np.float32), document_mode="pursuit")


def _embeddings(count: int) -> np.ndarray:
    """Half of them anywhere on the circle, half along one other axis."""
    rng = np.random.default_rng(0)
    x, angles = np.zeros((count, D), np.float32), rng.random(count) * 2 * np.pi
    x[::2, :2] = np.stack([np.cos(angles), np.sin(angles)], axis=1)[::2]
    x[np.arange(1, count, 2), rng.integers(2, D, count // 2)] = 1
    return x


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    folder, x = tmp_path_factory.mktemp("clusters"), _embeddings(1200)
    dictionary = describe_latents(_dictionary(), x).with_names([f"hour {n}" for n in range(ROUND + D - 2)])
    dictionary.save(folder / "sae")
    with sparsight.open(folder / "data") as opened:
        things = opened.create_collection("things", [DenseField("vec", dimension=D),
                                                     SAEField(source="vec", model=str(folder / "sae"))])
        things.upsert([{"id": str(n), "vectors": {"vec": row}} for n, row in enumerate(x)])
        yield opened


def test_a_planted_circle_is_found_and_its_passages_lie_on_it(database: Database) -> None:
    things = database["things"]
    (circle,) = things.clusters()
    assert {feature.index for feature in circle.features} == set(range(ROUND)) and circle.passages == 600
    assert circle.features[0].label.startswith("hour ") and circle.variance == pytest.approx(1, abs=1e-4)
    assert circle.score > 2 * circle.null_score > 0 and circle.mixture < 0.3
    assert 200 <= len(circle.points) <= 300
    x = _embeddings(1200)
    angles = np.array([np.arctan2(*x[int(point.id), 1::-1]) for point in circle.points])
    seen = np.array([np.arctan2(point.y, point.x) for point in circle.points])
    lengths = np.array([np.hypot(point.x, point.y) for point in circle.points])
    assert lengths.std() < 0.1 * lengths.mean()
    turned = [np.exp(1j * (seen - sign * angles)) for sign in (1, -1)]  # a plane may be turned, and mirrored
    assert max(abs(one.mean()) for one in turned) > 0.99
    for point, angle in zip(circle.points, angles, strict=True):  # the nearest of the six
        assert point.feature == round(angle % (2 * np.pi) / (np.pi / 3)) % ROUND


def test_clusters_over_grpc_and_drawn(database: Database) -> None:
    (circle,) = expected = database["things"].clusters(count=3)
    with ServerThread(database) as served, sparsight.connect(served.target) as client:
        assert client["things"].clusters(count=3) == expected
        with pytest.raises(InvalidArgumentError):
            client["things"].clusters(count=0)
        papers = sparsight.explore(client["things"])
        table = papers.clusters()
        assert list(table) == [circle] and table.entries[0][1] == pytest.approx(circle.score / circle.null_score)
        cloud = papers.draw(table[0])
    page = cloud._repr_html_()
    assert page.count("<circle") == len(circle.points) and page.count("<li>") == ROUND
    assert len(repr(cloud).split("\n")) == 1 + ROUND
    with pytest.raises(UnknownFieldError):
        database["things"].clusters(field="none")


def test_a_drawing_takes_labels_as_text() -> None:
    points = (ClusterPoint("<b>", 3.0, 0.0, 7), ClusterPoint("c", -1.5, 1.5, 8), ClusterPoint("d", 0.0, 0.0, 7))
    cluster = FeatureCluster((Feature(7, "<i>"), Feature(8)), 3, 1.0, 0.5, 0.5, 0.25, 0.1, points)
    page = sparsight.explore(None).draw(cluster)._repr_html_()
    assert "<b>&" not in page.replace("<b>3 passages", "") and "&lt;i&gt;" in page and "&lt;b&gt;" in page
    assert "cx='352.0' cy='180.0'" in page and "cx='94.0' cy='94.0'" in page and "cx='180.0' cy='180.0'" in page
