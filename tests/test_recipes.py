"""The recipe of the figures' checkpoints: held-out scenes, windows over a segment, top-1 and top-5."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from videos import read_numbers, write_video

import workbench as wb
from workbench import __main__ as command
from workbench.datasets import places
from workbench.models.tsn_checkpoints import read_tsn_checkpoint
from workbench.studies import joint_recipe, recipes


def ucf_like(groups: dict[str, list[int]]) -> wb.Dataset:
    rows = [(name, group) for name, numbers in groups.items() for group in numbers]
    index = pd.DataFrame(rows, columns=["class", "group"])
    index["class_id"] = pd.factorize(index["class"])[0]
    index.index = pd.Index([f"v{number}" for number in range(len(rows))])
    return wb.Dataset(index, list(groups), lambda row, frames, stride: None, "made up")


def test_no_scene_is_on_both_sides() -> None:
    data = ucf_like({"a": [1, 1, 2, 2, 3], "b": [1, 2, 2, 4, 5]})
    train, held = recipes.hold_out(data, 0.2)
    pairs = [set(zip(part.index["class"], part.index["group"])) for part in (train, held)]
    assert not pairs[0] & pairs[1]
    assert {name for name, _ in pairs[1]} == {"a", "b"}
    assert len(train) + len(held) == len(data)


def test_a_class_of_one_scene_stays_to_be_learned() -> None:
    train, held = recipes.hold_out(ucf_like({"a": [1, 1], "b": [1, 2]}))
    assert set(train.index["class"]) == {"a", "b"}
    assert set(held.index["class"]) == {"b"}
    with pytest.raises(ValueError, match="cannot be split"):
        recipes.hold_out(ucf_like({"a": [1, 1]}))


def test_whole_videos_are_held_out_of_epic_kitchens() -> None:
    data = wb.figures.labelled("epic")
    train, held = recipes.hold_out(data, 0.4)
    assert not set(train.index["video"]) & set(held.index["video"])
    assert len(held) == 3  # one video of three has 3 of 9 segments


@pytest.fixture
def numbered(tmp_path: Path) -> wb.Dataset:
    """A segment from frame 10 to 59 of a video that shows its frame numbers."""
    path = write_video(tmp_path / "numbers.mp4", 80)
    index = pd.DataFrame(
        {"class": ["a"], "class_id": [0], "start": [0.4], "stop": [2.4]}, index=["one"]
    )

    def read(row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
        return wb.read_clip(path, frames, stride, row["start"], row["stop"])

    return wb.Dataset(index, ["a"], read)


def test_windows_are_spread_over_the_segment(numbered: wb.Dataset) -> None:
    spec = wb.InputSpec(frames=8, stride=2, resize=(32, 32))
    model = wb.wrap_model(torch.nn.Identity(), input=spec)
    clips = list(recipes.windows(numbered, "one", model, 3))
    shown = [read_numbers(clip.frames)[[0, -1]].tolist() for clip in clips]
    assert shown == [[10, 24], [27, 41], [45, 59]]
    whole = replace(model, input=replace(spec, stride=None))
    assert len(list(recipes.windows(numbered, "one", whole, 3))) == 1


def test_probabilities_are_averaged_over_the_windows(
    numbered: wb.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = wb.InputSpec(frames=8, stride=2, resize=(32, 32))
    model = wb.wrap_model(torch.nn.Identity(), input=spec, classes=["a", "b", "c"])
    shares = iter([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    monkeypatch.setattr(type(model), "logits", lambda self, clip: torch.tensor(next(shares)).log())
    row = recipes.multi_clip(model, numbered, 3, progress=False).iloc[0]
    assert row["predicted"] == "b"
    assert row["probability"] == pytest.approx((0.8 + 0.3 + 0.3) / 3)
    assert row["rank"] == 2


def test_top_1_top_5_and_confusion() -> None:
    table = pd.DataFrame({"class": list("aabb"), "predicted": list("aabc"), "rank": [1, 1, 1, 6]})
    assert recipes.accuracy(table).to_dict() == {"clips": 4, "top-1": 0.75, "top-5": 0.75}
    counts = recipes.confusion(table)
    assert counts.loc["a"].tolist() == [2, 0, 0]
    assert counts.loc["b"].tolist() == [0, 1, 1]


@pytest.mark.parametrize("source", ["ucf101", "epic-kitchens"])
def test_clips_to_learn_from_to_choose_by_and_to_test_on_are_apart(source: str) -> None:
    names = [set(part.index.index) for part in recipes.parts_of(source)]
    assert all(names)
    assert len(set.union(*names)) == sum(map(len, names))


def test_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fine-tune", "ucf101", "--checkpoint", str(tmp_path / "kinetics.pth")]
    monkeypatch.setattr(places, "DATA", wb.samples.FOLDER.parent)
    monkeypatch.delenv("WORKBENCH_UCF101", raising=False)
    assert command.main(arguments) == 1
    assert "no ucf101 here" in capsys.readouterr().err
    monkeypatch.setenv("WORKBENCH_UCF101", str(wb.samples.FOLDER / "ucf101"))
    assert command.main(arguments) == 1
    assert "kinetics.pth" in capsys.readouterr().err


def test_the_recipe_writes_a_checkpoint_in_the_published_layout(tmp_path: Path) -> None:
    place = wb.samples.FOLDER / "ucf101"
    train, test = (wb.ucf101(place, split=1, subset=subset) for subset in ("train", "test"))
    some = train.subset(train.index["class"].isin(["Lift", "Stir"]))
    model = wb.load_model("samples/mfnet", device="cpu")
    parts = (*recipes.hold_out(some), test.subset(test.index.index[:2]))
    result = recipes.train_and_test(
        model, parts, tmp_path, epochs=1, batch=2, workers=0, progress=False
    )
    assert result["clips"] == 2
    content = torch.load(tmp_path / "mfnet3d.pth", weights_only=True)
    assert content.keys() == {"epoch", "state_dict", "optimizer"}
    assert len(content["state_dict"]["module.classifier.weight"]) == len(train.classes)
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written["clip"].tolist() == test.index.index[:2].tolist()
    assert np.isfinite(written["probability"]).all()


VERBS, NOUNS = ("dim", "brighten"), ("pear", "plum")
COLOURS = {"pear": (200, 220, 40), "plum": (150, 30, 160)}


def read_colour(row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
    """Return a plain picture of the noun's colour, dark or bright by the verb."""
    colour = np.array(COLOURS[row["noun"]]) * (0.3 if row["verb"] == "dim" else 1)
    noise = np.random.default_rng(row["number"]).integers(0, 20, (4, 40, 40, 3))
    return wb.Clip((colour + noise).clip(0, 255).astype(np.uint8)[: frames or 4], 25.0)


