"""The explorer in JupyterLab in headless Chromium: what a user touches, and what must change on the screen.

Screenshots go to WORKBENCH_SCREENSHOTS where that is set.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import ConsoleMessage, Locator, Page, TimeoutError, expect, sync_playwright

pytestmark = pytest.mark.browser

CELLS = (
    'import workbench as wb\n\nmodel = wb.load_model("samples/mfnet")',
    'app = wb.explore(wb.explain(model, wb.samples.make_clip("stir", seed=3)))\napp',
)

# Chromium's own traffic off; WebGL by software.
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip

# The picture as pixels (its URL is new with every update, whether or not it looks new), the numbers that the
# volume and the timeline are drawn from, and the camera as the scene has it.
STATE = """() => {
    const image = document.querySelector('.jupyter-widgets img, img.jupyter-widgets');
    const plots = [...document.querySelectorAll('.js-plotly-plot')];
    const solid = plots.find(p => p.data.some(t => t.type === 'mesh3d'));
    const flat = plots.find(p => p !== solid);
    if (!image || !image.complete || !image.naturalWidth || !solid || !flat) return null;
    if (!solid._fullLayout.scene || !solid._fullLayout.scene._scene) return null;
    const canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext('2d').drawImage(image, 0, 0);
    const numbers = plot =>
        JSON.stringify(plot.data.map(t => ['x', 'y', 'z'].map(axis => [...(t[axis] || [])])));
    return {
        picture: canvas.toDataURL(),
        volume: numbers(solid),
        timeline: numbers(flat),
        camera: JSON.stringify(
            solid._fullLayout.scene._scene.getCamera(),
            (key, value) => typeof value === 'number' ? value.toFixed(4) : value),
    };
}"""


# What the cell raised, or null.
FAILED = """(document.querySelector('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"], \
.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"]')?.innerText ?? null)"""
PARTS = ("picture", "volume", "timeline")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a notebook in a JupyterLab of its own, with folders of its own and no internet."""
    root = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, root / "explorer.ipynb")
    folders = {
        name: str(root / f".{name}")
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    folders["JUPYTERLAB_SETTINGS_DIR"] = folders["JUPYTERLAB_WORKSPACES_DIR"] = str(root / ".lab")
    quiet = (
        root / ".lab" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    )
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={root}", "--ServerApp.port_retries=0",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly", *(["--allow-root"] if _is_root() else []),
    ]  # fmt: skip
    with (root / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=root, env={**os.environ, **folders}, stdout=log, stderr=log
        )
        try:
            _wait_for(address + "/api", server, root / "lab.log")
            yield address + "/doc/tree/explorer.ipynb"
        finally:
            server.terminate()
            server.wait(20)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        try:
            direct.open(address, timeout=5).close()
            return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    """What the browser complained of so far."""
    return []


