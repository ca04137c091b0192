"""A JupyterLab with folders of its own, a headless Chromium, and a hand on the explorer in it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    WebSocket,
    expect,
    sync_playwright,
)

# Chromium's own traffic off; WebGL by software.
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip

# What an explorer shows: its pictures as pixels, the numbers of its volumes, the camera, and its words.
STATE = """root => {
    const shown = [...root.querySelectorAll('.wb-panel')].filter(panel => !panel.hidden);
    const pixels = name => [...root.querySelectorAll(name)].map(canvas => canvas.toDataURL()).join();
    const plots = shown.map(panel => panel.querySelector('.wb-volume'));
    if (!plots.every(plot => plot._fullLayout?.scene?._scene)) return null;
    const numbers = (plot, n) => ['x', 'y', 'z'].map(axis => Array.from(plot.data[n][axis] || []).join());
    const camera = plot => JSON.stringify(plot._fullLayout.scene._scene.getCamera(),
        (key, value) => typeof value === 'number' ? value.toFixed(3) : value);
    return {
        overlay: shown.map(panel => panel.querySelector('.wb-overlay').toDataURL()).join(),
        surfaces: JSON.stringify(plots.map(plot => numbers(plot, 0))),
        picture: JSON.stringify(plots.map(plot => [plot.data[1].x[0], plot.data[2].x[0]])),
        timeline: pixels('.wb-timeline'),
        film: pixels('.wb-film'),
        histogram: pixels('.wb-histogram'),
        camera: plots.map(camera).join(),
        kept: root.querySelector('.wb-kept').textContent,
        clock: root.querySelector('.wb-clock').textContent,
        shown: root.dataset.shown,
        note: root.querySelector('.wb-note').textContent,
    };
}"""


# How far from the edges of its box each volume is drawn, in pixels: left, right, top, bottom. 0: it is cut off.
MARGINS = """root => [...root.querySelectorAll('.wb-panel')].filter(panel => !panel.hidden).map(panel => {
    const { glplot } = panel.querySelector('.wb-volume')._fullLayout.scene._scene;
    glplot.redraw();
    const { gl } = glplot;
    const [width, height] = [gl.drawingBufferWidth, gl.drawingBufferHeight];
    const pixels = new Uint8Array(4 * width * height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    const [columns, rows] = [new Set(), new Set()];
    for (let n = 0; n < width * height; n++) {
        if (pixels[4 * n + 3] < 20) continue;
        columns.add(n % width);
        rows.add(Math.floor(n / width));
    }
    return [Math.min(...columns), width - 1 - Math.max(...columns), height - 1 - Math.max(...rows), Math.min(...rows)];
})"""


@dataclass
class View:
    """One explorer on a page."""

    page: Page
    root: Locator
    notebook: bool
    complaints: list[str]
    sent: list[bytes | str] = field(default_factory=list)

    def state(self) -> dict[str, str]:
        """What is on the screen once it has stopped changing."""
        before = None
        for _ in range(150):
            now: dict[str, str] | None = self.root.evaluate(STATE)
            if now is not None and now == before:
                return now
            before = now
            self.page.wait_for_timeout(120)
        raise AssertionError("the explorer does not come to rest")

    def change(self, act: Callable[[], Any], *parts: str) -> dict[str, str]:
        """Do something, wait until these parts have changed and rest, and return what is there."""
        before = self.state()
        act()
        for _ in range(200):
            now = self.root.evaluate(STATE) or before
            if all(now[part] != before[part] for part in parts):
                return self.state()
            self.page.wait_for_timeout(100)
        same = [part for part in parts if now[part] == before[part]]
        raise AssertionError(f"unchanged: {same}; the screen says {now['note']!r}")

    def find(self, selector: str) -> Locator:
        return self.root.locator(selector)

    def key(self, *keys: str) -> Callable[[], None]:
        def act() -> None:
            self.root.focus()
            for key in keys:
                self.page.keyboard.press(key)

        return act

    def click(self, selector: str) -> Callable[[], None]:
        return lambda: self.find(selector).first.click()

    def drag(self, selector: str, start: float, stop: float, steps: int = 12) -> None:
        """Drag a slider's thumb between two shares of its length."""
        box = self.find(selector).bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        place = [box["x"] + 8 + share * (box["width"] - 16) for share in (start, stop)]
        self.page.mouse.move(place[0], y)
        self.page.mouse.down()
        self.page.mouse.move(place[1], y, steps=steps)
        self.page.mouse.up()

    def orbit(self) -> None:
        """Turn the first volume as a user does."""
        box = self.find(".wb-volume").first.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 90, y + 30, steps=6)
        self.page.mouse.up()

    def volume_fits(self) -> bool:
        """Whether every volume is drawn inside its box, axis titles and all."""
        margins: list[list[int]] = self.root.evaluate(MARGINS)
        return min(min(one) for one in margins) >= 2

    def screenshot(self, name: str, folder: Path) -> None:
        """Save a picture, into WORKBENCH_SCREENSHOTS if that is set."""
        folder = Path(os.environ.get("WORKBENCH_SCREENSHOTS") or folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.page.mouse.move(5, 5)
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=folder / f"{name}.png")


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=FLAGS, ignore_default_args=["--headless"]
        )
        yield browser
        browser.close()


