"""MP4 index: the packets of an MP4 or MOV file, from its index alone.

A listing by reading every packet reads the whole file, which for an hour of video can be gigabytes.
FFmpeg's MP4 demuxer makes its packets from an index, and shows that index, but not the offsets from
decoding to presentation time (box `ctts`, ISO/IEC 14496-12, 8.6.1.3). These are read here. Where
something does not add up, all packets are read instead.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["PACKET", "indexed_packets"]

# A packet. The times are in the stream's unit; NO_TIME if the container gives none.
PACKET = np.dtype(
    [
        ("pts", np.int64),
        ("dts", np.int64),
        ("duration", np.int64),
        ("key", bool),
        ("hidden", bool),
        ("position", np.int64),
        ("size", np.int64),
        ("suspect", bool),
    ]
)
_COMPARED = ["pts", "dts", "hidden", "position", "size"]
_HEAD = 32  # packets from the start that are compared with the index

Span = tuple[int, int]  # where the content of a box begins and ends in the file


def indexed_packets(path: Path, container: Any, stream: Any) -> np.ndarray | None:
    """Return the packets (P,) of type `PACKET` of an MP4 file, or None if its index is in doubt.

    The first packets and those from the last key frame on are read and compared. The container
    stands anywhere afterwards. Raises av.FFmpegError if packets cannot be read.
    """
    entries = stream.index_entries
    # Edit lists can add entries, and fragments follow later.
    if not 0 < stream.frames == len(entries):
        return None
    offsets = _composition_offsets(path, stream.id, len(entries))
    if offsets is None:
        return None
    columns = ["dts", "key", "hidden", "position", "size"]
    rows = [(e.timestamp, e.is_keyframe, e.is_discard, e.pos, e.size) for e in entries]
    table = np.array(rows, dtype=np.int64)
    packets = np.zeros(len(entries), dtype=PACKET)
    for name, column in zip(columns, table.T):
        packets[name] = column
    packets["pts"] = packets["dts"] + offsets
    ends = packets["position"] + packets["size"]
    keys = np.flatnonzero(packets["key"])
    if not len(keys) or (packets["size"] <= 0).any() or ends.max() > path.stat().st_size:
        return None
    # The first packets, then those from the last key frame on.
    head = islice(container.demux(stream), _HEAD)
    if _confirmed(packets, 0, head) != min(_HEAD, len(packets)):
        return None
    container.seek(int(packets["pts"][keys[-1]]), stream=stream)
    tail = container.demux(stream)
    return packets if _confirmed(packets, int(keys[-1]), tail) == len(packets) else None


def _confirmed(listed: np.ndarray, place: int, read: Iterator[Any]) -> int:
    """Compare packets with those listed from a place on, and note their durations there.

    Returns the place after the last one that agrees, or -1 if one does not.
    """
    for packet in read:
        if not packet.size:
            continue
        if place == len(listed) or packet.is_corrupt:
            return -1
        found = (packet.pts, packet.dts, packet.is_discard, packet.pos, packet.size)
        if found != listed[_COMPARED][place].item():
            return -1
        listed["duration"][place] = packet.duration or 0
        place += 1
    return place


def _composition_offsets(path: Path, track: int, count: int) -> np.ndarray | None:
    """Return presentation less decoding time of each of `count` packets, or None if unknown."""
    with path.open("rb") as file:
        whole = (0, path.stat().st_size)
        for span in _inside(file, whole, b"moov", b"trak"):
            header = _content(file, next(_inside(file, span, b"tkhd"), (0, 0)))
            # Its first byte is a version: times before the number take 4 bytes or 8.
            begin = 20 if header[:1] == b"\x01" else 12
            if int.from_bytes(header[begin : begin + 4], "big") != track:
                continue
            table = next(_inside(file, span, b"mdia", b"minf", b"stbl", b"ctts"), None)
            if table is None:
                return np.zeros(count, dtype=np.int64)
            # Version and number of runs, then for each run how many packets have which offset.
            begin, end = table
            content = _content(file, (begin + 8, min(end, begin + 8 + 8 * count)))
            runs = np.frombuffer(content[: len(content) // 8 * 8], dtype=">i4").reshape(-1, 2)
            if (runs < 0).any() or runs[:, 0].sum() != count:
                return None
            return np.repeat(runs[:, 1].astype(np.int64), runs[:, 0])
    return None


def _inside(file: BinaryIO, span: Span, kind: bytes, *deeper: bytes) -> Iterator[Span]:
    """Yield the contents of boxes of a kind inside a span, or of boxes deeper inside those."""
    place, end = span
    while place + 8 <= end:
        file.seek(place)
        size, found, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        begin = place + 8
        if size == 1:  # the size has 64 bits
            size = large
            begin = place + 16
        stop = place + size if size else end
        if not begin <= stop <= end:
            return
        if found == kind and deeper:
            yield from _inside(file, (begin, stop), *deeper)
        elif found == kind:
            yield begin, stop
        place = stop


def _content(file: BinaryIO, span: Span) -> bytes:
    file.seek(span[0])
    return file.read(span[1] - span[0])
