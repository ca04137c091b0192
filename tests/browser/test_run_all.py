"""The quickstart as a newcomer meets it: "Run All" in a small JupyterLab window with the file browser open."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import View, drawn, open_page, run_cell

pytestmark = pytest.mark.browser

QUICKSTART = Path(__file__).resolve().parents[2] / "notebooks" / "00_quickstart.ipynb"


def test_after_run_all_the_explorer_is_alive_and_fits_its_cell(
    browser: Browser, lab: tuple[str, Path], tmp_path: Path
) -> None:
    address, root = lab
    (root / "notebooks").mkdir()
    shutil.copy(QUICKSTART, root / "notebooks")
    complaints: list[str] = []
    page = open_page(browser, f"{address}/lab/tree/notebooks/{QUICKSTART.name}", complaints)
    page.set_viewport_size({"width": 1000, "height": 900})
    run_cell(page, 0)  # JupyterLab drops what is run before it has its kernel
    page.evaluate("() => window.jupyterapp.commands.execute('filebrowser:activate')")
    page.locator(".jp-FileBrowser").wait_for()
    page.evaluate("() => void window.jupyterapp.commands.execute('runmenu:run-all')")
    explorer = page.locator(".wb")
    drawn(explorer)
    page.get_by_text("results/quickstart/volume.html").last.wait_for()  # the last cell's
    explorer.evaluate("root => root.scrollIntoView()")
    view = View(page, explorer, True, complaints)
    state = view.state()
    assert state["note"] == ""
    assert state["clock"].startswith("frame 6 ")  # the strongest
    assert "keeps 43 of 128" in state["kept"]  # what the next cell has set
    assert view.volume_fits()
    cell = page.locator(".jp-OutputArea:has(.wb)").last.bounding_box()
    box = explorer.bounding_box()
    assert cell is not None
    assert box is not None
    assert box["x"] + box["width"] <= cell["x"] + cell["width"]
    assert explorer.evaluate("root => root.scrollWidth <= root.clientWidth")
    view.screenshot("run_all", tmp_path)
    view.change(view.key("+", "+"), "overlay", "surfaces", "kept")
    assert complaints == []
    page.close()
