"""Comparison, data sets, gradients and hostile names, as users meet them in JupyterLab and in saved pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

import workbench as wb
from tests.browser.conftest import View, drawn, open_notebook, open_page, run_cell

pytestmark = pytest.mark.browser

HOSTILE = [
    "<img src=x onerror=\"document.title='broken'\">",
    "</script><script>document.title='broken'</script>",
    "\"quoted\" & 'so'",
    "🎬 emoji ✂️",
    "عربي من اليمين",
]

NETWORK = f"""
import torch
import workbench as wb
from dataclasses import replace

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv3d(3, 12, (2, 8, 8), stride=(2, 8, 8))
        self.head = torch.nn.Linear(12, 14)

    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3, 4)))

torch.manual_seed(1)
names = {HOSTILE!r} + [f"class {{n}}" for n in range(9)]
small = wb.wrap_model(Small(), wb.InputSpec(frames=8, resize=(48, 64)), names, name="<b>small</b>")
clip = wb.samples.make_clip("stir", seed=2, size=(48, 64))
clip = replace(clip.sample(8), name="<i>clip</i>", label=names[0], actions=(), boxes=None)
gradient = wb.explain(small, clip, weights="gradient")
"""

CELLS = {
    "load": 'import workbench as wb\nmodel, flat = wb.load_model("samples/mfnet"), wb.load_model("samples/tsn")\n'
    'clip = wb.samples.make_clip("stir", seed=3)\n'
    "both = [wb.explain(model, clip), wb.explain(flat, clip)]",
    "compared": "pair = wb.explore(both)\npair",
    "close pair": "pair.close()",
    "gradient": NETWORK + "app = wb.explore(gradient)\napp",
    "close": "app.close()",
    "data": "clips = wb.explore(wb.samples.dataset(size=6), model)\nclips",
    "shown": "print(clips.clip.value, clips.explorer.tube.label, len(clips.results))",
    "sweep": "import tempfile\nstore = wb.sweep(wb.samples.dataset(size=30), model, tempfile.mkdtemp(), progress=False)",
    "store": "kept = wb.explore(store)\nkept",
    "kept": "print(kept.clip.value, kept.explorer.tube.label, len(kept.results))",
    "close store": "kept.close()",
    "many": "four = wb.explore([*both, *both])\nfour",
}  # fmt: skip
NUMBER = {name: number for number, name in enumerate(CELLS)}


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    return []


@pytest.fixture(scope="module")
def notebook(browser: Browser, lab: tuple[str, Path], complaints: list[str]) -> Iterator[Page]:
    page = open_notebook(browser, lab, CELLS, complaints)
    run_cell(page, NUMBER["load"])
    yield page
    page.close()


def shown(page: Page, name: str, complaints: list[str]) -> View:
    """Run a cell that shows an explorer, and return it."""
    run_cell(page, NUMBER[name])
    root = page.locator(".jp-CodeCell").nth(NUMBER[name]).locator(".wb:not(.wb-clips)")
    drawn(root)
    root.scroll_into_view_if_needed()
    return View(page, root, True, complaints)


@pytest.mark.parametrize("host", ["notebook", "page"])
def test_two_are_compared(
    host: str,
    browser: Browser,
    complaints: list[str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if host == "notebook":
        view = shown(request.getfixturevalue("notebook"), "compared", complaints)
    else:
        clip = wb.samples.make_clip("stir", seed=3)
        both = [wb.explain(wb.load_model(f"samples/{name}"), clip) for name in ("mfnet", "tsn")]
        path = wb.save_page(both, tmp_path / "two.html")
        assert path.stat().st_size < 8e6
        page = open_page(browser, path.as_uri(), complaints, offline=True)
        view = View(page, page.locator(".wb"), False, complaints)
        drawn(view.root)
    start = view.state()
    assert view.find(".wb-panel:visible").count() == 2
    half = view.change(lambda: view.drag(".wb-tau", 0, 0.6), "overlay", "surfaces", "kept")
    shares = [
        text.split(" · ")[-1] for text in view.find(".wb-caption small").all_inner_texts()[:2]
    ]
    assert shares[0] == shares[1] != "128 of 128 features"  # both networks have 128
    view.change(lambda: view.find(".wb-tau").press("Home"), "overlay", "kept")
    view.change(view.key("ArrowLeft"), "overlay", "picture")
    view.change(view.key("ArrowRight"), "overlay", "picture")
    turned = view.change(view.orbit, "camera")
    first, other = re.findall(r"\{.*?\}\}", turned["camera"])[:2]
    assert first == other  # linked
    box = view.find('[aria-label="show the difference of the two tubes"]')
    three = view.change(box.click, "overlay", "surfaces")
    assert view.find(".wb-panel:visible").count() == 3
    view.screenshot(f"compared_{host}", tmp_path)
    assert three["overlay"].count("data:image") == 3
    two = view.change(box.click, "overlay")
    assert two["overlay"].count("data:image") == 2
    assert start["note"] == half["note"] == ""
    assert complaints == []
    if host == "notebook":
        run_cell(view.page, NUMBER["close pair"])
    else:
        view.page.close()


def test_hostile_names_are_text_and_gradients_come_on_demand(
    notebook: Page, complaints: list[str], tmp_path: Path
) -> None:
    view = shown(notebook, "gradient", complaints)
    view.screenshot("hostile", tmp_path)
    names = view.find(".wb-classes .wb-name").all_inner_texts()
    assert set(HOSTILE) <= set(names)
    assert view.find(".wb-title").inner_text() == f"<i>clip</i>, labelled {HOSTILE[0]}"
    assert "<b>small</b>" in view.find(".wb-caption").first.inner_text()
    assert view.find("img").count() == view.find("bdi b, bdi i").count() == 0
    assert "broken" not in notebook.title()
    for item in (view.find(".wb-classes li").nth(12), view.find(".wb-classes li").nth(13)):
        # Beyond the ten that were sent: fetched from the kernel
        name = item.locator(".wb-name").inner_text()
        now = view.change(item.click, "overlay", "surfaces", "shown", "histogram")
        assert now["shown"] == name
        assert now["note"] == ""
    assert view.find(".wb-wait:visible").count() == 0
    assert complaints == []
    run_cell(notebook, NUMBER["close"])


def test_a_page_greys_what_it_does_not_hold(
    browser: Browser, complaints: list[str], tmp_path: Path
) -> None:
    names: dict[str, object] = {}
    exec(NETWORK, names)
    path = wb.save_page(names["gradient"], tmp_path / "gradient.html")
    page = open_page(browser, path.as_uri(), complaints, offline=True)
    view = View(page, page.locator(".wb"), False, complaints)
    drawn(view.root)
    before = view.state()
    assert page.title() == "Saliency tubes of <i>clip</i>"
    assert view.find('.wb-classes li[aria-disabled="true"]').count() == 4
    view.find(".wb-classes li").nth(13).click(force=True)
    assert view.state() == before
    view.change(view.click(".wb-classes li >> nth=9"), "overlay", "shown")
    assert complaints == []
    page.close()


def test_answers_over_time_share_the_timeline(
    browser: Browser, complaints: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    exec(NETWORK, names)
    ex = names["gradient"]
    answers = np.zeros((8, 14), np.float32)
    answers[3:, ex.class_id()] = 1.0  # steps from 0 to 1 after the third answer
    monkeypatch.setattr(wb.Explanation, "answer_probabilities", torch.from_numpy(answers))
    monkeypatch.setattr(wb.Explanation, "answer_times", ex.clip.times)
    page = open_page(browser, wb.save_page(ex, tmp_path / "t.html").as_uri(), complaints)
    view = View(page, page.locator(".wb"), False, complaints)
    drawn(view.root)
    before = view.state()
    # Where the dashes of the answer are, in rows from the top: high only in the later part.
    rows = """(root, [from, to]) => {
        const canvas = root.querySelector('.wb-timeline');
        const { width, height } = canvas;
        const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
        const found = [];
        for (let y = 0; y < height; y++) for (let x = Math.round(from * width); x < to * width; x++) {
            const k = 4 * (y * width + x);
            if (Math.abs(data[k] - 209) + Math.abs(data[k + 1] - 73) + Math.abs(data[k + 2] - 91) < 30) found.push(y);
        }
        return [Math.min(...found), Math.max(...found), height];
    }"""
    early, late = (view.root.evaluate(rows, place) for place in ([0.06, 0.3], [0.6, 0.9]))
    assert early[0] > 0.6 * early[2]
    assert late[1] < 0.3 * late[2]
    expect(view.find(".wb-timeline")).to_have_attribute("aria-label", re.compile("each answer"))
    view.screenshot("explorer_answers", tmp_path)
    view.change(view.click(".wb-classes li >> nth=2"), "timeline", "shown")
    assert view.root.evaluate(rows, [0.6, 0.9])[0] > 0.6 * late[2]
    assert before["note"] == ""
    assert complaints == []
    page.close()


def test_a_data_set(notebook: Page, complaints: list[str], tmp_path: Path) -> None:
    view = shown(notebook, "data", complaints)
    clips = notebook.locator(".wb-clips")
    cards = clips.locator(".wb-card")
    expect(cards).to_have_count(6)
    expect(cards.nth(5).locator("img")).to_have_attribute("src", re.compile("^blob:"))
    first = cards.nth(0).get_attribute("title")
    assert first is not None

    def chosen(number: int) -> None:
        expect(cards.nth(number)).to_have_attribute("aria-selected", "true")
        title = notebook.locator(".wb-title")
        name = (cards.nth(number).get_attribute("title") or "").split(",")[0]
        expect(title).to_contain_text(name)
        drawn(notebook.locator(".wb:not(.wb-clips)"))

    cards.nth(2).click()
    chosen(2)
    view.root.focus()
    notebook.keyboard.press("n")  # the key is pressed in the explorer
    chosen(3)
    notebook.locator(".wb:not(.wb-clips)").focus()
    notebook.keyboard.press("p")
    chosen(2)
    clips.get_by_role("button", name="next clip (n)").click()
    chosen(3)
    clips.get_by_role("button", name="previous clip (p)").click()
    chosen(2)
    clips.get_by_label("right or wrong").select_option("not explained yet")
    expect(cards).not_to_have_count(6)
    clips.get_by_label("right or wrong").select_option("any outcome")
    clips.get_by_role("button", name="next clip (n)").click()
    chosen(3)
    clips.get_by_role("button", name=re.compile("^explain every clip")).click()
    expect(clips.locator(".wb-clock")).to_have_text(re.compile(r"of 6 right"))
    right = clips.locator(".wb-right").count()
    view.screenshot("data_set", tmp_path)
    clips.get_by_label("right or wrong").select_option("right")
    expect(cards).to_have_count(right)
    clips.get_by_label("right or wrong").select_option("wrong")
    expect(cards).to_have_count(6 - right)
    clips.get_by_label("right or wrong").select_option("any outcome")
    clips.get_by_label("lowest confidence in %").fill("100")
    expect(cards).to_have_count(0)
    clips.get_by_label("lowest confidence in %").fill("0")
    clips.get_by_label("search names and narrations").fill("00004")
    expect(cards).to_have_count(1)
    clips.get_by_label("search names and narrations").fill("")
    label = clips.get_by_label("class", exact=True)
    label.select_option(index=1)
    expect(cards).to_have_count(1)
    chosen(0)
    label.select_option(index=0)
    expect(cards).to_have_count(6)
    name, _, count = run_cell(notebook, NUMBER["shown"]).split()
    assert count == "6"
    assert name == first.split(",")[0]
    assert complaints == []


def test_a_store(notebook: Page, complaints: list[str], tmp_path: Path) -> None:
    run_cell(notebook, NUMBER["sweep"])
    view = shown(notebook, "store", complaints)
    cell = notebook.locator(".jp-CodeCell").nth(NUMBER["store"])
    clips = cell.locator(".wb-clips")
    cards = clips.locator(".wb-card")
    expect(cards).to_have_count(24)  # on the first of two pages
    # What the network said is known of every clip, so there is nothing to run.
    expect(clips.locator(".wb-clock")).to_have_text(re.compile(r"^30 clips, \d+ of 30 right$"))
    expect(clips.get_by_role("button", name=re.compile("^explain every clip"))).to_have_count(0)
    outcomes = clips.get_by_label("right or wrong")
    assert outcomes.locator("option").all_inner_texts() == ["any outcome", "right", "wrong"]
    expect(cards.nth(23).locator("img")).to_have_attribute("src", re.compile("^blob:"))
    view.screenshot("store", tmp_path)
    clips.get_by_label("later clips in the list").click()
    expect(cards).to_have_count(6)
    cards.nth(5).click()
    name = (cards.nth(5).get_attribute("title") or "").split(",")[0]
    expect(cell.locator(".wb-title")).to_contain_text(name)
    drawn(cell.locator(".wb:not(.wb-clips)"))
    view.root.focus()
    notebook.keyboard.press("p")
    expect(cards.nth(4)).to_have_attribute("aria-selected", "true")
    clips.get_by_role("button", name="next clip (n)").click()
    expect(cards.nth(5)).to_have_attribute("aria-selected", "true")
    clips.get_by_role("button", name="previous clip (p)").click()
    expect(cards.nth(4)).to_have_attribute("aria-selected", "true")
    clips.get_by_role("button", name="next clip (n)").click()
    expect(cell.locator(".wb-title")).to_contain_text(name)
    explorer = View(notebook, cell.locator(".wb:not(.wb-clips)"), True, complaints)
    drawn(explorer.root)
    explorer.change(explorer.key("+", "+"), "overlay", "surfaces", "kept")
    clips.get_by_label("earlier clips in the list").click()
    expect(cards).to_have_count(24)
    clips.get_by_label("highest confidence in %").fill("0")
    expect(cards).to_have_count(0)
    clips.get_by_label("highest confidence in %").fill("100")
    expect(cards).to_have_count(24)
    picked, _, count = run_cell(notebook, NUMBER["kept"]).split()
    assert (picked, count) == (name, "30")
    run_cell(notebook, NUMBER["close store"])
    assert complaints == []


def test_four_side_by_side(notebook: Page, complaints: list[str], tmp_path: Path) -> None:
    view = shown(notebook, "many", complaints)
    assert view.find(".wb-panel:visible").count() == 4
    view.change(view.key("ArrowLeft"), "overlay", "picture")
    view.change(view.key("2"), "overlay", "surfaces")
    view.screenshot("four", tmp_path)
    assert complaints == []