def coloured(task: str) -> wb.Dataset:
    """Return twelve clips, every verb with every noun, with one of the two as classes."""
    classes = {"verb": VERBS, "noun": NOUNS}[task]
    both = [(verb, noun) for verb in VERBS for noun in NOUNS] * 3
    index = pd.DataFrame(both, columns=["verb", "noun"])
    index["class"] = index[task]
    index["class_id"] = [classes.index(name) for name in index["class"]]
    index = index.assign(number=range(12), start=0.0, stop=0.16, duration=0.16)
    index.index = pd.Index([f"clip{number}" for number in range(12)])
    return wb.Dataset(index, list(classes), read_colour, f"{task}s")


def small_backbone() -> torch.nn.Module:
    """Return a picture network that tells colours, (B, 3, H, W) to features (B, 16)."""
    torch.manual_seed(0)
    pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), *pool)


@pytest.fixture(scope="module")
def two_headed() -> tuple[wb.VideoModel, wb.Dataset, wb.Dataset]:
    """Return a small TSN for two verbs and two nouns, and clips with these labels."""
    verbs, nouns = coloured("verb"), coloured("noun")
    network = wb.TSN(small_backbone(), segments=4, heads={"verb": 2, "noun": 2})
    classes = {"verb": verbs.classes, "noun": nouns.classes}
    spec = wb.InputSpec(frames=4, resize=(32, 32))
    return wb.wrap_model(network, spec, classes, name="tsn/small", output="verb"), verbs, nouns


