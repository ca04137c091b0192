"""Kills at random moments: nothing partial under a final name, no orphan after the next start.

`make kills` does a hundred; docs/reliability.md has the results. That a killed training ends as if it
had not been killed is in test_tuning.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import kills

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]
KILLS = 8


@pytest.mark.parametrize("writer", list(kills.NAMES))
def test_what_is_written_is_whole_whenever_its_writer_is_killed(writer):
    assert kills.run(writer, KILLS, seed=0) == (writer, KILLS, [], [])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_set_up_that_was_killed_starts_again():
    assert kills.run("set-up", KILLS, seed=0) == ("set-up", KILLS, [], [])


def test_half_a_file_is_told_from_a_whole_one(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html>")
    assert not kills.whole(page)
    page.write_text("<html></html>")
    assert kills.whole(page)
    (tmp_path / "film.mp4").write_bytes(b"half")
    assert not kills.whole(tmp_path / "film.mp4")
