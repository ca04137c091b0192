"""Cases in a process of their own: a crash or a hang is a finding, and the others go on."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

HANG = 10.0  # seconds of work that a case may take
WAIT = 6  # times as long it may wait for a processor
TICK = 0.2  # seconds between two looks at a process
BAD = ("crash", "hang", "undocumented exception", "wrong frame")


@dataclass
class Row:
    """What came of a case.

    `case` names it (with its seed it can be made again), `outcome` is counted in the report,
    `detail` is for a reader, `megabytes` is the peak memory of the process so far.
    """

    fuzzer: str
    case: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bad(self) -> bool:
        return self.outcome in BAD


Judge = Callable[[Any], tuple[str, str]]  # a case to an outcome and its detail


def run_cases(
    fuzzer: str, judge: Judge, cases: Sequence[tuple[str, Any]], hang: float = HANG
) -> list[Row]:
    """Judge named cases, one after the other, in a process that is replaced if it dies or hangs.

    `judge` is a module's function, and must return the outcome of every exception it documents.
    """
    rows: list[Row] = []
    while len(rows) < len(cases):
        rows += _in_one_process(fuzzer, judge, cases[len(rows) :], hang)
    return rows


def _in_one_process(
    fuzzer: str, judge: Judge, cases: Sequence[tuple[str, Any]], hang: float
) -> list[Row]:
    """Judge cases up to one that kills its process or hangs; return their rows, at least one."""
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.NamedTemporaryFile("r", suffix=".stacks") as stacks:
        worker = context.Process(target=_work, args=(there, judge, cases, stacks.name), daemon=True)
        worker.start()
        there.close()
        if _silence(here, worker.pid, 20) or here.recv() != "ready":
            raise RuntimeError(f"{fuzzer}: the process of the cases does not start")
        for name, _ in cases:
            silence = _silence(here, worker.pid, hang)
            if silence:
                # Where it stands tells more than the file, which can be made again.
                os.kill(worker.pid, signal.SIGUSR1)
                time.sleep(1)
                rows.append(Row(fuzzer, name, "hang", f"{silence}\n{stacks.read()}", hang))
                break
            try:
                outcome, detail, seconds, megabytes = here.recv()
            except EOFError:
                worker.join()
                rows.append(Row(fuzzer, name, "crash", f"exit status {worker.exitcode}"))
                break
            rows.append(Row(fuzzer, name, outcome, detail, seconds, megabytes))
        worker.kill()
        worker.join()
    return rows


def _silence(pipe: Any, process: int, hang: float) -> str:
    """Wait for an answer; say how long a process worked or waited if that is too long, else "".

    Time in which this process itself is paused counts for neither.
    """
    watched = psutil.Process(process)
    before = sum(watched.cpu_times()[:2])
    ticks = 0
    while not pipe.poll(TICK):
        ticks += 1
        try:
            worked = sum(watched.cpu_times()[:2]) - before
        except psutil.NoSuchProcess:
            return ""  # what ends the pipe is an answer, too
        if worked > hang or ticks * TICK > WAIT * hang:
            return f"worked for {worked:.1f} s in at least {ticks * TICK:.1f} s"
    return ""


def _work(pipe: Any, judge: Judge, cases: Sequence[tuple[str, Any]], stacks: str) -> None:
    import workbench

    workbench.read_clip  # noqa: B018 - loads torch, which takes seconds
    with open(stacks, "w") as file:
        faulthandler.register(signal.SIGUSR1, file=file)  # the stacks of all threads
        pipe.send("ready")
        for _, case in cases:
            begin = time.perf_counter()
            try:
                outcome, detail = judge(case)
            except Exception:
                outcome, detail = "undocumented exception", traceback.format_exc(limit=-3)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            pipe.send((outcome, detail, time.perf_counter() - begin, peak))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table: fuzzer, outcome, how many, the slowest, peak memory."""
    lines = [
        "| fuzzer | outcome | cases | slowest (s) | peak memory (MB) |",
        "|---|---|---|---|---|",
    ]
    for fuzzer in dict.fromkeys(row.fuzzer for row in rows):
        own = [row for row in rows if row.fuzzer == fuzzer]
        for outcome in sorted({row.outcome for row in own}):
            some = [row for row in own if row.outcome == outcome]
            slowest = max(row.seconds for row in some)
            peak = max(row.megabytes for row in some)
            lines.append(f"| {fuzzer} | {outcome} | {len(some)} | {slowest:.2f} | {peak:.0f} |")
    return "\n".join(lines)
