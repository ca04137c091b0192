"""Fail if two modules define the same public name, or a module has the name of a public function.

`import workbench.explain` would put the module where `wb.explain` is, and a search for one of two
classes called `Panel` finds the other. `make lint` calls this.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

PACKAGE = Path("workbench")


def definitions(path: Path) -> list[str]:
    """Return the public functions and classes that a module defines at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and node.name[0] != "_"]


def complaints(package: Path) -> list[str]:
    """Return a line for every public name that stands for two things."""
    homes: dict[str, list[str]] = defaultdict(list)
    modules: dict[str, list[str]] = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        name = path.parent.name if path.name == "__init__.py" else path.stem
        if path.name != "__main__.py":
            modules[name].append(str(path))
            for defined in dict.fromkeys(definitions(path)):
                homes[defined].append(str(path))
    twice = [
        f"{name} is defined in {' and in '.join(where)}"
        for name, where in homes.items()
        if len(where) > 1
    ]
    shared = [
        f"{modules[name][0]} has the name of {name}, defined in {homes[name][0]}"
        for name in modules.keys() & homes.keys()
    ]
    return sorted(twice + shared)


if __name__ == "__main__":
    found = complaints(PACKAGE)
    print(*found, sep="\n")
    sys.exit(1 if found else 0)
