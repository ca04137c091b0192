"""What the explorer costs on the screen, in headless Chromium with software GL.

    python -m benchmarks explorer                  # all parts, then the table
    python -m benchmarks.bench_explorer page       # one part, two minutes or so; then
    python -m benchmarks.bench_explorer table

MFNet-3D's size: 768 maps of 8×7×7, 400 classes, 16 frames of 224×224. The explorer in JupyterLab and as a
saved page from file:// without a network; beside it the explorer that drew in the kernel
(`old_explorer.py`), and `interact` with `scipy.ndimage.zoom` and `go.Volume` as one writes it by hand.
Times run from a key press to the pixels. The floor is a bare `Plotly.restyle` between the surfaces where the
explorer's own steps begin and end, in the same figure, in turns with them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, Locator, Page, sync_playwright  # noqa: E402

from tests.browser.conftest import (  # noqa: E402
    FLAGS,
    jupyterlab,
    open_notebook,
    open_page,
    run_cell,
)

STEPS = 50
TURN = 10  # steps between two looks at the floor
CHROMIUM = os.environ.get("WORKBENCH_CHROMIUM", "/usr/bin/chromium")
TOOLS = Path(__file__).with_name("explorer_steps.js").read_text("utf-8")
RESULTS = ROOT / "results" / "benchmarks" / "explorer.json"

LOAD = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np, psutil, torch
import workbench as wb
torch.manual_seed(0)
model = wb.load_model("mfnet3d", classes=[f"class {{n}}" for n in range(400)], device="cpu")
with torch.no_grad():
    model.network.classifier.weight.normal_()
ex = wb.explain(model, wb.samples.make_clip("stir", seed=3, size=(224, 224)))
"""
PLAIN = """
import plotly.graph_objects as go
from IPython.display import display
from ipywidgets import FloatSlider, IntSlider, interact
from PIL import Image
from scipy.ndimage import zoom

maps, weights, frames = ex.activations.numpy(), ex.class_weights().numpy(), ex.clip.frames
scale = [n / m for n, m in zip(frames.shape[:3], maps.shape[1:])]

low, high = weights.min(), weights.max()
@interact(tau=FloatSlider(min=low, max=high, step=(high - low) / 200, value=0, description="τ"),
          frame=IntSlider(min=0, max=15, description="frame"))
def show(tau, frame):
    cam = zoom(((weights * (weights >= tau)) @ maps.reshape(768, -1)).reshape(maps.shape[1:]), scale, order=3)
    cam = (cam - cam.min()) / np.ptp(cam)
    heat = np.stack([cam[frame], 0 * cam[frame], 1 - cam[frame]], -1) * 128 + frames[frame] / 2
    display(Image.fromarray(heat.astype(np.uint8)))
    small = cam[:, ::8, ::8]
    t, y, x = np.mgrid[:16, :28, :28]
    display(go.Figure(go.Volume(x=t.ravel(), y=x.ravel(), z=y.ravel(), value=small.ravel(), isomin=0.3, opacity=0.2, surface_count=8)))
"""
# τ begins at 0, where every step drops some features: a step that drops none draws nothing.
CELLS = {
    "explorer": {
        "load": LOAD,
        "show": "app = wb.explore(ex)\napp.tau.value = 0\napp",
        "memory": "import gc; gc.collect(); print(psutil.Process().memory_info().rss)",
        "again": "app = wb.explore(ex)\napp",
    },
    "old": {
        "load": LOAD,
        "show": "from benchmarks.old_explorer import Explorer\n"
        "app = Explorer([ex])\napp.tau.value = 0\napp",
    },
    "plain": {"load": LOAD, "show": PLAIN},
}


def steps(page: Page, root: Locator, kind: str, slider: Locator, count: int) -> list[list[float]]:
    """Press a key so many times, each once the last has been drawn; return overlay and volume times."""
    times = []
    for n in range(count):
        slider.focus()
        page.wait_for_timeout(180)
        root.evaluate(
            """(root, kind) => {
                const late = new Promise(done => setTimeout(() => done(null), 10000));
                window.wbDone = Promise.race([window.wbBench[kind](root), late]);
            }""",
            kind,
        )
        # Four steps up and four down: every one changes something.
        page.keyboard.press("ArrowRight" if n % 8 < 4 else "ArrowLeft")
        step = page.evaluate("window.wbDone")
        if step is not None:  # a step that changes no pixel sends no picture
            times.append(step)
    if len(times) < count // 2:
        raise RuntimeError(f"{kind}: {count - len(times)} of {count} steps drew nothing")
    return times


