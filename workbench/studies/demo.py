"""The command `python -m workbench demo`: the quickstart on a video, headless."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from ..clips import files

__all__ = ["add_demo_command"]


def add_demo_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `demo` to those of `python -m workbench`."""
    parser = commands.add_parser("demo", help="explain a video headless, into results/quickstart")
    parser.add_argument("video", nargs="?", help="your own video (default: a shipped sample)")
    parser.set_defaults(run=_run_demo)


def _run_demo(options: argparse.Namespace) -> int:
    """Execute the quickstart on a video, and print what it found and where the files are."""
    from .notebooks import NotebookError, run_notebook, save_notebook

    results = files.ROOT / "results" / "quickstart"
    try:
        source = _quickstart()
        _check_writable(results)
        video = _readable_video(options.video)
    except (OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1

    def report(number: int, total: int, title: str) -> None:
        print(f"[{number}/{total}] {title}", flush=True)

    try:
        notebook = run_notebook(source, {"video": video}, report=report)
    except NotebookError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    try:
        executed = save_notebook(notebook, results / "quickstart.ipynb")
    except OSError as error:
        print(f"demo: cannot write the executed notebook: {error}", file=sys.stderr)
        return 1
    printed = [
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") == "stdout"
    ]
    print(f"\n{printed[-1]}  executed notebook     {executed}")
    return 0


def _quickstart() -> Path:
    source = files.ROOT / "notebooks" / "00_quickstart.ipynb"
    if not source.is_file():
        raise FileNotFoundError(f"no notebook at {source}; the demo runs in a checkout")
    return source


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror}): free it, or use a copy of the "
            "checkout in a folder of your own"
        ) from error


def _readable_video(name: str | None) -> str | None:
    from ..clips.reading import read_clip

    if name is None:
        return None
    path = Path(name).expanduser().resolve()
    read_clip(path, frames=16)
    return str(path)
