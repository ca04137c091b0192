"""The house rules that no linter knows: who imports whom, what stays lazy, what git holds."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workbench"

# Lower may not import higher; same rank may not import each other. `models` is its __init__ and its zoo.
RANKS = {
    "clips": 0,
    "tubes": 0,
    "datasets.csv_files": 0.1,  # the parts of datasets, under it
    "datasets.table": 0.1,
    "datasets.places": 0.1,
    "datasets.epic_files": 0.2,
    "datasets.frames": 0.2,
    "datasets.object_boxes": 0.2,
    "datasets.epic": 0.3,
    "datasets.ucf": 0.3,
    "datasets": 1,
    "metrics": 1,
    "models.formats": 1,
    "models.outputs": 1,
    "models.bninception": 0.1,  # the parts of models.tsn, under it
    "models.checkpoints": 0.1,
    "models.libraries": 0.2,
    "models.mfnet": 1,
    "models.tsn": 1,
    "overlays": 1,
    "videos": -1,  # the files under clips
    "solids": 0,
    "scenes": 1,
    "checks": 4,
    "evaluation": 4,
    "study": 5,
    "charts": 5,
    "volumes": 1,
    "models": 2,
    "samples": 2,
    "sample_files": 3,
    "sanity": 3.5,  # under evaluation, which takes random weights from it
    "layouts": 0,
    "watching": 2.4,
    "targets": 2.5,
    "explanations": 3,
    "training": 3,
    "tuning": 3,
    "panels": 4,
    "figures": 4,
    "store": 4,
    "explorer": 5,
    "sweep": 5,
    "browser": 6,
}
EXEMPT = {"__init__", "__main__"}  # the flat API and the command line stand above all

# A library that is slow to load, or hard to replace, is met in one place.
CONFINED = {
    "accelerate": {"tuning.runs"},
    "anywidget": {"panels"},
    "av": {"videos", "overlays"},
    "dask": {"sweep"},
    "decord": {"videos"},
    "distributed": {"sweep"},
    "ipywidgets": {"browser", "explorer", "panels"},
    "plotly": {"volumes", "panels"},
    "timm": {"models.libraries"},
    "torchvision": {"models.libraries"},
    "zarr": {"store"},
}

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


class Import(NamedTuple):
    """One imported dotted name, its line, and the innermost function around it or None."""

    name: str
    line: int
    scope: ast.AST | None


def sources() -> dict[str, Path]:
    """Dotted name below workbench, e.g. models.mfnet, to file; a package goes by its own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


def imports(text: str, module: str, is_package: bool) -> list[Import]:
    """All imports in a source text, relative ones made absolute; those in functions and by importlib too."""
    found: list[Import] = []

    def visit(node: ast.AST, scope: ast.AST | None) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, scope) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["workbench", *module.split(".")] if module != "__init__" else ["workbench"]
                here = here[: len(here) - node.level + (is_package or module == "__init__")]
                base = ".".join([*here, base]).rstrip(".")
            found.extend(Import(f"{base}.{alias.name}", node.lineno, scope) for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            found.append(Import(str(node.args[0].value), node.lineno, scope))
        inner = node if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) else scope
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(text), None)
    return found


def unit(module: str) -> str:
    """What carries the rank: models.zoo counts as models."""
    return module if module in RANKS else module.split(".")[0]


def broken_ranks(module: str, text: str, modules: set[str], is_package: bool = False) -> list[str]:
    """The imports in `text` that go up, sideways, or through the flat API."""
    mine = unit(module)
    found = []
    for each in imports(text, module, is_package):
        if each.name.split(".")[0] != "workbench":
            continue
        target = each.name.removeprefix("workbench").lstrip(".")
        while target and target not in modules:
            target = target.rpartition(".")[0]
        if not target:
            if each.name != "workbench.__version__":
                found.append(f"{module}:{each.line} imports {each.name}: name the module, not the flat API")
        elif unit(target) != mine and RANKS[unit(target)] >= RANKS[mine]:
            found.append(
                f"{module}:{each.line} (rank {RANKS[mine]}) imports {target} (rank {RANKS[unit(target)]}): "
                "only lower ranks may be imported"
            )
    return found


MODULES = sources()
RANKED = [name for name in MODULES if name not in EXEMPT]


def test_every_module_has_a_rank() -> None:
    unknown = [name for name in RANKED if unit(name) not in RANKS]
    assert not unknown, f"give it a rank in {Path(__file__).name} and in CONTRIBUTING.md: {', '.join(unknown)}"


