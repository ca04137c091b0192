"""Cases in a process of their own: a crash or a hang is a finding, and the others go on."""

from __future__ import annotations

import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

HANG = 10.0  # seconds of work that a case may take
WAIT = 6  # times as long it may take on a busy machine
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
    context = multiprocessing.get_context("spawn")
    while len(rows) < len(cases):
        here, there = context.Pipe()
        worker = context.Process(target=_work, args=(there, judge, cases[len(rows) :]), daemon=True)
        worker.start()
        there.close()
        ready = here.poll(120) and here.recv() == "ready"
        while ready and len(rows) < len(cases):
            name = cases[len(rows)][0]
            if not _answers(here, worker.pid, hang):
                rows.append(Row(fuzzer, name, "hang", f"over {hang:.0f} s", hang))
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
        if not ready:
            raise RuntimeError(f"{fuzzer}: the process of the cases does not start")
    return rows


def _answers(pipe: Any, process: int, hang: float) -> bool:
    """Wait for an answer; False if a process works on it, or does nothing, for too long."""
    watched = psutil.Process(process)
    begin = time.monotonic()
    before = sum(watched.cpu_times()[:2])
    while not pipe.poll(0.2):
        try:
            worked = sum(watched.cpu_times()[:2]) - before
        except psutil.NoSuchProcess:
            return True  # what ends the pipe is an answer, too
        if worked > hang or time.monotonic() - begin > WAIT * hang:
            return False
    return True


def _work(pipe: Any, judge: Judge, cases: Sequence[tuple[str, Any]]) -> None:
    import workbench

    workbench.read_clip  # noqa: B018 - loads torch, which takes seconds
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
