"""Shards: what is kept of one batch of clips, as a zarr group in one file that is written once.

A shard is an uncompressed zip file that holds a zarr 3 group (`zarr.open(ZipStore(path))` reads
it), with a subgroup for each size of clips in the batch. Zip stores a checksum of each entry, so
damage is found; its entries bear no date, so the same numbers give the same bytes.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import fsspec.asyn
import numpy as np
from PIL import Image
from zarr.api import asynchronous
from zarr.buffer.cpu import Buffer
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from ..clips.clip import Clip

__all__ = ["Kept", "damage", "pack", "read_kept", "read_parts", "thumbnails", "unpack_thumbnails"]

T = TypeVar("T")

THUMBNAIL = 48  # pixels: thumbnails are the frames shrunk as far as they stay this high and wide
PER_CLIP = ("maps", "class_weights", "thumbnails")  # large arrays: one chunk for each clip
# Maps of MFNet are as small as at zarr's default level, in less than half the time (measured).
COMPRESSION = ZstdCodec(level=1)


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of one clip.

    Attributes:
        name: of the clip.
        arrays: see `records.clip_arrays`.
        size: height and width of the frames that the network saw.
        thumbnails: the frames as one JPEG, below one another.
    """

    name: str
    arrays: dict[str, np.ndarray]
    size: tuple[int, int]
    thumbnails: bytes

    @property
    def signature(self) -> tuple[Any, ...]:
        """Clips that agree in this fit into one array."""
        kinds = ((key, value.shape, value.dtype) for key, value in self.arrays.items())
        return self.size, tuple(kinds)


def pack(batch: list[Kept]) -> tuple[bytes, list[tuple[int, int]]]:
    """Return a shard as the content of a file, and the address (part, row) of each clip in it."""
    by_signature: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, kept in enumerate(batch):
        by_signature[kept.signature].append(number)
    parts = [[batch[number] for number in numbers] for numbers in by_signature.values()]
    entries: dict[str, Any] = {}
    _at_once(_write_parts(MemoryStore(entries), parts))
    addresses = {
        number: (part, row)
        for part, numbers in enumerate(by_signature.values())
        for row, number in enumerate(numbers)
    }
    return _zipped(entries), [addresses[number] for number in range(len(batch))]


async def _write_parts(store: MemoryStore, parts: list[list[Kept]]) -> None:
    """Write a group for each part, with an array for each key of its clips."""
    root = await asynchronous.create_group(store=store)
    for part, clips in enumerate(parts):
        attributes = {"names": [kept.name for kept in clips], "size": clips[0].size}
        group = await root.create_group(str(part), attributes=attributes)
        arrays = {key: np.stack([kept.arrays[key] for kept in clips]) for key in clips[0].arrays}
        # JPEGs differ in length; zeros after the end of one do no harm.
        longest = max(len(kept.thumbnails) for kept in clips)
        padded = [kept.thumbnails.ljust(longest, b"\0") for kept in clips]
        pictures = np.frombuffer(b"".join(padded), np.uint8)
        arrays["thumbnails"] = pictures.reshape(len(clips), longest)
        for key, values in arrays.items():
            large = _alone(key)
            first = 1 if large else len(values)
            await group.create_array(
                key,
                data=values,
                chunks=(first, *values.shape[1:]),
                # Small arrays are not worth it, nor are JPEGs.
                compressors=COMPRESSION if large and key != "thumbnails" else None,
                # To look for chunks of zeros takes longer than to compress them.
                config={"write_empty_chunks": True},
            )


def _zipped(entries: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name), entries[name].to_bytes())
    return file.getvalue()


def read_kept(file: IO[bytes], part: int, row: int) -> Kept:
    """Read one clip of a shard; raises zipfile.BadZipFile or another error if it is damaged."""
    with zipfile.ZipFile(file) as archive:
        (kept,) = _read_part(archive, part, [row])
    return kept


def read_parts(file: IO[bytes]) -> list[Kept]:
    """Read all clips of a shard."""
    with zipfile.ZipFile(file) as archive:
        parts = sorted({name.split("/")[0] for name in archive.namelist()} - {"zarr.json"}, key=int)
        return [kept for part in parts for kept in _read_part(archive, int(part), None)]


def _read_part(archive: zipfile.ZipFile, part: int, rows: list[int] | None) -> list[Kept]:
    """Read some clips of a part, or all, and no large chunk of any other clip."""
    entries: dict[str, Any] = {}
    for name in archive.namelist():
        within, *below = name.split("/")
        if within != str(part):
            continue
        alone = _alone(below[0]) and below[1:2] == ["c"]
        if rows is None or not alone or int(below[2]) in rows:
            entries[name] = Buffer.from_bytes(archive.read(name))
    names, (height, width), arrays = _at_once(_read_arrays(MemoryStore(entries), str(part), rows))
    clips = []
    for place, row in enumerate(range(len(names)) if rows is None else rows):
        values = {key: array[place] for key, array in arrays.items()}
        pictures = values.pop("thumbnails").tobytes()
        clips.append(Kept(names[row], values, (height, width), pictures))
    return clips


async def _read_arrays(
    store: MemoryStore, part: str, rows: list[int] | None
) -> tuple[list[str], tuple[int, int], dict[str, np.ndarray]]:
    """Return the names of a part's clips, their size, and the arrays of some rows or of all."""
    group = await asynchronous.open_group(store, path=part, mode="r")
    attributes: Any = group.attrs
    opened = [pair async for pair in group.arrays()]
    wanted = slice(None) if rows is None else slice(rows[0], rows[0] + 1)
    values = [await array.getitem(wanted) for _, array in opened]
    arrays = {key: np.asarray(value) for (key, _), value in zip(opened, values)}
    return attributes["names"], attributes["size"], arrays


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine gives, by one call to the thread of fsspec's event loop.

    zarr's own interface makes such a call for each array, twice; where processors are busy, each
    waits for its turn.
    """

    async def run() -> T:
        return await work

    return fsspec.asyn.sync(fsspec.asyn.get_loop(), run)


def _alone(key: str) -> bool:
    """Return whether each clip has a chunk of its own in an array; see `records` for the keys."""
    return key.rsplit(".", 1)[-1].startswith(PER_CLIP)


def damage(file: IO[bytes]) -> str:
    """Return in words what is damaged in a shard's file; "" if nothing is."""
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error, NotImplementedError) as error:
        return f"is no readable zip file ({error})"
    return "" if bad is None else f"is damaged in {bad}"


def thumbnails(clip: Clip) -> bytes:
    """Return the frames of a clip, shrunk, as one JPEG below one another."""
    height, width = clip.size
    factor = max(1, min(height, width) // THUMBNAIL)
    frames = clip.frames[:, : height // factor * factor, : width // factor * factor]
    column = Image.fromarray(np.ascontiguousarray(frames).reshape(-1, frames.shape[2], 3))
    file = io.BytesIO()
    # No subsampling of colour: it would mix the frames at their seams.
    column.reduce(factor).save(file, "JPEG", quality=80, subsampling=0)
    return file.getvalue()


def unpack_thumbnails(content: bytes, count: int) -> np.ndarray:
    """Return (T, h, w, 3) uint8: the pictures of `count` frames."""
    column = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    return column.reshape(count, -1, column.shape[1], 3)
