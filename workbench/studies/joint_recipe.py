"""How the TSN of Figure 3 is made: EPIC-Kitchens' verbs and nouns, learnt together.

`python -m workbench fine-tune epic-kitchens --network tsn/resnet50` runs this. As with MFNet
(`recipes`), the epoch is chosen on videos held out, and the test is read once, at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..clips.files import whole_file
from ..datasets.epic import epic_kitchens
from ..datasets.places import find_data
from ..datasets.table import Dataset
from ..models.pretrained import tsn_model
from ..models.video_model import VideoModel
from ..training.fine_tuning import fine_tune
from ..training.run_checkpoints import write_state

__all__ = ["action_accuracy", "nouns", "rank_actions", "save_tsn", "train_tsn", "two_headed_tsn"]

TSN_FILE = "tsn.pth"  # where Figure 3's notebook looks for it, in results/epic_kitchens


def nouns() -> Dataset:
    """Return the segments of EPIC-Kitchens-55 on the disk with their nouns as classes."""
    place = find_data("epic-kitchens")
    return epic_kitchens(place, release=55, subset="train", task="noun").present()


def two_headed_tsn(
    name: str, classes: Mapping[str, list[str]], checkpoint: str | Path | None = None
) -> VideoModel:
    """Return a TSN with a head for verbs and one for nouns, and verbs as its main output.

    Args:
        name: of its picture network, "tsn/resnet50".
        classes: the names of "verb" and "noun".
        checkpoint: a TSN's to start from; None: ImageNet weights, and new heads.
    """
    if checkpoint is None:
        heads = {output: len(names) for output, names in classes.items()}
        return tsn_model(name, classes=dict(classes), heads=heads, output="verb")
    return tsn_model(name, classes=dict(classes), checkpoint=checkpoint, output="verb")


def train_tsn(
    model: VideoModel,
    parts: tuple[Dataset, Dataset, Dataset],
    labels: Dataset,
    output: Path,
    *,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Fine-tune both heads of a network together, and write checkpoint and test results.

    The losses of verb and noun are added; an epoch is as good as its share of clips with both
    right. `tsn.pth` is in the layout published for EPIC-Kitchens-55; `actions.csv` has the test
    clips and `action_accuracy.csv` what is returned. An interrupted run resumes.

    Args:
        model: a network with the outputs "verb", its main one, and "noun".
        parts: verbs to learn from, to choose the epoch by, and to test on (`recipes.parts_of`).
        labels: the nouns of these segments (`nouns`).
        output: the folder. A run of its own goes into `tsn` there.
        progress: whether to show bars.
        options: what `fine_tune` takes.

    Returns:
        `action_accuracy` of the test.
    """
    train, validation, test = parts
    run = fine_tune(
        model,
        train,
        validation=validation,
        also={"noun": labels},
        output=output / "tsn",
        progress=progress,
        **options,
    )
    save_tsn(run.model, output / TSN_FILE, run.epoch)
    table = rank_actions(run.model, test, labels, progress=progress)
    result = action_accuracy(table)
    for name, content, index in (("actions", table, False), ("action_accuracy", result, True)):
        with whole_file(output / f"{name}.csv") as path:
            content.to_csv(path, index=index)
    return result


def rank_actions(
    model: VideoModel, data: Dataset, labels: Dataset, *, progress: bool = True
) -> pd.DataFrame:
    """Classify verb, noun and action of every segment, an action being a verb with a noun.

    The probability of an action is the product of those of its verb and its noun, as in
    EPIC-Kitchens' own evaluation.

    Returns:
        A DataFrame, a row per clip: clip, `verb`, `noun`, `predicted verb`, `predicted noun`, and
        the ranks of the clip's own, `verb rank`, `noun rank` and `action rank`, 1 if it is right.
    """
    rows = []
    for name in tqdm(data.index.index, desc=data.title, disable=not progress):
        clip = data.read(name, frames=model.input.frames, stride=model.input.stride)
        _, x = model.prepare(clip)
        outputs = model.run(x).outputs
        verbs, things = (outputs[output][0].float().softmax(0) for output in ("verb", "noun"))
        verb = int(data.index.loc[name, "class_id"])
        thing = int(labels.index.loc[name, "class_id"])
        rows.append(
            {
                "clip": name,
                "verb": data.classes[verb],
                "noun": labels.classes[thing],
                "predicted verb": data.classes[int(verbs.argmax())],
                "predicted noun": labels.classes[int(things.argmax())],
                "verb rank": _rank(verbs, verb),
                "noun rank": _rank(things, thing),
                "action rank": _rank(torch.outer(verbs, things), (verb, thing)),
            }
        )
    return pd.DataFrame(rows)


def action_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Return top-1 and top-5 accuracy of verb, noun and action of a `rank_actions` table."""
    ranks = table[["verb rank", "noun rank", "action rank"]]
    ranks = ranks.rename(columns=lambda name: name.removesuffix(" rank"))
    return pd.DataFrame({"top-1": (ranks == 1).mean(), "top-5": (ranks <= 5).mean()})


def save_tsn(model: VideoModel, path: Path, epoch: int = 0) -> None:
    """Write a TSN in the layout of the checkpoints published for EPIC-Kitchens-55."""
    state = {
        name.replace("backbone.", "base_model.", 1): value
        for name, value in model.network.state_dict().items()
    }
    content = {
        "model_type": "tsn",
        "arch": model.name.split(",")[0].removeprefix("tsn/"),
        "modality": "RGB",
        "segment_count": model.input.frames,
        "consensus_type": "avg",
        "epoch": epoch,
        "args": argparse.Namespace(),
        "state_dict": state,
    }
    write_state(path, content)


def _rank(probabilities: torch.Tensor, place: int | tuple[int, int]) -> int:
    return 1 + int((probabilities > probabilities[place]).sum())
