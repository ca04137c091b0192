"""House rules that no linter knows: what stays lazy, what is documented, what git holds.

Who may import whom is in pyproject.toml and checked by `make lint`.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workbench"

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
    """Dotted name below workbench, e.g. models.zoo, to file; a package goes by its own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = sources()


def test_torch_is_imported_before_decord() -> None:
    """The other order hangs or crashes with CUDA (decord #251, #263, #293)."""
    code = """
import sys
import workbench.clips.reading
assert "decord" not in sys.modules
print("torch" in sys.modules)
"""
    assert fresh(code) == "True"


def fresh(code: str) -> str:
    """What `code` prints in a Python process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_workbench_loads_nothing_heavy() -> None:
    loaded = fresh(
        f"import sys, workbench; dir(workbench); print(*sorted({set(HEAVY)} & set(sys.modules)))"
    )
    assert loaded == ""


def test_every_public_name_resolves() -> None:
    code = """
import workbench
assert len(set(workbench.__all__)) == len(workbench.__all__), "a name stands twice in __all__"
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
    """Public functions and classes of a module, and the public methods of public classes."""
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
        decorators = {ast.unparse(each) for each in node.decorator_list}
        if decorators & {"overload", "typing.overload"} or any(
            each.endswith(".setter") for each in decorators
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
def held() -> list[Path]:
    """Files that git holds or would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_git_holds_nothing_large(held: list[Path]) -> None:
    large = [f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB" for path in held]
    large = [line for line, path in zip(large, held) if path.stat().st_size > 5e6]
    assert large == []


def test_notebooks_hold_no_widget_state(held: list[Path]) -> None:
    state = "application/vnd.jupyter.widget-state+json"
    for path in held:
        if path.suffix == ".ipynb":
            content = json.loads(path.read_text(encoding="utf-8"))
            assert "widgets" not in content["metadata"], f"{path.name}: saved with widget state"
            for cell in content["cells"]:
                for output in cell.get("outputs", []):
                    assert state not in output.get("data", {}), (
                        f"{path.name}: saved with widget state"
                    )


def test_no_file_names_a_path_of_somebodys_machine(held: list[Path]) -> None:
    pattern = re.compile(r"(?<![\w.:/~}])/(?:root|work|home|Users)/[\w.]")
    found = []
    for path in held:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = enumerate(text.splitlines(), start=1)
        found += [
            f"{path.relative_to(ROOT)}:{number}" for number, line in lines if pattern.search(line)
        ]
    assert found == []
