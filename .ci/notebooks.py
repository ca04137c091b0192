"""Execute notebooks: in place (`make notebooks`), or into results/figures (`make figures`)."""

from __future__ import annotations

import base64
import io
import os
import sys
import time
from pathlib import Path

import nbformat
from PIL import Image

from workbench.studies.notebooks import NotebookError, run_notebook, save_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
FIGURES = ROOT / "results" / "figures"
WRITTEN = {".png", ".pdf", ".mp4", ".ipynb", ".csv"}  # what the figures' notebooks write
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Threads of torch that wait actively slow each other down on cores that other programs use too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def refresh(paths: list[Path]) -> None:
    """Execute notebooks in place and keep only those outputs that belong in git."""
    for path in paths or sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = run_notebook(path, report=lambda *step: print("[{}/{}] {}".format(*step)))
        notebook.metadata = {"kernelspec": KERNEL}
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number:02d}"
            tags = cell.metadata.get("tags")
            hidden = cell.metadata.get("jupyter")
            cell.metadata = {"tags": tags} if tags else {}
            if hidden:
                cell.metadata["jupyter"] = hidden
            if cell.cell_type == "code":
                cell.outputs = kept(cell)
        save_notebook(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def kept(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the outputs of a cell that are the same on every machine, pictures once."""
    if "nbval-ignore-output" in cell.metadata.get("tags", []):
        return [output for output in map(still, cell.outputs) if output]
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for output in outputs:
        data = output.get("data", {})
        if "image/jpeg" in data:
            data.pop("image/png", None)
    return outputs


def still(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """Return the picture that stands for a widget without a kernel, as on GitHub: a JPEG."""
    data = output.get("data", {})
    if WIDGET not in data or "image/png" not in data:
        return None
    jpeg = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as picture:
        picture.convert("RGB").save(jpeg, "JPEG", quality=88)
    encoded = base64.b64encode(jpeg.getvalue()).decode()
    return nbformat.v4.new_output("display_data", {"image/jpeg": encoded})


def figures(paths: list[Path]) -> int:
    """Execute the figures' notebooks and keep the copies; a failure does not stop the rest."""
    if not paths:
        paths = [*sorted(NOTEBOOKS.glob("figure*.ipynb")), NOTEBOOKS / "faithfulness.ipynb"]
        for old in FIGURES.glob("*"):
            if old.suffix in WRITTEN:
                old.unlink()
    begin = time.time()
    failed = 0
    for number, path in enumerate(paths, start=1):
        start = time.monotonic()
        print(f"[{number}/{len(paths)}] {path.name} …", end=" ", flush=True)
        try:
            save_notebook(run_notebook(path), FIGURES / path.name)
            print(f"{time.monotonic() - start:.0f} s", flush=True)
        except NotebookError as error:
            failed += 1
            print("failed", flush=True)
            print(error, file=sys.stderr, flush=True)
    print(f"\nwritten in {time.time() - begin:.0f} s:")
    for path in sorted(FIGURES.glob("*")):
        if path.suffix in WRITTEN and path.stat().st_mtime >= begin - 1:
            print(f"  {path.stat().st_size / 1000:6.0f} kB  {path.relative_to(ROOT)}")
    return 1 if failed else 0


def main(command: str, *names: str) -> int:
    """Run `refresh` or `figures` on the notebooks named, or on all of them."""
    paths = [Path(name).resolve() for name in names]
    try:
        return figures(paths) if command == "figures" else refresh(paths) or 0
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. No notebook is left half-written.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
