"""Generates the Python code of ``protos/sparsight/v1/*.proto``, checks that it is up to date, and lints the protos.

::

    python protos/generate.py            # write the generated code beside the protos
    python protos/generate.py --check    # write nothing; exit 1 when a file is missing, stale or left over
    python protos/generate.py --lint     # buf lint (STANDARD and COMMENTS); needs node's npx or an installed buf

Needs grpcio-tools and mypy-protobuf (the ``dev`` extra). The generated code is checked in, so that users need neither.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = Path("sparsight/v1")
BUF_VERSION = "1.75.0"


def protos() -> list[str]:
    """Paths of the ``.proto`` files, relative to this folder, sorted."""
    return sorted(str(path.relative_to(HERE)) for path in (HERE / PACKAGE).glob("*.proto"))


def export_google(into: Path) -> None:
    """Copy Google's common protos out of site-packages, under the names by which the world imports them.

    googleapis-common-protos ships ``google/longrunning/operations.proto`` as ``operations_proto.proto``, although its
    Python code registers it under the first name; protoc must see that one for our code to import in every language.
    """
    spec = importlib.util.find_spec("google.api")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("googleapis-common-protos is not installed")
    google = Path(next(iter(spec.submodule_search_locations))).parent
    for folder in ("api", "rpc", "longrunning"):
        for source in (google / folder).glob("*.proto"):
            name = source.name.replace("operations_proto", "operations")
            (into / "google" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into / "google" / folder / name)


def _plugin(name: str) -> str:
    # Beside the interpreter first: in a virtual environment that is not activated it is not on the PATH.
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise SystemExit(f"{name} is not installed (pip install mypy-protobuf)")
    return f"--plugin={name}={found}"


def _protoc(arguments: list[str]) -> None:
    from grpc_tools import protoc

    bundled = str(Path(protoc.__file__).parent / "_proto")
    with tempfile.TemporaryDirectory() as folder:
        export_google(Path(folder))
        status = protoc.main(["protoc", f"-I{HERE}", f"-I{folder}", f"-I{bundled}", *arguments, *protos()])
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


def generate(into: Path) -> None:
    """Write the generated modules and type stubs below ``into``."""
    _protoc(
        [
            _plugin("protoc-gen-mypy"),
            _plugin("protoc-gen-mypy_grpc"),
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out=quiet:{into}",
            f"--mypy_grpc_out=quiet:{into}",
        ]
    )
    for path in (into / PACKAGE).glob("*_pb2_grpc.py"):
        if "class " not in path.read_text():  # a file without services gets an empty module
            path.unlink()
            path.with_suffix(".pyi").unlink(missing_ok=True)


def _generated(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*_pb2*") if path.is_file()}


def check() -> list[str]:
    """Names of files that are missing, stale or left over; empty when all is up to date."""
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name))
        fresh, present = _generated(Path(name) / PACKAGE), _generated(HERE / PACKAGE)
    return sorted(name for name in fresh.keys() | present.keys() if fresh.get(name) != present.get(name))


def _buf() -> list[str]:
    """Command that runs buf: an installed one, or npx with the pinned version from the npm registry."""
    if "BUF" in os.environ:
        return [os.environ["BUF"]]
    if installed := shutil.which("buf"):
        return [installed]
    if npx := shutil.which("npx"):
        return [npx, "--yes", f"@bufbuild/buf@{BUF_VERSION}"]
    raise SystemExit("buf needs node's npx (or an installed buf)")


def lint() -> int:
    """Run buf's lint over an image made by protoc, with the rules of ``buf.yaml``; returns buf's exit status.

    An image, because buf would fetch Google's protos from its own registry, and ours come from site-packages.
    """
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.binpb"
        _protoc(["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"])
        command = [*_buf(), "lint", str(image), "--config", str(HERE / "buf.yaml")]
        return subprocess.run(command, cwd=folder, check=False).returncode


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="fail when the checked-in code is stale")
    group.add_argument("--lint", action="store_true", help="run buf lint")
    arguments = parser.parse_args()
    if arguments.lint:
        return lint()
    if arguments.check:
        stale = check()
        for name in stale:
            print(f"stale: {PACKAGE / name} (run python protos/generate.py)", file=sys.stderr)
        return 1 if stale else 0
    for path in (HERE / PACKAGE).glob("*_pb2*"):
        path.unlink()
    generate(HERE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
