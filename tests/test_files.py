"""The one writer of files: whole or not at all, and what killed processes leave is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.clips import files
from workbench.clips.files import remove_orphans, whole_file

WRITER = """
import sys, time
from workbench.clips.files import whole_file
with whole_file(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writing(path: Path) -> subprocess.Popen:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"writing\n"
    return writer


def test_a_file_appears_whole_with_its_suffix_on_the_way(tmp_path):
    path = tmp_path / "new" / "result.csv"
    with whole_file(path) as temporary:
        temporary.write_text("a,b\n")
        assert (temporary.parent, temporary.suffix) == (path.parent, ".csv")
        assert not path.exists()
    assert path.read_text() == "a,b\n"
    assert os.listdir(path.parent) == ["result.csv"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path, error):
    path = tmp_path / "result.csv"
    path.write_text("old")

    def interrupted():
        with whole_file(str(path)) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.csv"]


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path, monkeypatch):
    killed, running = (start_writing(tmp_path / f"{name}.pt") for name in ("killed", "running"))
    killed.kill()
    killed.wait()
    left = os.listdir(tmp_path)
    assert len(left) == 2, "both are half written, under no final name"
    elsewhere = left[0].replace(files._HOST, "another_computer")
    (tmp_path / elsewhere).write_bytes(b"half")
    monkeypatch.setattr(files, "_swept", set())
    try:
        with whole_file(tmp_path / "next.pt") as temporary:
            temporary.write_bytes(b"whole")
        now = os.listdir(tmp_path)
        assert sorted(name for name in now if ".killed." in name) == (
            [elsewhere] if ".killed." in elsewhere else []
        )
        assert any(".running." in name and files._HOST in name for name in now)
        assert (tmp_path / "next.pt").read_bytes() == b"whole"
    finally:
        running.kill()
        running.wait()
    remove_orphans(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([elsewhere, "next.pt"])


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no open file")
def test_a_file_is_replaced_not_written_over(tmp_path):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with path.open() as reader:
        with whole_file(path) as temporary:
            temporary.write_text("new")
        assert (reader.read(), path.read_text()) == ("old", "new")


def test_kills_leave_no_half_file_under_a_final_name(tmp_path):
    path = tmp_path / "result.bin"
    script = (
        "import sys\n"
        "from workbench.clips.files import whole_file\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    with whole_file(sys.argv[1]) as temporary:\n"
        "        temporary.write_bytes(bytes(1_000_000))\n"
    )
    writer = None
    for number in range(6):
        writer = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.02 + 0.013 * number)
        writer.kill()
        writer.wait()
        if path.exists():
            assert path.stat().st_size == 1_000_000
    remove_orphans(tmp_path)
    assert set(os.listdir(tmp_path)) <= {"result.bin"}


def test_a_long_name_is_no_obstacle(tmp_path):
    path = tmp_path / ("x" * 240 + ".png")
    with whole_file(path) as temporary:
        temporary.write_bytes(b"1")
    assert path.read_bytes() == b"1"