@pytest.fixture(scope="module")
def page(
    lab: str, chromium: str, complaints: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """The notebook with its cell run and the explorer drawn."""

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(f"{message.text} ({message.location.get('url')})")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=FLAGS, ignore_default_args=["--headless"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        page.on("console", on_console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(lab)
        for number in range(len(CELLS)):
            run_cell(page, number)
        try:
            page.wait_for_function(f"({STATE})() !== null || {FAILED} !== null")
        except TimeoutError:
            screenshot(page, "explorer_not_drawn", tmp_path_factory.mktemp("screenshots"))
            pytest.fail(f"nothing drawn; the browser says {complaints}")
        failed = page.evaluate(FAILED)
        if failed:
            pytest.fail(f"the cell raised:\n{failed}")
        page.locator(".jp-OutputArea-output .widget-select").scroll_into_view_if_needed()
        yield page
        browser.close()


def state(page: Page) -> dict[str, str]:
    """What is on the screen once it has stopped changing."""
    before = None
    for _ in range(100):
        now: dict[str, str] | None = page.evaluate(STATE)
        if now is not None and now == before:
            return now
        before = now
        page.wait_for_timeout(150)
    raise AssertionError("the explorer does not come to rest")


def run_cell(page: Page, number: int) -> None:
    """Run a cell to its end; again if need be, since JupyterLab drops what is run before it has its kernel.

    One after the other: widgets that come while JupyterLab is still asking a new kernel for those it has
    are made twice, and some of them then hear of no changes.
    """
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(state="attached")
    cell = page.locator(".jp-CodeCell").nth(number)
    for _ in range(20):
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(1500)
        if cell.locator(".jp-InputPrompt").inner_text() != "[ ]:":
            break
    expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=120_000)


def change(page: Page, act: Callable[[], object], parts: Sequence[str] = PARTS) -> dict[str, str]:
    """Do something, wait until these parts of the screen have changed and rest, and return what is there."""
    before = state(page)
    act()
    now = before
    for _ in range(200):
        now = page.evaluate(STATE) or before
        if all(now[part] != before[part] for part in parts):
            return state(page)
        page.wait_for_timeout(150)
    raise AssertionError(f"unchanged: {[part for part in parts if now[part] == before[part]]}")


def slider(page: Page, name: str) -> Locator:
    return page.locator(f".widget-slider:has(.widget-label:text-is('{name}')) .noUi-handle")


def press(page: Page, name: str, *keys: str) -> Callable[[], None]:
    def act() -> None:
        handle = slider(page, name)
        for key in keys:
            handle.press(key)

    return act


def orbit(page: Page) -> None:
    """Turn the scene as a user does."""
    box = page.locator(".js-plotly-plot .gl-container").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 30, steps=6)
    page.mouse.up()


def screenshot(page: Page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("WORKBENCH_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.mouse.move(5, 5)  # no tool bar, no hover label
    page.wait_for_timeout(400)
    page.screenshot(path=folder / f"{name}.png")


def test_each_control_changes_everything(page: Page, complaints: list[str], tmp_path: Path) -> None:
    state(page)
    screenshot(page, "explorer", tmp_path)
    change(page, press(page, "frame", "ArrowLeft"))
    tau = change(page, press(page, "τ", "PageUp", "PageUp"))
    assert page.get_by_text("keeps all").count() == 0
    kept = change(page, press(page, "τ", "End"))
    assert page.get_by_text("keeps 1 of").count() == 1
    assert len({tau["volume"], kept["volume"]}) == 2
    change(page, press(page, "τ", "Home"))
    assert page.get_by_text("keeps all").count() == 1
    change(page, lambda: page.locator(".widget-select select").select_option(index=1))
    assert complaints == []


def test_the_camera_stays_where_the_user_put_it(
    page: Page, complaints: list[str], tmp_path: Path
) -> None:
    turned = change(page, lambda: orbit(page), ["camera"])
    for act in (
        press(page, "τ", "PageUp", "PageUp"),
        press(page, "frame", "ArrowRight"),
        lambda: page.locator(".widget-select select").select_option(index=0),
    ):
        assert change(page, act)["camera"] == turned["camera"]
    screenshot(page, "explorer_turned", tmp_path)
    assert complaints == []


def test_search_play_and_focus(page: Page, complaints: list[str], tmp_path: Path) -> None:
    search, options = page.locator(".widget-text input"), page.locator(".widget-select option")
    before = options.count()
    search.fill("lo")
    page.wait_for_function(f"document.querySelectorAll('.widget-select option').length < {before}")
    assert all("lo" in text or "stir" in text for text in options.all_inner_texts())
    search.fill("")
    page.wait_for_function(
        f"document.querySelectorAll('.widget-select option').length === {before}"
    )
    change(page, lambda: page.get_by_role("button", name="focus").click(), ["picture"])
    screenshot(page, "explorer_focus", tmp_path)
    play = page.locator(".jupyter-widgets-play button, .widget-play button").first
    seen = {page.evaluate(STATE)["timeline"]}
    play.click()
    for _ in range(100):
        page.wait_for_timeout(100)
        seen.add(page.evaluate(STATE)["timeline"])
        if len(seen) > 3:
            break
    play.click()
    assert len(seen) > 3
    assert complaints == []
