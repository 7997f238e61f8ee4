"""Cut the power of a scripted run, thousands of times, on the record of what a real process did to its files.

For an operation of a record (:mod:`recorded_lives`), :mod:`simulated_disk` makes folders that a loss of power there
could leave, and a new process must recover each: acknowledged steps are there, by id and by every search, what was
deleted stays away, a step in doubt is wholly there or wholly not and may be sent again, ``verify`` finds nothing,
writing goes on.

This file is the process: ``python simulated_losses.py FOLDER OPTIONS-AS-JSON``, see :func:`simulate`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from preloaded import compile_library, environment, forked, in_memory, say
from recorded_lives import DATA, BrokenLife, History, Lives, Loss, in_doubt
from scripted import State, apply, possible, recover
from simulated_disk import LUCKS, Luck, write_folder

__all__ = ["run", "simulate"]

BATCH = 32  # states that one process recovers


class Simulation:
    """Losses and what came of them, worked out below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def second_life(self, what: str) -> Iterator[None]:
        """A second life that cannot go on is a violation too."""
        try:
            yield
        except BrokenLife as error:
            self.counts["violations"] += 1
            self.failures.append({"history": "second life", "point": what, "fault": str(error)})

    def lose(self, history: History, losses: Sequence[Loss]) -> None:
        """Recover after each loss; counts and failures are kept."""
        waiting = sorted(losses, key=lambda loss: loss.point)
        while waiting:
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            status, lines = forked(functools.partial(self._recover, history, batch), 20.0 + 2 * BATCH)
            found = [line for line in lines if isinstance(line, str)]
            if len(found) < len(batch):  # that one ended or stopped the process: the others go on without it
                found.append(f"recovery ended with {status}: {lines[len(found):]}")
                waiting = batch[len(found):] + waiting
            for loss, fault in zip(batch, found, strict=False):
                self._note(history, loss, fault)

    def _note(self, history: History, loss: Loss, fault: str) -> None:
        self.counts["states"] += 1
        self.counts[f"states {history.kind}"] += 1
        outcomes = history.outcomes(loss.point)
        self.counts["acknowledged writes checked"] += len({number for number, end in outcomes if end == "done"})
        self.counts["states with writes in doubt"] += bool(in_doubt(outcomes))
        if fault:
            self.counts["violations"] += 1
            around = [str(operation) for operation in history.operations[max(0, loss.point - 3) : loss.point + 1]]
            self.failures.append({"history": history.kind, **loss._asdict(), "luck": str(loss.luck), "around": around,
                                  "fault": fault})

    def _recover(self, history: History, losses: Sequence[Loss], pipe: int) -> None:
        for loss, disk in zip(losses, history.disks(loss.point for loss in losses), strict=True):
            root = self._folder / "recovered" / str(os.getpid())
            write_folder(disk.after_loss(loss.luck, random.Random(loss.seed)), root)
            say(pipe, judge(root / DATA, history.outcomes(loss.point))[:1500])
            shutil.rmtree(root)


def judge(folder: Path, outcomes: Sequence[Any]) -> str:
    """What is wrong with a folder after a loss of power; "" if nothing is."""
    states, doubt = possible(outcomes), in_doubt(outcomes)
    try:
        found = recover(folder, doubt)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if found["state"] not in states:
        return f"{_kind(found['state'], states)}: found {found['state']}, expected one of {states}"
    if found["again"] != apply(found["state"], doubt):
        return f"second effect: after sending {doubt} again found {found['again']}, before {found['state']}"
    return f"faults: {found['faults']} {found['left']}" if found["faults"] or found["left"] else ""


def _kind(found: State, states: Sequence[State]) -> str:
    """Lost is what is in every allowed state and not there, back is what is there and in none; else there is half."""
    shown, (first, *others) = _facts(found), [_facts(state) for state in states]
    if first.intersection(*others) - shown:
        return "lost"
    return "back" if shown - first.union(*others) else "half"


def _facts(state: State) -> set[tuple[str, str, int]]:
    """Collections, and documents with the step that wrote them."""
    documents = {(name, id, step) for name, documents in state.items() for id, step in documents.items()}
    return documents | {(name, "", 0) for name in state}


# --- everything --------------------------------------------------------------------------------------------


def run(folder: Path, *, seed: int, states: int, every: int = 0, kill_every: int = 0, per_life: int = 12,
        obeys: Sequence[str] = ("files", "folders"), prelude: str = "") -> dict[str, Any]:
    """All kinds of losses; a report.

    Parameters
    ----------
    folder : Path
        Where to work: an empty folder, best in memory.
    seed : int
        Of all that is random.
    states : int
        Random losses: half of them in the script, the others in second lives, ``per_life`` in each.
    every : int
        The four extremes of luck after every n-th operation of the script; 0 leaves them out.
    kill_every : int
        Losses after a kill before every n-th sync, when most is visible that is not durable; syncs in unfinished
        folders do not count; 0 leaves them out.
    obeys, prelude
        What the disk syncs, and Python that the recorded processes run first: to break something on purpose.

    Returns
    -------
    dict
        ``operations`` of the script's record, counts of states and of what they showed, ``violations``, and the
        ``failures`` with the operations around the loss.
    """
    began, rng = time.monotonic(), random.Random(seed)
    lives, simulation = Lives(folder, obeys, prelude), Simulation(folder)
    script = lives.script()

    def draw(history: History, count: int) -> list[Loss]:
        points = history.points()
        return [Loss(rng.choice(points), Luck.draw(rng), f"{seed}/{rng.random()}") for _ in range(count)]

    def extremes(points: Sequence[int]) -> list[Loss]:
        return [Loss(point, luck, f"{seed}/{name}") for point in points for name, luck in LUCKS.items()]

    if every:
        simulation.lose(script, extremes(script.points()[::every]))
    simulation.lose(script, draw(script, states // 2))
    synced = [operation.path for operation in script.operations if operation.name == "sync"]
    visible = [number for number, path in enumerate(synced, 1) if "/.building-" not in path]
    for number in visible[::kill_every] if kill_every else ():
        with simulation.second_life(f"killed before sync {number}"):
            history = lives.after_kill(number, syncs=True)
            simulation.lose(history, extremes(rng.sample(history.points(), 2)))
    for turn, left in enumerate(range(states - states // 2, 0, -per_life)):
        (loss,) = draw(script, 1)
        with simulation.second_life(f"after {loss}"):
            history = lives.after_kill(loss.point) if turn % 2 else lives.after_loss(script, loss)
            simulation.lose(history, draw(history, min(per_life, left)))
    operations = sum(operation.name != "mark" for operation in script.operations)
    return {"seed": seed, "operations": operations, "files compared with the record": lives.compared, "violations": 0,
            **dict(sorted(simulation.counts.items())), "seconds": round(time.monotonic() - began, 1),
            "failures": simulation.failures}


def simulate(**options: Any) -> dict[str, Any]:
    """Run :func:`run` in a process with the recorder preloaded; its report."""
    with in_memory(Path(tempfile.gettempdir())) as folder:
        command = [sys.executable, __file__, str(folder), json.dumps(options)]
        done = subprocess.run(command, env=environment(compile_library("recorder", folder)), capture_output=True,
                              text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # what was logged comes before it
    return report


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), **json.loads(sys.argv[2]))))
