"""The order of events: build all, find truths, choose settings, time in rounds that alternate between the engines.

What is done is kept in a scratch folder at once (``search/<workload>/<engine>`` below the vectors), so that a run that
was stopped goes on where it was. One worker runs at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benches.search.case import ROOT, Case, Options, say
from benches.search.engines import ENGINES, Engine, Setting
from benches.search.measure import machine
from benches.search.results import Results, Row
from benches.search.tuning import Candidate, choose
from benches.search.worker import Job
from benches.search.workloads import TEST, TUNING

__all__ = ["EngineFailed", "Runner"]

Measured = dict[str, Any]


class EngineFailed(Exception):
    """A worker ended badly; the text says how, and where its output is."""


@dataclass
class Unit:
    """A setting to be measured, and under which targets it is reported."""

    mode: str
    build: str
    setting: Setting
    k: int
    targets: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Names it in the scratch files."""
        return _key(self.k, self.setting)


def _key(k: int, setting: Setting) -> str:
    return json.dumps([k, setting], sort_keys=True)


class Runner:
    """Measures; see the module."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.results = Results(options.results)
        self.failures: list[str] = []
        describe = ["git", "describe", "--always", "--dirty"]
        self._commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    def run(self) -> None:
        """All workloads; engines that fail are noted in :attr:`failures` and left out."""
        for name in self.options.workloads:
            if self.options.fresh:
                self._forget(name)
            todo = {
                engine: [k for k in self.options.ks if not self.results.has(engine, name, k)]
                for engine in self.options.engines
            }
            todo = {engine: ks for engine, ks in todo.items() if ks}
            if todo:
                self._workload(Case(self.options, name), todo)
            else:
                say(f"{name}: all measured")

    def _forget(self, workload: str) -> None:
        self.results.drop(lambda row: row["workload"] == workload and row["engine"] in self.options.engines
                          and row["k"] in self.options.ks)  # fmt: skip
        for engine in self.options.engines:
            shutil.rmtree(self.options.vectors / "search" / workload / engine, ignore_errors=True)

    def _workload(self, case: Case, todo: dict[str, list[int]]) -> None:
        units: dict[str, list[Unit]] = {}
        for name, ks in todo.items():
            try:
                engine = ENGINES[name]()
                for build in self._builds(engine):
                    self._build(case, name, build)
                units[name] = self._choose(case, name, ks)
            except EngineFailed as failure:
                self._failed(case, name, failure)
        names = list(units)
        for number in range(self.options.rounds):
            for at in range(len(names)):  # each round begins with another engine
                name = names[(at + number) % len(names)]
                try:
                    if name in units:
                        self._round(case, name, units[name], number)
                except EngineFailed as failure:
                    self._failed(case, name, failure)
                    del units[name]
        for name, measured in units.items():
            self.results.add(self._rows(case, name, measured))

    def _failed(self, case: Case, name: str, failure: EngineFailed) -> None:
        self.failures.append(f"{case.workload.name}, {name}: {failure}")
        say(f"FAILED {self.failures[-1]}")

    def _builds(self, engine: Engine) -> list[str]:
        wanted = [build for build in engine.builds if build in self.options.builds]
        return wanted or list(engine.builds)

    def _build(self, case: Case, name: str, build: str) -> Measured:
        """Build unless it is there: seconds, bytes, version."""
        folder = case.scratch / name / build
        about = folder / "build.json"
        if about.exists():
            return dict(json.loads(about.read_text()))
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "index").mkdir(parents=True)
        order, order_s = case.order() if ENGINES[name].ordered else ("", 0.0)
        say(f"{case.workload.name}: {name} builds {build} ...")
        threads = len(os.sched_getaffinity(0))
        job = self._job(case, name, build, folder / "built.json", threads=threads, order=str(order))
        answer = self._work(job, folder)
        answer |= {"build_s": answer["build_s"] + order_s, "build_threads": threads}
        about.write_text(json.dumps(answer))
        say(f"{case.workload.name}: {name} {build} built, {answer['build_s']:.1f} s, {answer['bytes'] / 1e6:.0f} MB")
        return answer

    def _choose(self, case: Case, name: str, ks: Iterable[int]) -> list[Unit]:
        """The settings to time: the one of an exact mode, and the fastest for each target of an approximate one."""
        engine = ENGINES[name]()
        units = []
        grid: dict[str, dict[str, list[tuple[int, Setting]]]] = {}  # by mode and build
        for build in self._builds(engine):
            for k in ks:
                for mode, settings in engine.settings(build, k).items():
                    grid.setdefault(mode, {}).setdefault(build, []).extend((k, setting) for setting in settings)
        for mode, builds in grid.items():
            if mode == "exact":
                units += [Unit(mode, build, s, k, ["exact"]) for build, tasks in builds.items() for k, s in tasks]
                continue
            tried = {build: self._measure(case, name, build, tasks, TUNING, "tuning")
                     for build, tasks in builds.items()}  # fmt: skip
            for k in ks:
                candidates = [
                    Candidate(build, setting, tried[build][_key(k, setting)]["recall_float"],
                              tried[build][_key(k, setting)]["p50_us"])
                    for build, tasks in builds.items() for of, setting in tasks if of == k
                ]  # fmt: skip
                chosen: dict[str, Unit] = {}
                for target, candidate in choose(candidates).items():
                    key = candidate.build + _key(k, candidate.setting)
                    unit = chosen.setdefault(key, Unit(mode, candidate.build, candidate.setting, k))
                    unit.targets.append(target)
                units += chosen.values()
        return units

    def _round(self, case: Case, name: str, units: Sequence[Unit], number: int) -> None:
        for build in dict.fromkeys(unit.build for unit in units):
            tasks = [(unit.k, unit.setting) for unit in units if unit.build == build]
            self._measure(case, name, build, tasks, TEST, f"round-{number}")

    def _measure(self, case: Case, name: str, build: str, tasks: Sequence[tuple[int, Setting]], split: int,
                 label: str) -> dict[str, Measured]:  # fmt: skip
        """Times and recalls of settings by their key; what the label's file has is not measured again."""
        folder = case.scratch / name / build
        kept = folder / f"{label}-{len(case.rows_of[split])}.json"
        known: dict[str, Measured] = json.loads(kept.read_text()) if kept.exists() else {}
        missing = [(k, setting) for k, setting in tasks if _key(k, setting) not in known]
        if not missing:
            return known
        say(f"{case.workload.name}: {name} {build} {label}, {len(missing)} settings ...")
        asked = [{"k": k, "setting": setting} for k, setting in missing]
        job = self._job(case, name, build, folder / "searched.json", split=split, tasks=asked,
                        queries=len(case.rows_of[split]))  # fmt: skip
        answer = self._work(job, folder)
        found = np.load(folder / "searched.npz")
        for at, ((k, setting), result) in enumerate(zip(missing, answer["results"], strict=True)):
            measured = result | {"pss_bytes": answer["pss_bytes"]}
            if label in ("tuning", "round-0"):
                measured |= self._recalls(case, ENGINES[name](), split, found[f"found_{at}"], k)
            known[_key(k, setting)] = measured
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(known))
        part.replace(kept)
        return known

    def _recalls(self, case: Case, engine: Engine, split: int, found: Any, k: int) -> Measured:
        shares = case.judge(split).recall(found, k)
        recalls: Measured = {"recall_float": float(shares.mean())}
        if split == TEST:
            kinds = case.workload.kinds[case.rows_of[TEST]]
            if len(set(kinds)) > 1:
                recalls["recall_by_kind"] = {str(kind): round(float(shares[kinds == kind].mean()), 4)
                                             for kind in np.unique(kinds)}  # fmt: skip
            if engine.integers:
                shares = case.judge(split, engine.integers, engine).recall(found, k)
                recalls["recall_u8"] = float(shares.mean())
        return recalls

    def _rows(self, case: Case, name: str, units: Sequence[Unit]) -> Iterable[Row]:
        """A row for each target of each unit: medians over the rounds."""
        n = len(case.rows_of[TEST])
        for unit in units:
            built = self._build(case, name, unit.build)
            folder = case.scratch / name / unit.build
            rounds = [json.loads((folder / f"round-{r}-{n}.json").read_text())[unit.key]
                      for r in range(self.options.rounds)]  # fmt: skip
            for target in unit.targets:
                yield {
                    "engine": name, "version": built["version"], "mode": unit.mode, "target": target,
                    "workload": case.workload.name, "family": case.workload.family,
                    "documents": case.workload.documents.shape[0], "k": unit.k,
                    "recall_float": round(rounds[0]["recall_float"], 5),
                    "recall_u8": round(rounds[0]["recall_u8"], 5) if "recall_u8" in rounds[0] else None,
                    "recall_by_kind": rounds[0].get("recall_by_kind"),
                    **{what: round(float(np.median([r[what] for r in rounds])), 1)
                       for what in ("p50_us", "p99_us", "mean_us")},
                    "p50_us_rounds": [round(r["p50_us"], 1) for r in rounds],
                    "bytes": built["bytes"], "pss_bytes": int(np.median([r["pss_bytes"] for r in rounds])),
                    "build_s": round(built["build_s"], 2), "build_threads": built["build_threads"], "threads": 1,
                    "queries": n, "rounds": self.options.rounds, "machine": machine(), "commit": self._commit,
                    "date": time.strftime("%Y-%m-%d"),
                    "parameters": {"build": {"name": unit.build, **ENGINES[name].builds[unit.build]},
                                   "search": unit.setting},
                }  # fmt: skip

    def _job(self, case: Case, name: str, build: str, out: Path, **more: Any) -> Job:
        index = case.scratch / name / build / "index"
        return Job(name, build, case.workload.name, str(self.options.vectors), str(index), str(out),
                   core=self.options.core, **more)  # fmt: skip

    def _work(self, job: Job, folder: Path) -> Measured:
        """Run a worker to its end."""
        python = self.options.peers_python if ENGINES[job.engine].peer else Path(sys.executable)
        path, log = folder / "job.json", folder / "log.txt"
        job.save(path)
        Path(job.out).unlink(missing_ok=True)
        one = {name: "1" for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")}
        with log.open("w") as output:
            try:
                done = subprocess.run(
                    [python, "-m", "benches.search.worker", path], cwd=ROOT, stdout=output, stderr=output,
                    env=os.environ | (one if job.tasks else {}), timeout=self.options.limit_s, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise EngineFailed(f"stopped after {self.options.limit_s:.0f} s") from None
        if done.returncode:
            last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
            raise EngineFailed(f"ended with {done.returncode}: {last[:200]} ({log})")
        return dict(json.loads(Path(job.out).read_text()))
