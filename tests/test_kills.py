"""Kills at random moments: nothing partial under a final name, no orphan after the next start.

Fine-tuning has its own test in test_tuning.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

import workbench as wb
from workbench.clips.files import remove_orphans

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]
ROOT = Path(__file__).parents[1]
KILLS = 12
SECONDS = 0.8  # within which a process is killed

# Forks for each line a writer that kills itself after so many seconds; then one that ends.
KILLER = """
import os, signal, sys, threading, time
import matplotlib; matplotlib.use("agg")
import matplotlib.pyplot as plt, nbformat, numpy as np, plotly.graph_objects as go
from pathlib import Path
from workbench.clips.writing import save_video
from workbench.studies.figures.saving import save
from workbench.studies.notebooks import save_notebook
from workbench.views.plotly_figures import save_html

frames = np.random.default_rng(0).integers(0, 256, (12, 64, 96, 3), np.uint8)
figure, axes = plt.subplots()
axes.imshow(frames[0])
page = go.Figure(go.Scatter(y=np.arange(9)))
cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text="x" * 2_000_000)])
notebook = nbformat.v4.new_notebook(cells=[cell])

def figures(folder):
    save(figure, folder, "figure", {"film": frames})

def demo(folder):
    save_video(folder / "heat.mp4", frames, 8)
    save_notebook(notebook, folder / "quickstart.ipynb")

def pages(folder):
    save_html(page, folder / "tube.html")

write, folder = globals()[sys.argv[1]], Path(sys.argv[2])
for line in sys.stdin:
    child = os.fork()
    if not child:
        seconds = float(line)
        if seconds:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        write(folder)
        while seconds:
            write(folder)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def check(path: Path) -> None:
    """Raise an error unless a file is whole."""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".pdf":
        assert path.read_bytes().rstrip().endswith(b"%%EOF")
    elif path.suffix == ".mp4":
        assert len(wb.read_clip(path, frames=None)) == 12
    elif path.suffix == ".ipynb":
        assert len(nbformat.read(path, as_version=4).cells[0].outputs[0].text) == 2_000_000
    else:
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("figures", {"figure.png", "figure.pdf", "figure_film.mp4"}),
        ("demo", {"heat.mp4", "quickstart.ipynb"}),
        ("pages", {"tube.html"}),
    ],
)
def test_what_is_written_is_whole_whenever_its_writer_is_killed(tmp_path, what, names):
    rng = np.random.default_rng(0)
    with subprocess.Popen(
        [sys.executable, "-c", KILLER, what, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killer:

        def start(seconds: float) -> int:
            print(seconds, file=killer.stdin, flush=True)
            return int(killer.stdout.readline())

        for _ in range(KILLS):
            assert start(rng.uniform(0.02, SECONDS)) == -signal.SIGKILL
            for path in tmp_path.glob("[!.]*"):
                check(path)
        assert start(0) == 0
        killer.stdin.close()
    assert {path.name for path in tmp_path.iterdir()} == names
    assert remove_orphans(tmp_path) == []


# Stands for Python while make sets up the environment: each step takes some time, and pip writes
# two files that belong together.
PYTHON = """#!/bin/sh
case "$*" in
    *"-m venv"*) rm -rf .venv; mkdir -p .venv/bin; sleep 0.05; cp "$0" .venv/bin/python;;
    *"pip --version"*) ;;
    *"pip install"*) sleep 0.1; echo a > .venv/one; sleep 0.1; echo b > .venv/two;;
    *"-m workbench"*) cat .venv/one .venv/two;;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_set_up_that_was_killed_starts_again(tmp_path):
    root = tmp_path / "a checkout"
    root.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    command = ["make", "--silent", "demo", f"PYTHON={python}"]
    rng = np.random.default_rng(0)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command, cwd=root, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(0.02, 0.4))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        # Ready means complete.
        if (root / ".venv" / ".ready").exists():
            assert (root / ".venv" / "one").exists()
            assert (root / ".venv" / "two").exists()
            shutil.rmtree(root / ".venv")
    assert killed >= KILLS // 2
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("a\nb\n")
    assert not (root / ".venv" / "installing").exists()