def test_verb_and_noun_are_learnt_together(two_headed, tmp_path: Path) -> None:
    """One run teaches each head its own labels, and the file that it writes loads again."""
    model, verbs, nouns = two_headed
    parts = tuple(
        verbs.subset(verbs.index.index[part]) for part in (slice(8), slice(8), slice(8, 12))
    )
    result = joint_recipe.train_tsn(
        model, parts, nouns, tmp_path,
        epochs=40, batch=4, rate=3e-2, workers=0, progress=False, flip=False,
    )  # fmt: skip
    assert result.index.tolist() == ["verb", "noun", "action"]
    assert (result["top-1"] == 1).all()
    layout = read_tsn_checkpoint(tmp_path / "tsn.pth")
    assert layout.heads == {"verb": 2, "noun": 2}
    assert layout.input["frames"] == 4
    again = wb.TSN(small_backbone(), segments=4, heads=layout.heads)
    again.load_state_dict(layout.state)
    loaded = replace(model, module=again.eval())
    table = joint_recipe.rank_actions(loaded, parts[2], nouns, progress=False)
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / "actions.csv"))
    assert table["predicted noun"].tolist() == ["pear", "plum"] * 2
    assert table["predicted verb"].tolist() == ["dim", "dim", "brighten", "brighten"]


def test_the_tuned_network_keeps_both_outputs_and_their_names(two_headed) -> None:
    model, verbs, nouns = two_headed
    more = replace(verbs, classes=[*verbs.classes, "pour"])
    part = more.subset(more.index.index[:3])
    run = wb.fine_tune(
        model, part, also={"noun": nouns}, epochs=1, batch=3, workers=0, progress=False, flip=False
    )
    ex = wb.explain(run.model, part[0])
    assert ex.output == "verb"
    assert ex.classes == more.classes
    assert ex.select("noun").classes == nouns.classes
    assert ex.exact
    assert ex.select("noun").exact
    assert run.model.network.heads == {"verb": 3, "noun": 2}
    with pytest.raises(KeyError, match="verb, noun, got colour"):
        wb.fine_tune(model, part, also={"colour": nouns}, epochs=1, workers=0)
    with pytest.raises(ValueError, match="no label for 'noun'"):
        wb.fine_tune(
            model, part, also={"noun": nouns.subset(nouns.index.index[5:])}, epochs=1, workers=0
        )


def test_the_loss_is_the_sum_of_both_heads(two_headed) -> None:
    """Before it has learnt anything, a clip costs ln 2 for its verb and ln 2 for its noun."""
    model, verbs, nouns = two_headed
    part = verbs.subset(verbs.index.index[:4])
    flat = replace(model, module=copy.deepcopy(model.network))
    for head in (flat.module.fc_verb, flat.module.fc_noun):
        torch.nn.init.constant_(head.weight, 1e-5)
        torch.nn.init.zeros_(head.bias)
    options = {"epochs": 1, "batch": 4, "workers": 0, "progress": False, "flip": False}
    alone = wb.fine_tune(flat, part, **options)
    both = wb.fine_tune(flat, part, also={"noun": nouns}, **options)
    assert alone.curve["loss"].iloc[0] == pytest.approx(np.log(2), rel=1e-3)
    assert both.curve["loss"].iloc[0] == pytest.approx(2 * np.log(2), rel=1e-3)
    assert alone.model.output == "verb"


def test_an_action_ranks_by_the_product_of_verb_and_noun() -> None:
    table = pd.DataFrame({"verb rank": [1, 1, 6], "noun rank": [1, 2, 1], "action rank": [1, 4, 9]})
    result = joint_recipe.action_accuracy(table)
    assert result["top-1"].tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert result["top-5"].tolist() == pytest.approx([2 / 3, 1, 2 / 3])
    verbs, things = torch.tensor([0.6, 0.4]), torch.tensor([0.3, 0.7])
    assert joint_recipe._rank(torch.outer(verbs, things), (1, 1)) == 2  # .28, after .42


def test_the_command_says_which_network_learns_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKBENCH_UCF101", str(wb.samples.FOLDER / "ucf101"))
    assert command.main(["fine-tune", "ucf101", "--network", "tsn/resnet50"]) == 1
    assert "verbs and nouns are epic-kitchens'" in capsys.readouterr().err
    assert command.main(["fine-tune", "ucf101"]) == 1
    assert "starts from a checkpoint" in capsys.readouterr().err
