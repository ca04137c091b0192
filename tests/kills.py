"""Kill writers at random moments: nothing partial under a final name, no orphan after the next start.

    python -m tests.kills [--kills 25] [--seed 0] [--table FILE]

Each writer is killed (SIGKILL) so many times. After each kill, whatever has a final name is read in
full; after one start that is not killed, no temporary file may be left. The exit status is 1 if
anything partial or an orphan was found.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
from PIL import Image

import workbench as wb
from workbench.clips.files import remove_orphans
from workbench.training.run_checkpoints import read_state

ROOT = Path(__file__).parents[1]
SECONDS = 0.8  # within which a writer is killed


class Outcome(NamedTuple):
    """How often a writer was killed, and the names of what was partial or left over."""

    writer: str
    kills: int
    partial: list[str]
    orphans: list[str]


# Forks for each line a writer that kills itself after so many seconds; 0: one that ends.
WRITER = """
import os, signal, sys, threading
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
NAMES = {
    "figures": {"figure.png", "figure.pdf", "figure_film.mp4"},
    "demo": {"heat.mp4", "quickstart.ipynb"},
    "pages": {"tube.html"},
}

# Forks for each line a training that kills itself so many seconds after its first step.
TRAINING = f"""
import os, sys
import accelerate, torch._dynamo  # slow to import: here, not in every child
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tuning import doomed_run
for line in sys.stdin:
    seconds, folder = line.split(maxsplit=1)
    child = os.fork()
    if not child:
        doomed_run(float(seconds), folder.strip())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

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


@contextmanager
def starter(code: str, *arguments: str) -> Iterator[Callable[[str], int]]:
    """Yield a function that has a child started by a program, and returns how the child ended."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:

        def start(line: str) -> int:
            print(line, file=program.stdin, flush=True)
            return int(program.stdout.readline())

        yield start
        program.stdin.close()


def whole(path: Path) -> bool:
    """Return whether a file can be read in full."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
            return True
        if path.suffix == ".pdf":
            return path.read_bytes().rstrip().endswith(b"%%EOF")
        if path.suffix == ".mp4":
            return len(wb.read_clip(path, frames=None)) == 12
        if path.suffix == ".ipynb":
            notebook = nbformat.read(path, as_version=4)
            return len(notebook.cells[0].outputs[0].text) == 2_000_000
        if path.suffix == ".pt":
            read_state(path, {"run", "state_dict"})
            return True
        return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    except Exception:
        return False


def written(writer: str, folder: Path, kills: int, rng: np.random.Generator) -> Outcome:
    """Kill a writer of figures, of the demo's results or of a page."""
    partial: set[str] = set()
    with starter(WRITER, writer, str(folder)) as start:
        for _ in range(kills):
            code = start(str(rng.uniform(0.02, SECONDS)))
            if code != -signal.SIGKILL:
                raise RuntimeError(f"{writer}: expected a killed process, got exit status {code}")
            partial |= {path.name for path in folder.glob("[!.]*") if not whole(path)}
        if start("0"):
            raise RuntimeError(f"{writer}: it fails by itself")
    left = {path.name for path in folder.iterdir()} - NAMES[writer]
    return Outcome(writer, kills, sorted(partial), sorted(left | set(remove_orphans(folder))))


def fine_tuning(folder: Path, kills: int, rng: np.random.Generator) -> Outcome:
    """Kill a training, which resumes each time; a new one begins where one has come to its end."""
    partial: set[str] = set()
    orphans: set[str] = set()
    done = 0
    with starter(TRAINING) as start:
        while done < kills:
            output = folder / f"run{done}"
            code = -signal.SIGKILL
            while code == -signal.SIGKILL and done < kills:
                code = start(f"{rng.uniform(0.0, 0.15)} {output}")
                done += code == -signal.SIGKILL
                partial |= {path.name for path in output.glob("[!.]*") if not whole(path)}
            # The next start, which is not killed.
            if start(f"1e6 {output}"):
                raise RuntimeError(f"the training in {output} fails by itself")
            names = {path.name for path in output.iterdir()}
            orphans |= names - {".lock", "latest.pt", "best.pt"}
    return Outcome("fine-tuning", done, sorted(partial), sorted(orphans))


def set_up(folder: Path, kills: int, rng: np.random.Generator) -> Outcome:
    """Kill `make` while it sets up the environment: what says it is ready must be complete."""
    root = folder / "a checkout"
    root.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    command = ["make", "--silent", "demo", f"PYTHON={python}"]
    partial: set[str] = set()
    done = 0
    while done < kills:
        process = subprocess.Popen(
            command, cwd=root, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(0.02, 0.4))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        done += process.wait() == -signal.SIGKILL
        if (root / ".venv" / ".ready").exists():
            complete = (root / ".venv" / "one").exists() and (root / ".venv" / "two").exists()
            partial |= set() if complete else {".venv"}
            shutil.rmtree(root / ".venv")
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    if not ended.stdout.endswith("a\nb\n"):
        partial.add(".venv")
    left = {"installing"} & {path.name for path in (root / ".venv").iterdir()}
    return Outcome("set-up", done, sorted(partial), sorted(left))


def run(writer: str, kills: int, seed: int) -> Outcome:
    """Kill a writer of `WRITERS` so many times."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        if writer == "fine-tuning":
            return fine_tuning(Path(folder), kills, rng)
        if writer == "set-up":
            return set_up(Path(folder), kills, rng)
        return written(writer, Path(folder), kills, rng)


WRITERS = ("fine-tuning", *NAMES, "set-up")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25, help="of each of the five writers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="write the table to this file, too")
    asked = parser.parse_args()
    outcomes = []
    for writer in WRITERS:
        outcomes.append(run(writer, asked.kills, asked.seed))
        print(outcomes[-1], flush=True)
    total = sum(outcome.kills for outcome in outcomes)
    lines = [f"Seed {asked.seed}, {datetime.date.today()}: {total} kills.", ""]
    lines += ["| writer | kills | partial files | orphans |", "|---|---|---|---|"]
    lines += [f"| {w} | {kills} | {len(p)} | {len(o)} |" for w, kills, p, o in outcomes]
    print("\n".join(lines))
    if asked.table:
        asked.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any(outcome.partial or outcome.orphans for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
