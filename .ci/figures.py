"""Rebuild the figures of the paper from nothing, into results/figures; `make figures` calls this.

The notebooks are executed as they stand in the repository, and not changed: executed copies lie beside the figures.
All of them are tried; one that fails makes the command fail, with the error of its cell.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "results" / "figures"
NAMES = ("figure*.ipynb", "faithfulness.ipynb")
MADE = (
    ".png",
    ".pdf",
    ".mp4",
    ".ipynb",
    ".csv",
)  # what the notebooks write, and nothing of anybody else's
TIMEOUT = 600  # seconds a cell
# torch's threads wait for each other by spinning, which on cores that others use too takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def execute(path: Path) -> str | None:
    """Execute a notebook and keep the executed copy; returns what went wrong, in a few lines, or None."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        store_widget_state=False,
        extra_arguments=["--Application.log_level=50"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    running = [0]
    client.on_cell_start = lambda cell, cell_index: running.__setitem__(0, cell_index)
    try:
        client.execute()
    except CellExecutionError as error:
        return f"{_where(notebook, running[0])}\n    {error.ename}: {_short(error.evalue)}"
    except CellTimeoutError:
        return f"{_where(notebook, running[0])}\n    it took longer than {TIMEOUT} s"
    nbformat.write(notebook, FOLDER / path.name)
    return None


def main(names: list[str]) -> int:
    """Execute the notebooks; returns the exit status."""
    paths = [Path(name).resolve() for name in names]
    if not paths:
        paths = [path for name in NAMES for path in sorted((ROOT / "notebooks").glob(name))]
        for old in FOLDER.glob("*"):
            if old.suffix in MADE:
                old.unlink()
    FOLDER.mkdir(parents=True, exist_ok=True)
    begin, failed = time.time(), 0
    for number, path in enumerate(paths, start=1):
        start = time.monotonic()
        print(f"[{number}/{len(paths)}] {path.name} …", end=" ", flush=True)
        try:
            wrong = execute(path)
        except (
            KeyboardInterrupt,
            AssertionError,
            DeadKernelError,
        ):  # on Ctrl-C nbclient ends the kernel under itself
            print(
                "\nInterrupted, or out of memory: the kernel is gone. No file is left half-written.",
                file=sys.stderr,
            )
            return 130
        print("failed" if wrong else f"{time.monotonic() - start:.0f} s", flush=True)
        if wrong:
            failed += 1
            print(f"{path.name} stopped in {wrong}\n", file=sys.stderr, flush=True)
    print(f"\nwritten in {time.time() - begin:.0f} s:")
    for path in sorted(FOLDER.glob("*")):
        if path.suffix in MADE and path.stat().st_mtime >= begin - 1:
            print(f"  {path.stat().st_size / 1000:6.0f} kB  {path.relative_to(ROOT)}")
    return 1 if failed else 0


def _where(notebook: nbformat.NotebookNode, number: int) -> str:
    code = [n for n, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    lines = [
        line for line in notebook.cells[number].source.splitlines() if "NBVAL" not in line
    ] or [""]
    return f"code cell {code.index(number) + 1} of {len(code)}, {lines[0].lstrip('# ')!r}:{_line(notebook, number)}"


def _line(notebook: nbformat.NotebookNode, number: int) -> str:
    """Return the line of the cell that failed, by the arrow of the traceback."""
    for output in notebook.cells[number].get("outputs", []):
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.get("traceback", [])))
        found = re.search(r"^-+> ?\d+ (.*)$", trace, re.MULTILINE)
        if found:
            return f"\n    {found[1].strip()}"
    return ""


def _short(message: str) -> str:
    return message if len(message) <= 400 else f"{message[:400]} …"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
