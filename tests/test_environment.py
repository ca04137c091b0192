"""pyproject.toml, constraints.txt and environment.yml name the same dependencies and versions."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

ROOT = Path(__file__).resolve().parents[1]
PINS = runpy.run_path(str(ROOT / ".ci" / "pins.py"))
CONDA_NAMES = PINS["CONDA"]
PYTHON_311 = {**default_environment(), "python_version": "3.11", "python_full_version": "3.11.9"}


def direct_dependencies(pyproject: str) -> dict[str, Requirement]:
    """Return what pyproject.toml asks for by canonical name, with all extras."""
    project = tomllib.loads(pyproject)["project"]
    lines = list(project["dependencies"])
    for more in project["optional-dependencies"].values():
        lines += more
    requirements = map(Requirement, lines)
    found = {canonicalize_name(requirement.name): requirement for requirement in requirements}
    found.pop(project["name"])
    if "distributed" in found["dask"].extras:
        found["distributed"] = Requirement(f"distributed{found['dask'].specifier}")
    return found


def pinned_versions(constraints: str) -> dict[str, str]:
    """Return the version in each line of constraints.txt that applies to Python 3.11."""
    pins = {}
    for line in constraints.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), (
                f"not an exact pin: {line}"
            )
            if requirement.marker is None or requirement.marker.evaluate(PYTHON_311):
                pins[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix(
                    "=="
                )
    return pins


def conda_versions(environment: str) -> dict[str, str]:
    """Return the versions in environment.yml, pip section included, by name on PyPI."""
    content: dict[str, Any] = yaml.safe_load(environment)
    found = {}
    for entry in content["dependencies"]:
        if isinstance(entry, dict):
            for line in entry["pip"]:
                if not line.startswith("-e"):
                    requirement = Requirement(line)
                    found[canonicalize_name(requirement.name)] = str(
                        requirement.specifier
                    ).removeprefix("==")
        else:
            name, _, version = entry.partition("=")
            found[canonicalize_name(CONDA_NAMES.get(name, name))] = version
    return found


def differences(pyproject: str, constraints: str, environment: str) -> list[str]:
    """Return what the three files disagree on, a sentence per disagreement."""
    direct = direct_dependencies(pyproject)
    pins = pinned_versions(constraints)
    conda = conda_versions(environment)
    conda.pop("python", None)
    conda.pop("pip", None)
    found = [
        f"{name} is in environment.yml but not in pyproject.toml"
        for name in conda.keys() - direct.keys()
    ]
    for name, requirement in direct.items():
        if name not in conda:
            found.append(f"{name} is in pyproject.toml but not in environment.yml")
        elif conda[name] != pins.get(name):
            found.append(
                f"{name} is {conda[name]} in environment.yml, {pins.get(name, 'absent')} in constraints.txt"
            )
        if name not in pins:
            found.append(f"{name} is in pyproject.toml but not in constraints.txt")
        elif not requirement.specifier.contains(pins[name]):
            found.append(
                f"{name} {pins[name]} of constraints.txt is not {requirement.specifier} of pyproject.toml"
            )
    return sorted(found)


@pytest.fixture
def files() -> dict[str, str]:
    names = {
        "pyproject": "pyproject.toml",
        "constraints": "constraints.txt",
        "environment": "environment.yml",
    }
    return {key: (ROOT / name).read_text(encoding="utf-8") for key, name in names.items()}


def test_files_agree(files: dict[str, str]) -> None:
    assert differences(**files) == []


def test_make_installs_no_extra_that_nothing_imports() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installed = re.findall(r"EXTRAS := (.*)", makefile) + re.findall(r'-e "\.\[(.*)\]"', makefile)
    assert installed == ["zoo,train", "test,sweep", "test,sweep", "$(EXTRAS)"]
    assert PINS["EXTRAS"] == {"test", "sweep"}


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        (
            "environment",
            r"  - plotly=.*\n",
            "",
            "plotly is in pyproject.toml but not in environment.yml",
        ),
        (
            "environment",
            r"- timm=.*",
            "- timm=1.0",
            r"timm is 1\.0 in environment\.yml, [\d.]+ in constraints.txt",
        ),
        (
            "environment",
            r"  - pip\n",
            "  - pip\n  - rich=14.0\n",
            "rich is in environment.yml but not in pyproject",
        ),
        ("environment", r"decord==[\d.]+", "decord==0.5", r"decord is 0\.5 in environment\.yml"),
        ("environment", r"pytorch=.*", "pytorch=1", "torch is 1 in environment"),
        (
            "constraints",
            r"\ntorch==.*",
            "",
            "torch is in pyproject.toml but not in constraints.txt",
        ),
        ("constraints", r"\ntqdm==.*", "\ntqdm==1.0", r"tqdm 1\.0 of constraints\.txt is not >="),
        (
            "pyproject",
            r'    "safetensors.*\n',
            "",
            "safetensors is in environment.yml but not in pyproject",
        ),
    ],
)
def test_disagreement_is_found(
    files: dict[str, str], file: str, old: str, new: str, complaint: str
) -> None:
    files[file], count = re.subn(old, new, files[file], count=1)
    assert count == 1, "the file no longer holds what this test changes"
    assert any(re.match(complaint, line) for line in differences(**files)), differences(**files)


def test_environment_installs_the_package_editable_on_a_supported_python(
    files: dict[str, str],
) -> None:
    content = yaml.safe_load(files["environment"])
    project = tomllib.loads(files["pyproject"])["project"]
    (pip_section,) = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
    assert pip_section[-1] == "-e ."
    assert content["name"] == "saliency-workbench"
    assert content["channels"][0] == "conda-forge"
    python = conda_versions(files["environment"])["python"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python)


def test_pip_section_keeps_the_platform_markers(files: dict[str, str]) -> None:
    """On a platform without a wheel of decord, pip must not look for one."""
    content = yaml.safe_load(files["environment"])
    (pip_section,) = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
    direct = direct_dependencies(files["pyproject"])
    for line in pip_section[:-1]:
        requirement = Requirement(line)
        assert str(requirement.marker) == str(direct[canonicalize_name(requirement.name)].marker)