@pytest.mark.parametrize("module", RANKED)
def test_imports_go_down(module: str) -> None:
    if unit(module) not in RANKS:
        pytest.fail(f"{module}: give it a rank")
    path = MODULES[module]
    text = path.read_text(encoding="utf-8")
    assert broken_ranks(module, text, set(MODULES), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("clips", "from .tubes import Tube", "clips:1 (rank 0) imports tubes (rank 0)"),
        ("overlays", "def f():\n    from workbench.volumes import x", "overlays:2 (rank 1) imports volumes"),
        ("tubes", "import workbench.explanations", "tubes:1 (rank 0) imports explanations (rank 3)"),
        ("models.mfnet", "from . import InputSpec", "models.mfnet:1 (rank 1) imports models (rank 2)"),
        (
            "models.mfnet",
            "from ..explanations import explain",
            "models.mfnet:1 (rank 1) imports explanations",
        ),
        ("metrics", "from workbench import Clip", "metrics:1 imports workbench.Clip: name the module"),
        (
            "tubes",
            "import importlib\nimportlib.import_module('workbench.clips')",
            "tubes:2 (rank 0) imports clips",
        ),
        ("metrics", "import workbench as wb", "metrics:1 imports workbench: name the module"),
    ],
)
def test_wrong_imports_are_found(module: str, text: str, complaint: str) -> None:
    (found,) = broken_ranks(module, text, set(RANKS))
    assert found.startswith(complaint)


@pytest.mark.parametrize(
    ("module", "text", "is_package"),
    [
        ("models", "from .mfnet import MFNet3d\nfrom ..clips import Clip", True),
        ("models.zoo", "from . import VideoModel\nfrom workbench.models import mfnet", False),
        ("explanations", "from workbench.models import VideoModel\nfrom . import tubes, clips", False),
        ("store", "from workbench import __version__, explanations", False),
    ],
)
def test_right_imports_pass(module: str, text: str, is_package: bool) -> None:
    assert broken_ranks(module, text, {*RANKS, "models.zoo"}, is_package) == []


@pytest.mark.parametrize("module", RANKED)
def test_libraries_stay_where_they_belong(module: str) -> None:
    path = MODULES[module]
    for each in imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
        allowed = CONFINED.get(each.name.split(".")[0])
        assert allowed is None or module in allowed, (
            f"{module}:{each.line} imports {each.name}, which only {', '.join(sorted(allowed))} may"
        )


def test_torch_is_imported_before_decord() -> None:
    """The other order hangs or crashes with CUDA (decord #251, #263, #293)."""
    found = imports(MODULES["videos"].read_text(encoding="utf-8"), "videos", False)
    torch_lines = [(each.line, each.scope) for each in found if each.name.split(".")[0] == "torch"]
    decord = [each for each in found if each.name.split(".")[0] == "decord"]
    assert decord, "videos no longer imports decord: this test is out of date"
    for each in decord:
        assert any(scope in (None, each.scope) and line < each.line for line, scope in torch_lines), (
            f"videos:{each.line}: import torch above decord"
        )


def fresh(code: str) -> str:
    """What `code` prints in a Python process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_workbench_loads_nothing_heavy() -> None:
    loaded = fresh(f"import sys, workbench; dir(workbench); print(*sorted({set(HEAVY)} & set(sys.modules)))")
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
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.name[0] != "_":
                    yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented_and_typed(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{module} has no docstring"
    lacking = []
    for name, node in public_definitions(tree):
        decorators = {ast.unparse(each) for each in node.decorator_list}
        if decorators & {"overload", "typing.overload"} or any(each.endswith(".setter") for each in decorators):
            continue
        if not ast.get_docstring(node):
            lacking.append(f"{name}: docstring")
        if isinstance(node, ast.ClassDef):
            continue
        method = "." in name and "staticmethod" not in decorators
        positional = (node.args.posonlyargs + node.args.args)[method:]
        every = [*positional, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        lacking += [f"{name}: type of {arg.arg}" for arg in every if arg is not None and arg.annotation is None]
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
                    assert state not in output.get("data", {}), f"{path.name}: saved with widget state"


def test_no_file_names_a_path_of_somebodys_machine(held: list[Path]) -> None:
    pattern = re.compile(r"(?<![\w.:/~}])/(?:root|work|home|Users)/[\w.]")
    found = []
    for path in held:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = enumerate(text.splitlines(), start=1)
        found += [f"{path.relative_to(ROOT)}:{number}" for number, line in lines if pattern.search(line)]
    assert found == []
