"""What the explorer costs on the screen, in headless Chromium with software GL, in JupyterLab and as a page.

    python -m benchmarks explorer

MFNet-3D's size: 768 maps of 8×7×7, 400 classes, 16 frames of 224×224. Beside it, in the same run: the
explorer that drew in the kernel (`old_explorer.py`), and `interact` with `scipy.ndimage.zoom` and
`go.Volume` as one writes it by hand. Times run from a key press to the pixels.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
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
CHROMIUM = os.environ.get("WORKBENCH_CHROMIUM", "/usr/bin/chromium")

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

@interact(tau=FloatSlider(min=weights.min(), max=weights.max(), step=0.01, value=weights.min(), description="τ"),
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
CELLS = {
    "explorer": {
        "load": LOAD,
        "show": "app = wb.explore(ex)\napp",
        "memory": "import gc; gc.collect(); print(psutil.Process().memory_info().rss)",
        "again": "app = wb.explore(ex)\napp",
    },
    "old": {"load": LOAD, "show": "from benchmarks.old_explorer import Explorer\nExplorer([ex])"},
    "plain": {"load": LOAD, "show": PLAIN},
}

# Each arms a promise of [overlay, volume] in ms after the next key. Reading a pixel waits for the drawing.
TOOLS = """
window.wbBench ??= (() => {
    addEventListener('keydown', () => (window.wbPressed = performance.now()), true);
    const frame = () => new Promise(requestAnimationFrame);
    const pixel = plot => {
        const { gl } = plot._fullLayout.scene._scene.glplot;
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    };
    const drawn = async plot => { await frame(); await frame(); pixel(plot); };
    const since = () => performance.now() - window.wbPressed;
    const once = (target, name) => new Promise(done => target.addEventListener(name, done, { once: true }));
    return {
        explorer: async root => {
            const canvas = root.querySelector('.wb-overlay');
            const plot = root.querySelector('.wb-volume');
            const overlay = once(root, 'wb-overlay').then(() => (canvas.getContext('2d').getImageData(0, 0, 1, 1), since()));
            const volume = once(root, 'wb-volume').then(() => drawn(plot)).then(since);
            return Promise.all([overlay, volume]);
        },
        old: async root => {
            const plot = [...root.querySelectorAll('.js-plotly-plot')].find(one => one.data.some(trace => trace.type === 'mesh3d'));
            const overlay = once(root.querySelector('img'), 'load').then(since);
            const volume = new Promise(done => plot.once('plotly_afterplot', done)).then(() => drawn(plot)).then(since);
            return Promise.all([overlay, volume]);
        },
        plain: async root => {
            const [image, before] = [root.querySelector('img'), root.querySelector('.js-plotly-plot')];
            let seen = 0;
            for (;;) {
                await frame();
                const fresh = root.querySelector('img');
                if (!seen && fresh && fresh !== image && fresh.complete) seen = since();
                const plot = root.querySelector('.js-plotly-plot');
                if (seen && plot && plot !== before && plot._fullLayout?.scene?._scene?.glplot) {
                    await drawn(plot);
                    return [seen, since()];
                }
            }
        },
        restyle: async root => {
            const plot = root.querySelector('.wb-volume');
            const names = ['x', 'y', 'z', 'i', 'j', 'k', 'intensity'];
            const take = () => Object.fromEntries(names.map(name => [name, [plot.data[0][name]]]));
            const slider = root.querySelector('.wb-tau');
            const move = async value => {
                slider.value = value;
                const done = once(root, 'wb-volume');
                slider.dispatchEvent(new Event('input', { bubbles: true }));
                await done;
            };
            const kept = slider.value;
            await move(40);
            const one = take();
            await move(60);
            const two = take();
            const times = [];
            for (let n = 0; n < 30; n++) {
                await new Promise(done => setTimeout(done, 150));
                const begun = performance.now();
                await globalThis.workbenchPlotly.then(Plotly => Plotly.restyle(plot, n % 2 ? two : one, [0]));
                await drawn(plot);
                times.push(performance.now() - begun);
            }
            await move(kept);
            return times;
        },
        burst: async root => {
            await new Promise(done => setTimeout(done, 500));
            const slider = root.querySelector('.wb-tau');
            const begun = performance.now();
            for (let n = 1; n <= 200; n++) {
                slider.value = n;
                slider.dispatchEvent(new Event('input', { bubbles: true }));
            }
            await once(root, 'wb-overlay');
            const overlay = performance.now() - begun;
            await once(root, 'wb-volume');
            return [overlay, performance.now() - begun, root.querySelector('.wb-kept').textContent];
        },
    };
})()
"""


def summary(times: list[float]) -> str:
    """Return median and 95th percentile in milliseconds."""
    ordered = sorted(times)
    return f"{statistics.median(ordered):8.0f} {ordered[int(0.95 * (len(ordered) - 1))]:6.0f}"


def measure(page: Page, root: Locator, kind: str, slider: Locator) -> list[list[float]]:
    """Press a key so many times, each once the last has been drawn; return overlay and volume times."""
    times = []
    for n in range(STEPS):
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
    if len(times) < STEPS // 2:
        raise RuntimeError(f"{kind}: {STEPS - len(times)} of {STEPS} steps drew nothing")
    return times


def report(
    name: str, tau: list[list[float]], frame: list[list[float]], received: float | None
) -> None:
    columns = [[step[0] for step in tau], [step[1] for step in tau], [step[0] for step in frame]]
    traffic = "     -" if received is None else f"{received / 1e3:6.0f}"
    print(f"{name:22s} {'   '.join(map(summary, columns))}   {traffic}", flush=True)


def sliders(root: Any, label: str) -> Any:
    return root.locator(f".widget-slider:has(.widget-label:text-is('{label}')) .noUi-handle")


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

    def steps(self, name: str, root: Locator, tau: Locator, frame: Locator) -> list[list[float]]:
        """Measure steps of both sliders and print them; return those of τ."""
        frame.press("Home")
        self.page.wait_for_timeout(2000)
        begun = sum(self.received)
        by_tau = measure(self.page, root, self.kind, tau)
        traffic = (sum(self.received) - begun) / STEPS
        report(name, by_tau, measure(self.page, root, self.kind, frame), traffic)
        return by_tau


def run(folder: Path) -> None:
    head = ("τ → overlay", "τ → volume", "frame → overlay")
    print(f"{'ms: median and p95':22s} {'   '.join(f'{each:>15s}' for each in head)}   kB/τ step")
    with jupyterlab(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*FLAGS, "--enable-precise-memory-info"],
            ignore_default_args=["--headless"],
        )
        print(*explorer(Lab(browser, (address, folder), "explorer")), sep="\n", flush=True)
        for kind, name in (("old", "old explorer"), ("plain", "interact + zoom")):
            lab = Lab(browser, (address, folder), kind)
            lab.run("show")
            root = lab.cell("show")
            root.locator(".js-plotly-plot .gl-container canvas").first.wait_for(state="attached")
            lab.page.wait_for_timeout(3000)
            handles = [
                root.locator(f".widget-slider:has(.widget-label:text-is('{label}')) .noUi-handle")
                for label in ("τ", "frame")
            ]
            lab.steps(name, root, *handles)
            lab.page.close()
        size = page(browser, folder)
        browser.close()
    print(f"saved page: {size / 1e6:.1f} MB", f"load {os.getloadavg()[0]:.1f}", sep="\n")


def explorer(lab: Lab) -> list[str]:
    """Measure the explorer in JupyterLab; return what is not a step, in words."""
    page = lab.page
    first = lab.opened("show")
    root = lab.cell("show").locator(".wb")
    root.scroll_into_view_if_needed()
    tau, frame = (root.locator(f".wb-{name}") for name in ("tau", "frame"))
    steps = lab.steps("explorer, JupyterLab", root, tau, frame)
    floor = root.evaluate("root => window.wbBench.restyle(root)")
    print(f"{'bare Plotly.restyle':22s} {'':15s}   {summary(floor)}", flush=True)
    ratio = statistics.median(step[1] for step in steps) / statistics.median(floor)
    burst = root.evaluate("root => window.wbBench.burst(root)")
    heap = page.context.new_cdp_session(page)

    def memory() -> tuple[float, float]:
        heap.send("HeapProfiler.collectGarbage")
        page.wait_for_timeout(500)
        used = page.evaluate("performance.memory.usedJSHeapSize")
        return used / 1e6, float(lab.run("memory")) / 1e6

    before = memory()
    tau.focus()
    for n in range(500):
        page.keyboard.press("ArrowLeft" if n % 100 < 50 else "ArrowRight")
        page.wait_for_timeout(20)
    page.wait_for_timeout(1500)
    after = memory()
    box = tau.bounding_box()
    assert box is not None
    page.wait_for_timeout(800)
    quiet = lab.comms()
    page.mouse.move(box["x"] + 8, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 8, steps=50)
    dragged = lab.comms() - quiet
    page.mouse.up()
    page.wait_for_timeout(800)
    finished = lab.comms() - quiet - dragged
    again = lab.opened("again")
    page.close()
    return [
        f"τ → volume / bare restyle: {ratio:.2f}",
        f"200 events at once: overlay {burst[0]:.0f} ms, volume {burst[1]:.0f} ms, {burst[2]!r}",
        f"first opening {first:.1f} s, reopening {again:.1f} s (from key press to drawn volume)",
        f"500 updates: page {after[0] - before[0]:+.1f} MB, kernel {after[1] - before[1]:+.1f} MB",
        f"messages to the kernel: {dragged} during a drag of 50 moves, {finished} after it",
    ]


def page(browser: Browser, folder: Path) -> int:
    """Measure the saved page from file:// without a network; return its size in bytes."""
    names: dict[str, Any] = {}
    exec(LOAD, names)
    path: Path = names["wb"].save_page(names["ex"], folder / "tube.html")
    page = open_page(browser, path.as_uri(), [], offline=True)
    page.evaluate(TOOLS)
    page.wait_for_function("document.querySelector('.wb')?.dataset.volume > 0")
    root = page.locator(".wb")
    root.locator(".wb-frame").press("Home")
    page.wait_for_timeout(1000)
    times = [
        measure(page, root, "explorer", root.locator(f".wb-{name}")) for name in ("tau", "frame")
    ]
    report("page, file://", *times, None)
    return path.stat().st_size


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))