def explorer_steps(page: Page, root: Locator) -> dict[str, Any]:
    """Measure the explorer's steps of both sliders, in turns with the floor."""
    tau, frame = (root.locator(f".wb-{name}") for name in ("tau", "frame"))
    frame.press("Home")
    page.wait_for_timeout(1000)
    by_tau, by_frame, floor = [], [], []
    for _ in range(STEPS // TURN):
        by_tau += steps(page, root, "explorer", tau, TURN)
        floor += root.evaluate("(root, count) => window.wbBench.restyle(root, count)", TURN)
        by_frame += steps(page, root, "explorer", frame, TURN)
    return {
        "overlay": [step[0] for step in by_tau],
        "volume": [step[1] for step in by_tau],
        "frame": [step[0] for step in by_frame],
        "floor": floor,
    }


class Lab:
    """A notebook in JupyterLab whose traffic is counted."""

    def __init__(self, browser: Browser, lab: tuple[str, Path], kind: str) -> None:
        self.kind, self.names = kind, list(CELLS[kind])
        self.sent: list[bytes | str] = []
        self.received: list[int] = []
        self.page = open_notebook(browser, lab, CELLS[kind], [], self.sent, self.received)
        self.page.evaluate(TOOLS)
        self.run("load")

    def run(self, name: str) -> str:
        return run_cell(self.page, self.names.index(name))

    def cell(self, name: str) -> Locator:
        return self.page.locator(".jp-CodeCell").nth(self.names.index(name))

    def opened(self, name: str) -> float:
        """Run a cell that shows an explorer; return the seconds until its volume is drawn."""
        self.cell(name).locator(".cm-content").click()
        begun = time.perf_counter()
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_function(
            "n => document.querySelectorAll('.jp-CodeCell')[n].querySelector('.wb')?.dataset.volume > 0",
            arg=self.names.index(name), polling=20, timeout=120_000,
        )  # fmt: skip
        return time.perf_counter() - begun

    def comms(self) -> int:
        """How many messages the widgets have sent to the kernel."""
        frames = [each if isinstance(each, bytes) else each.encode() for each in self.sent]
        return sum(b"comm_msg" in each for each in frames)

    def traffic(self, root: Locator, tau: Locator) -> dict[str, float]:
        """Count what comes in and goes out while τ takes ten steps."""
        before = sum(self.received), len(self.received), self.comms()
        steps(self.page, root, self.kind, tau, TURN)
        self.page.wait_for_timeout(1000)
        return {
            "bytes": (sum(self.received) - before[0]) / TURN,
            "messages": (len(self.received) - before[1]) / TURN,
            "sent": (self.comms() - before[2]) / TURN,
        }


# The parts: each opens its own page, and returns what it measured


def lab(browser: Browser, address: str, folder: Path) -> dict[str, Any]:
    """Measure the explorer in JupyterLab."""
    notebook = Lab(browser, (address, folder), "explorer")
    first = notebook.opened("show")
    root = notebook.cell("show").locator(".wb")
    root.scroll_into_view_if_needed()
    measured = explorer_steps(notebook.page, root)
    measured |= notebook.traffic(root, root.locator(".wb-tau"))
    return measured | {"first": first, "again": notebook.opened("again")}


def rest(browser: Browser, address: str, folder: Path) -> dict[str, Any]:
    """Measure a burst of events, 500 updates, and what a drag sends to the kernel."""
    notebook = Lab(browser, (address, folder), "explorer")
    page = notebook.page
    notebook.opened("show")
    root = notebook.cell("show").locator(".wb")
    root.scroll_into_view_if_needed()
    tau = root.locator(".wb-tau")
    burst = root.evaluate("root => window.wbBench.burst(root)")
    heap = page.context.new_cdp_session(page)

    def memory() -> tuple[float, float]:
        heap.send("HeapProfiler.collectGarbage")
        page.wait_for_timeout(500)
        used = page.evaluate("performance.memory.usedJSHeapSize")
        return used / 1e6, float(notebook.run("memory")) / 1e6

    camera = "root => JSON.stringify(root.querySelector('.wb-volume')._fullLayout.scene._scene.getCamera())"
    before, looked = memory(), root.evaluate(camera)
    tau.focus()
    for n in range(500):
        page.keyboard.press("ArrowLeft" if n % 100 < 50 else "ArrowRight")
        page.wait_for_timeout(20)
    page.wait_for_timeout(1500)
    after = memory()
    box = tau.bounding_box()
    assert box is not None
    page.wait_for_timeout(800)
    quiet = notebook.comms()
    page.mouse.move(box["x"] + 8, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 8, steps=50)
    dragged = notebook.comms() - quiet
    page.mouse.up()
    page.wait_for_timeout(800)
    return {
        "burst": burst,
        "page growth": after[0] - before[0],
        "kernel growth": after[1] - before[1],
        "camera stays": root.evaluate(camera) == looked,
        "dragging": dragged,
        "after the drag": notebook.comms() - quiet - dragged,
    }


def page(browser: Browser, _address: str, folder: Path) -> dict[str, Any]:
    """Measure the saved page from file:// without a network."""
    names: dict[str, Any] = {}
    exec(LOAD, names)
    app = names["wb"].explore(names["ex"])
    app.tau.value = 0
    path: Path = names["wb"].save_page(app, folder / "tube.html")
    both: Path = names["wb"].save_page([names["ex"], names["ex"]], folder / "both.html")
    opened = open_page(browser, path.as_uri(), [], offline=True)
    opened.evaluate(TOOLS)
    opened.wait_for_function("document.querySelector('.wb')?.dataset.volume > 0")
    measured = explorer_steps(opened, opened.locator(".wb"))
    return measured | {"size": path.stat().st_size / 1e6, "both": both.stat().st_size / 1e6}


def others(kind: str) -> Callable[[Browser, str, Path], dict[str, Any]]:
    """Return what measures another way to the same picture."""

    def measure(browser: Browser, address: str, folder: Path) -> dict[str, Any]:
        notebook = Lab(browser, (address, folder), kind)
        notebook.run("show")
        root = notebook.cell("show")
        root.locator(".js-plotly-plot .gl-container canvas").first.wait_for(state="attached")
        notebook.page.wait_for_timeout(3000)
        tau, frame = (
            root.locator(f".widget-slider:has(.widget-label:text-is('{label}')) .noUi-handle")
            for label in ("τ", "frame")
        )
        frame.press("Home")
        notebook.page.wait_for_timeout(2000)
        by_tau = steps(notebook.page, root, kind, tau, STEPS)
        traffic = notebook.traffic(root, tau)
        by_frame = steps(notebook.page, root, kind, frame, STEPS)
        return {
            "overlay": [step[0] for step in by_tau],
            "volume": [step[1] for step in by_tau],
            "frame": [step[0] for step in by_frame],
            **traffic,
        }

    return measure


PARTS = {
    "lab": ("explorer, JupyterLab", lab),
    "page": ("saved page, file://", page),
    "old": ("old explorer", others("old")),
    "plain": ("`interact` + `zoom` + `go.Volume`", others("plain")),
    "rest": ("", rest),
}


def run(part: str) -> None:
    """Measure one part and put it into the file of results."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*FLAGS, "--enable-precise-memory-info"],
            ignore_default_args=["--headless"],
        )
        load = os.getloadavg()[0]
        measure = PARTS[part][1]
        if part == "page":
            measured = measure(browser, "", folder)
        else:
            with jupyterlab(folder) as address:
                measured = measure(browser, address, folder)
        measured["date"] = f"{datetime.now():%Y-%m-%d %H:%M}"
        measured["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, load {load:.1f}"
        measured["chromium"] = browser.version
        browser.close()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(results | {part: measured}, indent=1))


def summary(times: list[float]) -> str:
    """Return median and 95th percentile in milliseconds."""
    ordered = sorted(times)
    return f"{statistics.median(ordered):.0f} ({ordered[int(0.95 * (len(ordered) - 1))]:.0f})"


def table() -> None:
    """Print what has been measured, in Markdown."""
    results = json.loads(RESULTS.read_text())
    print("| ms: median (p95) | τ → overlay | τ → volume | × floor | frame → overlay "
          "| received per τ step | sent per τ step | measured |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for part, (name, _) in PARTS.items():
        if part not in results or part == "rest":
            continue
        one = results[part]
        cells = [summary(one[column]) for column in ("overlay", "volume", "frame")]
        ratio, received, sent = "", "nothing", "nothing"
        if "floor" in one:
            ratio = f"{statistics.median(one['volume']) / statistics.median(one['floor']):.2f}"
        if "bytes" in one:
            received = f"{one['bytes'] / 1e3:.0f} kB, {one['messages']:.0f} messages"
            sent = f"{one['sent']:.1f} messages"
        row = [
            name,
            *cells[:2],
            ratio,
            cells[2],
            received,
            sent,
            f"{one['date']}, {one['machine']}",
        ]
        print(f"| {' | '.join(row)} |")
        if "floor" in one:
            print(f"| … its floor, `Plotly.restyle` | | {summary(one['floor'])} | 1 | | | | |")
    print()
    if "lab" in results:
        first, again = results["lab"]["first"], results["lab"]["again"]
        print(f"first opening {first:.1f} s, reopening {again:.1f} s (key press to drawn volume)")
    if "page" in results:
        print(
            "saved page {size:.1f} MB, of two explanations {both:.1f} MB".format_map(
                results["page"]
            )
        )
    if "rest" in results:
        one = results["rest"]
        overlay, volume, kept = one["burst"]
        print(f"200 events at once: overlay {overlay:.0f} ms, volume {volume:.0f} ms, {kept!r}")
        print(
            "500 updates: page {page growth:+.1f} MB, kernel {kernel growth:+.1f} MB".format_map(
                one
            )
        )
        print("the camera stays: {camera stays}".format_map(one))
        print("messages to the kernel: {dragging} in a drag of 50 moves, {after the drag} after it".format_map(one))  # fmt: skip
    print(f"Chromium {next(iter(results.values()))['chromium']}, headless, software GL")


if __name__ == "__main__":
    wanted = sys.argv[1:] or [*PARTS, "table"]
    for part in wanted:
        if part == "table":
            table()
        elif len(wanted) == 1:
            run(part)
        else:  # each in a process of its own: one that hangs does not cost the others
            command = [sys.executable, "-m", "benchmarks.bench_explorer", part]
            subprocess.run(command, check=True, cwd=ROOT)
