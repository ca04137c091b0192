"""`python -m workbench demo`: what a user's first command says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest

from workbench import __main__ as command
from workbench.datasets import samples


@pytest.mark.parametrize(
    ("name", "content"), [("empty.mp4", b""), ("text.mp4", b"no video"), ("gone.mp4", None)]
)
def test_a_bad_video_is_told_in_a_line_before_anything_starts(tmp_path, capsys, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert command.main(["demo", str(tmp_path / name)]) == 1
    said = capsys.readouterr()
    assert name in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.slow
def test_the_demo_explains_a_video_with_a_space_in_its_name(tmp_path, monkeypatch, capsys):
    root = tmp_path / "a checkout"
    (root / "notebooks").mkdir(parents=True)
    shutil.copy(command.ROOT / "notebooks" / "00_quickstart.ipynb", root / "notebooks")
    video = tmp_path / "my video.avi"
    shutil.copy(samples.FOLDER / "ucf101/UCF-101/Lift/v_Lift_g01_c01.avi", video)
    monkeypatch.setattr(command, "ROOT", root)
    monkeypatch.setitem(os.environ, "WORKBENCH_CLIP", "")
    assert command.main(["demo", str(video)]) == 0
    said = capsys.readouterr().out
    assert "lift with a probability of 0." in said
    made = root / "results" / "quickstart"
    for name in ("heat.mp4", "focus.mp4", "volume.html", "quickstart.ipynb"):
        assert name in said
        assert (made / name).stat().st_size > 1000
    executed = nbformat.read(made / "quickstart.ipynb", as_version=4)
    assert not any(
        o.output_type == "error" for c in executed.cells if c.cell_type == "code" for o in c.outputs
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a single process")
def test_an_interrupted_demo_says_so_and_ends():
    demo = subprocess.Popen(
        [sys.executable, "-m", "workbench", "demo"],
        cwd=command.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = demo.stdout.readline()
    assert said.startswith("[1/")
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert "Interrupted" in rest


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    assert "demo" in capsys.readouterr().out
