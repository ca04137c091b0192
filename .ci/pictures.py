"""Make the README's pictures of the explorer, with Chromium.

PYTHONPATH=. .venv/bin/python .ci/pictures.py
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import workbench as wb
from tests.browser.conftest import FLAGS

OUT = Path(__file__).resolve().parents[1] / "results" / "readme"
CHROMIUM = os.environ.get("WORKBENCH_CHROMIUM", "/usr/bin/chromium")
GIF_WIDTH = 810
# Resolves once the volume of a τ is on the screen.
MOVE_TAU = """position => new Promise(done => {
    const slider = document.querySelector('.wb-tau');
    const root = slider.closest('.wb');
    const drawn = () => requestAnimationFrame(() => requestAnimationFrame(done));
    root.addEventListener('wb-volume', drawn, { once: true });
    setTimeout(done, 3000);
    slider.value = position;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
})"""


def opened(browser: Browser, path: Path, width: int, scheme: str = "light") -> Page:
    """Open a saved page and wait until all of it is drawn."""
    page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('.wb')?.dataset.volume > 0", timeout=120_000)
    page.wait_for_timeout(1500)
    return page


def stills(browser: Browser, one: Path, two: Path) -> None:
    """Take the explorer in both themes and widths, and a comparison."""
    for scheme in ("light", "dark"):
        for width in (1280, 800):
            page = opened(browser, one, width, scheme)
            if scheme == "dark":
                page.locator('[aria-label="colormap"]').select_option("inferno")
                page.wait_for_timeout(1500)
            name = (
                "explorer" if (scheme, width) == ("light", 1280) else f"explorer_{scheme}_{width}"
            )
            page.locator(".wb").screenshot(path=OUT / f"{name}.png")
            page.close()
    page = opened(browser, two, 1280)
    page.locator('[aria-label="show the difference of the two tubes"]').click()
    page.wait_for_timeout(3000)
    page.locator(".wb").screenshot(path=OUT / "explorer_compared.png")
    page.close()


def dragged(browser: Browser, one: Path) -> list[Image.Image]:
    """Take the explorer while τ goes up and down again."""
    page = opened(browser, one, 1080)
    up = list(range(0, 190, 9))
    frames = []
    for position in [0, 0, *up, 189, 189, *up[::-2]]:
        page.evaluate(MOVE_TAU, position)
        page.wait_for_timeout(250)
        shot = Image.open(io.BytesIO(page.locator(".wb").screenshot())).convert("RGB")
        height = round(GIF_WIDTH * shot.height / shot.width)
        frames.append(shot.resize((GIF_WIDTH, height), Image.Resampling.LANCZOS))
    page.close()
    return frames


def save_gif(frames: list[Image.Image], path: Path) -> None:
    """Write frames with one palette, so that nothing flickers that does not change."""
    width, height = frames[0].size
    sheet = Image.new("RGB", (width, 3 * height))
    for n, frame in enumerate((frames[1], frames[len(frames) // 3], frames[len(frames) // 2])):
        sheet.paste(frame, (0, n * height))
    palette = sheet.quantize(255, Image.Quantize.MEDIANCUT)
    first, *rest = [frame.quantize(palette=palette) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=140, loop=0, optimize=True)


def main() -> None:
    """Make all of them."""
    clip = wb.samples.make_clip("stir", seed=3)
    both = [
        wb.explain(wb.load_model(f"samples/{name}", device="cpu"), clip)
        for name in ("mfnet", "tsn")
    ]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        one = wb.save_page(both[0], Path(folder) / "one.html")
        two = wb.save_page(both, Path(folder) / "two.html")
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, ignore_default_args=["--headless"]
        )
        stills(browser, one, two)
        save_gif(dragged(browser, one), OUT / "explorer.gif")
        browser.close()
    for path in sorted(OUT.glob("explorer*")):
        print(f"{path.stat().st_size / 1000:6.0f} kB  {path.name}")


if __name__ == "__main__":
    main()
