"""The store: explanations of many clips in a folder, to be read without network or video."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any

import numpy as np
import pandas as pd

from ..clips.clip import Clip
from ..models.input_spec import InputSpec
from ..saliency.explanation import Explanation
from . import patterns
from .folders import Folder
from .index_files import SHARDS, Index
from .records import Heads, Output, heads_from_file, rebuilt
from .shards import Kept, damage, read_kept, read_parts, unpack_thumbnails

__all__ = ["FACTS", "FORMAT", "HEAD", "Store", "StoreError", "open_store"]

FACTS = "store.json"
HEAD = "head.npz"
FORMAT = 2
LONG = 40  # characters of a fact in a message
REMEDY = "store.verify() lists all damage, and the same wb.sweep repairs it"


class StoreError(ValueError):
    """A store that is damaged, or belongs to another model; the message says what to do."""


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open what `wb.sweep` made, even while it is being made.

    Args:
        path: the folder, or an address that fsspec knows: s3://bucket/store.

    Raises:
        FileNotFoundError: there is no store.
        StoreError: it was written by another version of the workbench, or is damaged.
    """
    folder = Folder.at(path)
    try:
        facts = json.loads(folder.read(FACTS))
    except FileNotFoundError:
        remedy = "wb.sweep(data, model, path) makes one"
        raise FileNotFoundError(f"no store at {folder}: {remedy}") from None
    except ValueError as error:
        raise StoreError(
            f"{folder}/{FACTS} is damaged: {error}. Restore it, or sweep anew"
        ) from error
    if (found := facts.get("format")) != FORMAT:
        older = isinstance(found, int) and found < FORMAT
        remedy = "sweep anew into another folder" if older else "upgrade the workbench"
        raise StoreError(f"{folder} has format {found}, expected {FORMAT}: {remedy}")
    return Store(folder, facts)


