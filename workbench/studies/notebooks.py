"""Notebooks executed without a browser: for the demo, `make figures` and `make notebooks`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from ..clips.files import whole_file

__all__ = ["NotebookError", "run_notebook", "save_notebook"]

UNLISTED = {"check", "injected-parameters"}  # tags of cells that are not a step to the reader
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
ARROW = re.compile(
    r"^-+> ?\d+ (.*)$", re.MULTILINE
)  # marks the failing line in IPython's traceback


class NotebookError(RuntimeError):
    """A notebook stopped before its end; the message names the cell, its line and the error."""


def run_notebook(
    source: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    report: Callable[[int, int, str], None] | None = None,
    timeout: int = 1200,
) -> nbformat.NotebookNode:
    """Execute a notebook in its own folder and return the executed copy; no file is written.

    Args:
        source: the notebook. The comment in the first line of a cell is its title.
        parameters: values for the names in its cell tagged `parameters`.
        report: called before each cell with its number, the number of cells, and its title.
        timeout: seconds that one cell may take.

    Raises:
        NotebookError: a cell failed or took too long, or the kernel died.
    """
    import papermill  # type: ignore[import-untyped]
    from papermill.exceptions import PapermillExecutionError  # type: ignore[import-untyped]

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it repeats what it raises
    notebook = nbformat.read(source, as_version=4)
    titles = [_title(cell) for cell in notebook.cells if _is_step(cell)]
    started = 0

    def on_cell_start(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal started
        if _is_step(cell):
            started += 1
            if report is not None:
                report(started, len(titles), titles[started - 1])

    def failure(title: str, *lines: str) -> NotebookError:
        place = f"{source.name} stopped in code cell {started} of {len(titles)}, {title!r}:"
        return NotebookError("\n    ".join([place, *lines]))

    try:
        return papermill.execute_notebook(
            notebook,
            None,
            dict(parameters or {}),
            kernel_name="python3",
            language="python",
            cwd=source.parent,
            progress_bar=False,
            execution_timeout=timeout,
            on_cell_start=on_cell_start,
            store_widget_state=False,  # megabytes for each explorer
            extra_arguments=["--Application.log_level=50"],  # errors come as output
        )
    except PapermillExecutionError as error:
        line = ARROW.search(COLOURS.sub("", "\n".join(error.traceback)))
        lines = [line[1].strip()] if line else []
        title = _title(nbformat.v4.new_code_cell(error.source))
        raise failure(title, *lines, f"{error.ename}: {error.evalue[:400]}") from None
    except CellTimeoutError:
        raise failure(titles[started - 1], f"it took longer than {timeout} s") from None
    except KeyboardInterrupt:
        # The abandoned task of nbclient would print a traceback when Python ends.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except DeadKernelError:
        reason = "its Python process died, most often for lack of memory"
        raise failure(titles[started - 1], reason) from None


def save_notebook(notebook: nbformat.NotebookNode, path: Path) -> Path:
    """Write an executed notebook as a whole, without papermill's notes on this machine."""
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
    with whole_file(path) as temporary:
        nbformat.write(notebook, temporary)
    return path


def _is_step(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and not UNLISTED & set(cell.metadata.get("tags", []))


def _title(cell: nbformat.NotebookNode) -> str:
    return cell.source.partition("\n")[0].lstrip("# ")
