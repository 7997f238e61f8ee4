"""Damage to the catalogue that SQLite itself does not notice is named as such."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

import sparsight
from sparsight.errors import CorruptIndexError
from sparsight.types import Document, SparseField, SparseVector


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with sparsight.open(tmp_path) as database:
        collection = database.create_collection("c", [SparseField("s", dimension=10)])
        collection.upsert([Document("a", vectors={"s": SparseVector.from_dict({1: 1.0})})])
    return tmp_path


@pytest.mark.parametrize("damage", ["UPDATE meta SET crc = X'00'", "UPDATE meta SET crc = 'x'", "DROP TABLE meta"])
def test_damaged_meta_rows_and_tables(folder: Path, damage: str) -> None:
    with sqlite3.connect(folder / "c" / "catalog.db") as connection:
        connection.execute(damage)
    connection.close()
    with pytest.raises(CorruptIndexError) as raised:
        sparsight.open(folder).collection("c")
    assert "catalog.db" in str(raised.value)
