"""Execute notebooks in place and keep of their outputs what belongs in git; `make notebooks` calls this.

Widget state is not stored, and cells that begin with `# NBVAL_IGNORE_OUTPUT` are saved without output: what they show
is alive, or differs from run to run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

IGNORED = "# NBVAL_IGNORE_OUTPUT"

for name in sys.argv[1:] or sorted(map(str, Path("notebooks").glob("*.ipynb"))):
    path = Path(name)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    quiet = ["--Application.log_level=40"]
    client = NotebookClient(
        notebook, timeout=900, store_widget_state=False, resources=resources, extra_arguments=quiet
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
        if cell.cell_type == "code":
            cell.outputs = [] if cell.source.startswith(IGNORED) else cell.outputs
            # Progress bars and warnings are of one machine and one moment.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    nbformat.write(notebook, path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
