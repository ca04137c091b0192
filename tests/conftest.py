"""Fixtures for all tests.

A test that needs something from outside the repository is skipped if that is missing, and says what to do.
In continuous integration (CI=true) a missing browser is a failure.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

# A shell starts background jobs with Ctrl-C ignored, and processes that tests interrupt inherit it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same random state, whichever tests run before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that still draw from the global state
    torch.manual_seed(0)


def _folder(variable: str, holds: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"needs {holds}: set {variable} to their folder")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable} is {value}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def clips_folder() -> Path:
    """Real videos: apply_eye_makeup.avi, arm_wrestling.mp4, corrupted.mp4."""
    return _folder("WORKBENCH_CLIPS", "real videos")


@pytest.fixture(scope="session")
def annotations_folder() -> Path:
    """The data sets' own annotation files: ucf101, epic-kitchens-55, epic-kitchens-100."""
    return _folder("WORKBENCH_ANNOTATIONS", "the data sets' annotation files")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the browser that the tests drive, for playwright's `executable_path`."""
    wanted = os.environ.get("WORKBENCH_CHROMIUM")
    candidates = (wanted,) if wanted else BROWSERS
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found:
        return found
    missing = (
        f"no browser: none of {', '.join(candidates)} can be run. Install one (Debian, Ubuntu: "
        "apt-get install chromium) or set WORKBENCH_CHROMIUM to the program of one"
    )
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(missing)
    pytest.skip(missing)