def open_page(
    browser: Browser,
    address: str,
    complaints: list[str],
    sent: list[bytes | str] | None = None,
    received: list[int] | None = None,
    **options: Any,
) -> Page:
    """A page whose errors are written down, what it sends to the kernel, and how much it gets."""

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(f"{message.text} ({message.location.get('url')})")

    page = browser.new_page(viewport={"width": 1280, "height": 1000}, **options)
    page.set_default_timeout(120_000)
    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def on_socket(socket: WebSocket) -> None:
        if sent is not None:
            socket.on("framesent", lambda frame: sent.append(frame))
        if received is not None:
            socket.on("framereceived", lambda frame: received.append(len(frame)))

    page.on("websocket", on_socket)
    page.goto(address)
    return page


def drawn(root: Locator) -> None:
    """Wait until an explorer has drawn its volume, or says why it cannot."""
    expect(root).to_have_attribute("data-volume", re.compile(r"[1-9]"), timeout=120_000)


@contextmanager
def jupyterlab(root: Path) -> Iterator[str]:
    """Run a JupyterLab of its own in a folder, without internet; give its address."""
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
        "--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True",
        *(["--allow-root"] if _is_root() else []),
    ]  # fmt: skip
    with (root / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=root, env={**os.environ, **folders}, stdout=log, stderr=log
        )
        try:
            _wait_for(address + "/api", server, root / "lab.log")
            yield address
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a JupyterLab."""
    root = tmp_path_factory.mktemp("lab")
    with jupyterlab(root) as address:
        yield address, root


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


def open_notebook(
    browser: Browser,
    lab: tuple[str, Path],
    cells: dict[str, str],
    complaints: list[str],
    sent: list[bytes | str] | None = None,
    received: list[int] | None = None,
) -> Page:
    """Open a notebook of these cells; nothing is run yet."""
    address, root = lab
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells.values()]
    )
    notebook.metadata.kernelspec = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    name = f"{abs(hash(tuple(cells)))}.ipynb"
    nbformat.write(notebook, root / name)
    return open_page(browser, f"{address}/doc/tree/{name}", complaints, sent, received)


def run_cell(page: Page, number: int) -> str:
    """Run a cell to its end and return its text output.

    Again if need be: JupyterLab drops what is run before it has its kernel.
    """
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(state="attached")
    cell = page.locator(".jp-CodeCell").nth(number)
    before = cell.locator(".jp-InputPrompt").inner_text()
    for _ in range(80):
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(700)
        if cell.locator(".jp-InputPrompt").inner_text() not in (before, "[ ]:", ""):
            break
    expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=120_000)
    failed = cell.locator('[data-mime-type="application/vnd.jupyter.error"]')
    if failed.count():
        pytest.fail(f"the cell raised:\n{failed.first.inner_text()}")
    return "\n".join(cell.locator(".jp-OutputArea-output pre").all_inner_texts())
