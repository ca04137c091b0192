"""What a user could call before the package was rebuilt can still be called, in the same way.

`reference/public_api.json` was recorded on 2026-11-24, before the move into rooms. New names and
new keyword arguments are welcome. A name, an argument or a default that was removed is listed here
with the reason.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import workbench as wb

RECORDED = json.loads((Path(__file__).parent / "reference" / "public_api.json").read_text())

# Options that only tests used, and state that one room filled and another read.
GONE = {
    "VideoModel.call",
    "VideoModel.evaluating",
    "VideoModel.running",
    "VideoModel: compile",
    "VideoModel: named is no longer argument 9",
    "volume_figure: style",
    "wrap_model: compile",
    # An explanation is made by `explain`. It holds one kind of weights instead of four fields.
    "Explanation: _graph",
    "Explanation: _others",
    "Explanation: _rows",
    "Explanation: _stacked",
    "Explanation: _weights",
    "Explanation: bias",
    "Explanation: classes is no longer argument 7",
    "Explanation: clip is no longer argument 6",
    "Explanation: exact",
    "Explanation: layer is no longer argument 5",
    "Explanation: model is no longer argument 8",
    "Explanation: output is no longer argument 9",
    "Explanation: residual",
}


def arguments(recorded: str) -> list[tuple[str, str | None, bool]]:
    """Name, default as text, and whether it is keyword-only, of each argument of a recorded signature."""
    found, keyword_only = [], False
    for part in recorded.split(", ") if recorded else []:
        if part == "*":
            keyword_only = True
        else:
            name, _, default = part.partition("=")
            found.append((name, default or None, keyword_only))
    return found


def told(default: Any) -> str:
    plain = (int, float, str, bool, type(None))
    return repr(default) if isinstance(default, plain) else f"<{type(default).__name__}>"


def broken_calls(where: str, recorded: str | None, function: Any) -> Iterator[str]:
    """What no longer works of a recorded signature."""
    if recorded is None:
        return
    now = inspect.signature(function).parameters
    places = [name for name, each in now.items() if each.kind is not each.KEYWORD_ONLY]
    for number, (name, default, keyword_only) in enumerate(arguments(recorded)):
        if name.startswith("*"):
            continue
        if name not in now:
            yield f"{where}: {name}"
        elif not keyword_only and (number >= len(places) or places[number] != name):
            yield f"{where}: {name} is no longer argument {number}"
        elif default is not None and told(now[name].default) != default:
            yield f"{where}: the default of {name} was {default}"


def broken(where: str, recorded: Any, value: Any) -> Iterator[str]:
    """What no longer works of a recorded name."""
    if isinstance(recorded, str):
        yield from broken_calls(where, recorded, value)
    elif recorded is None or "value" in recorded:
        return
    elif "module" in recorded:
        assert isinstance(value, types.ModuleType)
        for name, inner in recorded["module"].items():
            if not hasattr(value, name):
                yield f"{where}.{name}"
            else:
                yield from broken(f"{where}.{name}", inner, getattr(value, name))
    elif "class" in recorded:
        yield from broken_calls(where, recorded["class"]["call"], value)
        for name, inner in recorded["class"]["members"].items():
            if not hasattr(value, name):
                yield f"{where}.{name}"
            elif inner not in ("property", None):
                yield from broken_calls(
                    f"{where}.{name}", inner, inspect.getattr_static(value, name)
                )


def test_no_public_name_is_gone() -> None:
    assert set(RECORDED) - set(wb.__all__) == set()


def test_every_recorded_call_still_works() -> None:
    found = [
        line for name, was in RECORDED.items() for line in broken(name, was, getattr(wb, name))
    ]
    assert sorted({line.removeprefix("models.") for line in found} - GONE) == []
