"""Runs the kernels' tests with the compiler's sanitizers: ``sanitized.py address`` or ``thread``, pytest's arguments.

"address" is AddressSanitizer and UndefinedBehaviorSanitizer together, "thread" is ThreadSanitizer. The extension is
built once more, with the flags of the normal build and the sanitizer's, into a folder of its own; it takes the place of
the installed one in the process that runs the tests and nowhere else. The first report ends that process.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = "sparsight.kernels.cpu._native"
NO_ADDRESS_RANDOMIZATION = 0x0040000  # personality(2)

FLAGS = {
    "address": "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all",
    "thread": "-fsanitize=thread",
}
RUNTIME = {"address": "libasan.so", "thread": "libtsan.so"}
SYMBOL = {"address": "__asan_init", "thread": "__tsan_init"}
# Aborting lets Python's fault handler say which test it was. Python itself frees little at its end: no leak checks.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
    # numpy is not compiled with the sanitizer: its own accesses and those of its threads are not judged.
    "TSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:ignore_noninstrumented_modules=1",
}


def build(sanitizer: str, folder: Path) -> Path:
    """The extension, compiled with the sanitizer."""
    tools = Path(sys.executable).parent
    flags = f"{FLAGS[sanitizer]} -g -fno-omit-frame-pointer"
    configure = [
        tools / "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}",
        "-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_CXX_FLAGS={flags}", f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    subprocess.run([*configure, "--log-level=WARNING"], check=True)
    subprocess.run([tools / "cmake", "--build", folder], check=True)
    (module,) = (folder / "kernels" / "cpu").glob("_native*.so")
    return module


def library(name: str) -> str:
    """Path of one of the compiler's libraries."""
    compiler = os.environ.get("CXX", "c++")
    found = subprocess.run([compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    path = found.stdout.strip()
    if not Path(path).is_absolute():
        sys.exit(f"{compiler} has no {name}: the sanitizers need GCC and its libraries")
    return path


def run_tests(sanitizer: str, module: Path, arguments: list[str]) -> int:
    """pytest in this process, with the instrumented extension in the place of the installed one."""
    import pytest

    getattr(ctypes.CDLL(None), SYMBOL[sanitizer])  # or the sanitizer's runtime is not there
    spec = importlib.util.spec_from_file_location(MODULE, module)
    assert spec is not None and spec.loader is not None
    sys.modules[MODULE] = native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    from sparsight.kernels import paths

    assert paths._native is native
    # Reports go to the standard error of the process, which pytest would otherwise keep to itself.
    return int(pytest.main(["--capture=sys", "-p", "no:cacheprovider", "-q", *arguments, str(Path(__file__).parent)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sanitizer", choices=FLAGS)
    parser.add_argument("--module", type=Path, help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    if arguments.module:
        return run_tests(arguments.sanitizer, arguments.module, rest)
    module = build(arguments.sanitizer, ROOT / "build" / {"address": "asan", "thread": "tsan"}[arguments.sanitizer])
    # The C++ library too: the runtime looks for what throws exceptions when it starts, before the extension is loaded.
    preload = f"{library(RUNTIME[arguments.sanitizer])}:{library('libstdc++.so')}"
    fuzz = {"SPARSIGHT_FUZZ": "3000"}  # more than elsewhere, since here every wrong access is seen
    environment = fuzz | os.environ | OPTIONS | {"LD_PRELOAD": preload, "PYTHONMALLOC": "malloc"}
    ctypes.CDLL(None).personality(NO_ADDRESS_RANDOMIZATION)  # else older runtimes find their shadow memory taken
    command = [sys.executable, __file__, arguments.sanitizer, "--module", str(module), *rest]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
