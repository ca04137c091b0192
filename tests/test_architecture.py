"""House rules that no linter checks: what loads lazily, what is documented, what is in git.

Which room may import which is in pyproject.toml, and `make lint` checks it.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workbench"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

HEAVY = (
    "accelerate",
    "av",
    "dask",
    "decord",
    "ipywidgets",
    "matplotlib",
    "pandas",
    "plotly",
    "scipy",
    "skimage",
    "torch",
    "zarr",
)


def sources() -> dict[str, Path]:
    """Map dotted names below workbench, such as models.zoo, to files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = sources()


def fresh(code: str) -> str:
    """Return what `code` prints in a new Python process."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torch_is_imported_before_decord() -> None:
    """The other order hangs or crashes with CUDA (decord #251, #263, #293)."""
    code = """
import sys
import workbench.clips.reading
assert "decord" not in sys.modules
print("torch" in sys.modules)
"""
    assert fresh(code) == "True"


def test_import_workbench_loads_nothing_heavy() -> None:
    loaded = fresh(
        f"import sys, workbench; dir(workbench); print(*sorted({set(HEAVY)} & set(sys.modules)))"
    )
    assert loaded == ""


def test_large_tensors_take_huge_pages() -> None:
    if not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text():
        pytest.skip("this system has no huge pages")
    code = """
import resource
import torch
import workbench
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(25_000_000)  # 100 MB, 24,414 pages of 4 kB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    assert int(fresh(code)) < 8000


def test_huge_pages_that_a_user_refuses_stay_refused() -> None:
    code = """
import os
os.environ["THP_MEM_ALLOC_ENABLE"] = "0"
import workbench
print(os.environ["THP_MEM_ALLOC_ENABLE"])
"""
    assert fresh(code) == "0"


def test_every_public_name_resolves() -> None:
    code = """
import workbench
assert len(set(workbench.__all__)) == len(workbench.__all__), "a name is listed twice in __all__"
missing = [name for name in workbench.__all__ if getattr(workbench, name, None) is None]
hidden = sorted(set(workbench.__all__) - set(dir(workbench)))
print(*missing, *hidden)
"""
    assert fresh(code) == ""


def test_an_unknown_name_is_an_attribute_error() -> None:
    code = "import workbench; print(hasattr(workbench, 'no_such_name'))"
    assert fresh(code) == "False"


def public_definitions(
    tree: ast.Module,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yield public functions and classes of a module, and the public methods of its classes."""
    for node in tree.body:
        if (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and node.name[0] != "_"
        ):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if (
                    isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef))
                    and inner.name[0] != "_"
                ):
                    yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented_and_typed(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{module} has no docstring"
    lacking = []
    for name, node in public_definitions(tree):
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        if decorators & {"overload", "typing.overload"} or any(
            decorator.endswith(".setter") for decorator in decorators
        ):
            continue
        if not ast.get_docstring(node):
            lacking.append(f"{name}: docstring")
        if isinstance(node, ast.ClassDef):
            continue
        method = "." in name and "staticmethod" not in decorators
        positional = (node.args.posonlyargs + node.args.args)[method:]
        every = [*positional, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        lacking += [
            f"{name}: type of {arg.arg}"
            for arg in every
            if arg is not None and arg.annotation is None
        ]
        if node.returns is None:
            lacking.append(f"{name}: return type")
    assert lacking == [], f"{module}: {', '.join(lacking)}"


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """List the files that are in git or would be added to it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_git_holds_nothing_large(tracked: list[Path]) -> None:
    large = [f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB" for path in tracked]
    large = [line for line, path in zip(large, tracked) if path.stat().st_size > 5e6]
    assert large == []


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text(encoding="utf-8"))


def code_cells(notebook: dict[str, Any]) -> Iterator[tuple[str, set[str], dict[str, Any]]]:
    """Yield source, tags and metadata of each code cell."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            metadata = cell["metadata"]
            yield "".join(cell["source"]), set(metadata.get("tags", [])), metadata


def test_notebooks_have_short_cells(notebook: dict[str, Any]) -> None:
    sources = [source for source, _, _ in code_cells(notebook)]
    assert [source for source in sources if len(source.splitlines()) > 20] == []


def test_notebooks_keep_assertions_in_hidden_cells(notebook: dict[str, Any]) -> None:
    for source, tags, metadata in code_cells(notebook):
        hidden = metadata.get("jupyter", {}).get("source_hidden", False)
        assert hidden == ("check" in tags) == ("hide-input" in tags)
        assert hidden == bool(re.search(r"^\s*assert ", source, re.MULTILINE)), source
        assert "assert real or" not in source
        assert "assert place.real or" not in source


def test_notebooks_keep_parameters_in_one_cell(notebook: dict[str, Any]) -> None:
    """Papermill writes its own values behind the first cell that is tagged."""
    tagged = ["parameters" in tags for _, tags, _ in code_cells(notebook)]
    assert sum(tagged) == tagged[0]
    titles = [source.partition("\n")[0] for source, _, _ in code_cells(notebook)]
    assert [title == "# Parameters" for title in titles] == tagged
    assert not any(re.search(r"os\.environ", source) for source, _, _ in code_cells(notebook))


def test_notebooks_hold_clean_outputs(notebook: dict[str, Any]) -> None:
    assert len(json.dumps(notebook)) < 600_000
    assert "widgets" not in notebook["metadata"], "saved with widget state"
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr"
            assert output["output_type"] != "error"
            assert "application/vnd.jupyter.widget-state+json" not in output.get("data", {})


def test_no_file_names_a_path_of_somebodys_machine(tracked: list[Path]) -> None:
    pattern = re.compile(r"(?<![\w.:/~}])/(?:root|work|home|Users)/[\w.]")
    found = []
    for path in tracked:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = enumerate(text.splitlines(), start=1)
        found += [
            f"{path.relative_to(ROOT)}:{number}" for number, line in lines if pattern.search(line)
        ]
    assert found == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_path_in_the_pages_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:workbench|notebooks|tests|data)/[\w./-]*)`", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
