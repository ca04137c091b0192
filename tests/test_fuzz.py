"""The fuzzers, for some seconds: nothing crashes, hangs, or is silently another frame.

`make fuzz` runs them in full; docs/reliability.md has the results.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.fuzz import folders, isolation, videos


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fuzzer", "count"), [(videos, 70), (folders, 8)], ids=["videos", "folders"]
)
def test_damaged_files_are_read_right_or_refused(fuzzer, count):
    rows = fuzzer.run(seed=20, count=count)
    assert len(rows) == count
    assert not [row for row in rows if row.bad], isolation.table(rows)


def misbehave(how: str) -> tuple[str, str]:
    if how == "crash":
        os._exit(3)
    if how == "hang":
        time.sleep(60)
    if how == "exception":
        raise OverflowError
    return "right", how


@pytest.mark.slow
def test_a_crash_or_a_hang_is_found_and_the_other_cases_go_on():
    names = ["fine", "crash", "exception", "hang", "fine"]
    rows = isolation.run_cases("test", misbehave, [(name, name) for name in names], hang=2)
    found = [row.outcome for row in rows]
    assert found == ["right", "crash", "undocumented exception", "hang", "right"]