class Store:
    """Explanations of a data set's clips by one model.

    `store[name]` is a clip's `Explanation`, `store.index` a DataFrame with a row for each clip, and
    `store.facts` says what made them, `store.outputs` which outputs the network has. Nothing here
    writes but `merge`; readers need no lock.
    """

    def __init__(self, folder: Folder, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self.outputs = {each["name"]: Output(**each) for each in facts["outputs"]}
        self._index = Index(folder, [name for name in self.outputs if name != facts["output"]])

    @property
    def output(self) -> Output:
        """What holds of the network's main output for every clip."""
        return self.outputs[self.facts["output"]]

    @property
    def index(self) -> pd.DataFrame:
        """A row for each clip, by name; it grows while a sweep is running.

        Columns: status ("ok" or "failed"), error, label, prediction, probability, correct (NaN
        without a label), class_2, probability_2, … (the next classes), prediction_<output> and
        probability_<output> for each output beside the main one, start and stop (times of the
        first and last frame, seconds), residual (of the proof; NaN for gradients), centre and focus
        (see `patterns`), and the address: shard, part, row, bytes (of the shard).
        """
        return self._index.frame()

    @property
    def names(self) -> list[str]:
        """The names of the clips that were explained."""
        index = self.index
        return index.index[index["status"] == "ok"].tolist()

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return self.output.classes

    @property
    def input(self) -> InputSpec:
        """How the model took its clips."""
        values = self.facts["determines"]["input"]
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return InputSpec(**(values | lists))

    def __len__(self) -> int:
        """Return how many clips were explained."""
        return int((self.index["status"] == "ok").sum())

    def __contains__(self, name: object) -> bool:
        """Return whether a clip of this name was explained."""
        return bool(name in self.index.index and self.index.at[name, "status"] == "ok")

    def __getitem__(self, name: str) -> Explanation:
        """Return the explanation of a clip, see `explanation`."""
        return self.explanation(name)

    def explanation(self, name: str, clip: Clip | None = None) -> Explanation:
        """Return the explanation of a clip, without network or video.

        Args:
            name: of the clip.
            clip: the clip itself, `data[name]`, so that overlays show it. None: its frames are the
                stored thumbnails, enlarged to the size that the network saw.

        Raises:
            KeyError: no clip of that name.
            StoreError: the clip failed, or its shard is missing or damaged.
            ValueError: the clip is not the one that was explained.
        """
        kept = self.read(name)
        row = self._index.row(name)
        seen = _thumbnail_clip(kept, row["label"])
        if clip is not None:
            viewed = self.input.view(clip)
            if viewed.size != kept.size or not np.array_equal(viewed.times, seen.times):
                raise ValueError(
                    f"expected the frames that were explained as {name!r}, from "
                    f"{seen.times[0]:.2f} to {seen.times[-1]:.2f} s, got {clip}. Read them as the "
                    f"network does: frames={self.input.frames}, stride={self.input.stride}"
                )
            seen = viewed
        main, model = self.facts["output"], self.facts["model"]
        return rebuilt(kept.arrays, self.outputs, self.heads, main=main, clip=seen, model=model)

    def read(self, name: str) -> Kept:
        """Return what is kept of a clip, as it is stored; raises as `explanation` does."""
        row = self._index.row(name)
        if row["status"] != "ok":
            raise StoreError(f"{name} could not be explained: {row['error']}")
        with self._shard(row["shard"], name) as file:
            kept = read_kept(file, int(row["part"]), int(row["row"]))
        if kept.name != name:
            where = f"{self.folder}/{shard_file(row['shard'])}"
            raise StoreError(f"{where} holds {kept.name!r} in place of {name!r}: {REMEDY}")
        return kept

    def read_all(self, names: Iterable[str]) -> Iterator[Kept]:
        """Read what is kept of several clips, each shard once, in the order of the shards."""
        wanted = set(names)
        rows = self.index
        shards = rows.loc[rows.index.isin(wanted) & (rows["status"] == "ok"), "shard"]
        for shard in shards.drop_duplicates().sort_values():
            with self._shard(shard, "the clips") as file:
                clips = read_parts(file)
            # A clip that was made anew is in two shards; the index says in which one it counts.
            yield from (kept for kept in clips if shards.get(kept.name) == shard)

    @contextmanager
    def _shard(self, shard: str, what: str) -> Iterator[IO[bytes]]:
        """Open a shard for reading; say what is wrong with it if it cannot be read."""
        path = f"{self.folder}/{shard_file(shard)}"
        try:
            with self.folder.open(shard_file(shard)) as file:
                yield file
        except FileNotFoundError:
            raise StoreError(f"{path} with {what} is missing: {REMEDY}") from None
        except Exception as error:  # zip, zarr and its codecs each have errors of their own
            raise StoreError(f"{path} with {what} is damaged: {error}. {REMEDY}") from error

    def verify(self) -> pd.DataFrame:
        """Read every file once and return what is wrong: columns shard, problem, clips.

        An empty table means that nothing is missing or damaged. Files that no index lists, of a
        sweep that was interrupted, are not damage.
        """
        problems = {
            name: f"its index is damaged: {error}"
            for name, error in self._index.unreadable().items()
        }
        # A rerun may have changed rows, so the index is read anew.
        rows = Index(self.folder).frame()
        explained = rows[rows["status"] == "ok"]
        clips = explained.groupby("shard").size()
        sizes = explained.groupby("shard")["bytes"].first()

        def check(shard: str) -> str:
            try:
                with self.folder.open(shard_file(shard)) as file:
                    if file.seek(0, io.SEEK_END) != sizes[shard]:
                        return f"has {file.tell()} bytes, expected {sizes[shard]}"
                    return damage(file)
            except FileNotFoundError:
                return "is missing"

        with ThreadPoolExecutor(8) as pool:
            for shard, problem in zip(sizes.index, pool.map(check, sizes.index)):
                if problem:
                    problems[shard] = problem
        table = [
            (shard, problem, int(clips.get(shard, 0)))
            for shard, problem in sorted(problems.items())
        ]
        return pd.DataFrame(table, columns=["shard", "problem", "clips"])

    def merge(self, other: str | os.PathLike[str] | Store) -> None:
        """Copy the clips of another store by the same model into this one.

        A shard that is in both is copied once. Clips that are in both count once.

        Raises:
            StoreError: the other store is by another model, input spec or precision.
        """
        source = other if isinstance(other, Store) else open_store(other)
        check_same(source.facts["determines"], self.facts["determines"], str(source.folder))
        present = self._index.shards()
        for shard in sorted(source._index.shards() - present):
            content = source.folder
            if content.exists(shard_file(shard)):
                self.folder.write(shard_file(shard), content.read(shard_file(shard)))
            index_file = f"{SHARDS}/{shard}.parquet"
            self.folder.write(index_file, content.read(index_file))
        self._index.gather()

    def maps(self) -> pd.DataFrame:
        """Return for each clip the tube of its predicted class before upsampling.

        Columns: grid (T', H', W') and map, its values in half precision in one row.
        """
        return self._index.maps()

    def profiles(self, by: str = "label", points: int = 16) -> pd.DataFrame:
        """Return mean temporal profiles, a row for each class; see `patterns.profiles`."""
        return patterns.profiles(self._joined(), by, points)

    def spatial_maps(self, by: str = "label") -> dict[Any, np.ndarray]:
        """Return mean spatial maps (H', W') by class; see `patterns.spatial_maps`."""
        return patterns.spatial_maps(self._joined(), by)

    def nearest(self, name: str, count: int = 10) -> pd.DataFrame:
        """Return the clips whose tubes are most similar; see `patterns.nearest`."""
        found = patterns.nearest(self.maps(), name, count)
        return found.join(self.index[["label", "prediction", "probability"]])

    def _joined(self) -> pd.DataFrame:
        return self.maps().join(self.index)

    @cached_property
    def heads(self) -> Heads:
        """The linear heads, by the name of their output; none if weights are from gradients."""
        if not any(output.exact for output in self.outputs.values()):
            return {}
        try:
            return heads_from_file(self.folder.read(HEAD))
        except (FileNotFoundError, ValueError) as error:
            where = f"{self.folder}/{HEAD}, the head's weights,"
            remedy = "The same wb.sweep writes it again"
            raise StoreError(f"{where} is missing or damaged: {error}. {remedy}") from error

    def __repr__(self) -> str:
        index = self.index
        failed = int((index["status"] != "ok").sum())
        return (
            f"<Store {self.folder}: {len(index) - failed} clips explained "
            f"by {self.facts['model']}, {failed} failed>"
        )


def shard_file(shard: str) -> str:
    """Return the path of a shard within the store."""
    return f"{SHARDS}/{shard}.zip"


def check_same(expected: dict[str, Any], found: dict[str, Any], where: str) -> None:
    """Raise StoreError unless two stores, or a model and a store, give the same numbers."""
    differing = _differing(expected, found)
    if differing:
        raise StoreError(
            f"{where} was made by another model or with other settings: {'; '.join(differing)}. "
            "Choose another folder"
        )


def _differing(there: dict[str, Any], here: dict[str, Any], within: str = "") -> list[str]:
    """Return in words what differs between two dicts of facts."""
    lines = []
    for key, value in there.items():
        other = here.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            lines += _differing(value, other, f"{key} ")
        elif value != other:
            lines.append(f"{within}{key} is {_shortened(value)} there, {_shortened(other)} here")
    return lines


def _shortened(fact: Any) -> str:
    """Return a fact as text; of a long one, such as the hash of a network, the beginning."""
    text = str(fact)
    return text if len(text) <= LONG else f"{text[:12]}…"


def _thumbnail_clip(kept: Kept, label: str | None) -> Clip:
    """Return the thumbnails as a clip of the size that the network saw."""
    times = kept.arrays["times"]
    small = Clip(
        unpack_thumbnails(kept.thumbnails, len(times)),
        float(kept.arrays["fps"]),
        times,
        kept.arrays["indices"],
        label=label if isinstance(label, str) else None,
        name=kept.name,
    )
    return small.resize(*kept.size)
