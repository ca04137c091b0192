"""Write constraints.txt and the versions in environment.yml; `make pins` calls this.

The pins are the installed versions of everything that the package needs with the extras test and
sweep, directly or not. A release without a build for an older Python gets a marker, so that on that
Python the ranges of pyproject.toml decide.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "saliency-workbench"
EXTRAS = {"test", "sweep"}
OLDEST = "3.10.0"
CONDA = {
    "dask-core": "dask",
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "playwright-python": "playwright",
}

HEADER = """\
# The exact versions that `make` installs: everything the workbench needs with the extras test and
# sweep, directly or not, on Linux, macOS and Windows. A constraint installs nothing by itself, so
# lines for other platforms do no harm. If a release has no build for an older Python, a marker
# leaves the choice to pyproject.toml. `make pins` writes this file, after upgrading .venv to the
# newest releases: run the tests then, and commit it together with environment.yml.
"""


def needed(name: str, extras: set[str], seen: dict[str, set[str]]) -> None:
    """Add a distribution and all that it needs in this environment to `seen`."""
    key = canonicalize_name(name)
    if key in seen and extras <= seen[key]:
        return
    seen[key] = seen.get(key, set()) | extras
    for text in metadata.distribution(name).requires or []:
        requirement = Requirement(text)
        environments = [{**default_environment(), "extra": extra} for extra in extras | {""}]
        if requirement.marker is None or any(
            requirement.marker.evaluate(environment) for environment in environments
        ):
            needed(requirement.name, set(requirement.extras), seen)


def marker(requires_python: str | None) -> str:
    """Return the marker of a release that does not run on the oldest Python supported, or ""."""
    specifiers = SpecifierSet(requires_python or "")
    if specifiers.contains(OLDEST):
        return ""
    ordered = sorted(
        specifiers, key=lambda specifier: (specifier.operator != ">=", specifier.version)
    )
    parts = []
    for specifier in ordered:
        variable = "python_full_version" if specifier.version.count(".") > 1 else "python_version"
        parts.append(f'{variable} {specifier.operator} "{specifier.version}"')
    return "; " + " and ".join(parts)


def main() -> None:
    """Write both files."""
    seen: dict[str, set[str]] = {}
    needed(PACKAGE, EXTRAS, seen)
    seen.pop(PACKAGE)
    found = {name: metadata.distribution(name) for name in sorted(seen)}
    lines = [
        f"{name}=={dist.version}{marker(dist.metadata['Requires-Python'])}"
        for name, dist in found.items()
    ]
    # A CPU build calls itself 2.14.1+cpu; the pin is the release, whichever build.
    lines = [re.sub(r"\+[\w.]+", "", line) for line in lines]
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")

    def repin(match: re.Match[str]) -> str:
        name = canonicalize_name(CONDA.get(match["name"], match["name"]))
        return match[0] if name == "python" else match["start"] + found[name].version.split("+")[0]

    path = ROOT / "environment.yml"
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^(?P<start> +- (?P<name>[\w.-]+)==?)[^\s;]+", repin, text)
    path.write_text(text, encoding="utf-8")
    print(f"constraints.txt: {len(lines)} pins; environment.yml: versions brought in line")


if __name__ == "__main__":
    main()
