"""The index: one row for each clip, in Parquet files that are each written once by one writer.

Beside each shard lies its own index file, written after it: only then does the shard count.
`index.parquet` in the store's root repeats rows of many of them, so that a large store opens
quickly; it holds nothing that is not in those files, and may be deleted.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .folders import Folder

__all__ = ["MAP_COLUMNS", "SCHEMA", "SHARDS", "TOP", "Index", "shard_rows"]

SHARDS = "shards"
GATHERED = "index.parquet"
TOP = 5  # classes whose probabilities are in the index
MAP_COLUMNS = ("grid", "map")  # large: read only when asked for
OTHER_COLUMNS = ("other_predictions", "other_probabilities")  # of outputs beside the main one

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("label", pa.string()),
        ("prediction", pa.string()),
        ("probability", pa.float32()),
        ("correct", pa.bool_()),
        *[
            field
            for number in range(2, TOP + 1)
            for field in ((f"class_{number}", pa.string()), (f"probability_{number}", pa.float32()))
        ],
        ("other_predictions", pa.list_(pa.string())),
        ("other_probabilities", pa.list_(pa.float32())),
        ("start", pa.float64()),
        ("stop", pa.float64()),
        ("residual", pa.float32()),
        ("centre", pa.float32()),
        ("focus", pa.float32()),
        ("grid", pa.list_(pa.int32())),
        ("map", pa.list_(pa.float16())),
        ("shard", pa.string()),
        ("part", pa.int32()),
        ("row", pa.int32()),
        ("bytes", pa.int64()),
    ]
)
SCALARS = [name for name in SCHEMA.names if name not in (*MAP_COLUMNS, *OTHER_COLUMNS)]


def shard_rows(rows: list[dict[str, Any]]) -> bytes:
    """Return the content of a shard's index file."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
    return sink.getvalue()


class Index:
    """The index files of a store's folder; `others` are the network's outputs but the main one."""

    def __init__(self, folder: Folder, others: Sequence[str] = ()) -> None:
        self.folder = folder
        self.others = others
        self._names: set[str] | None = None
        self._table: pd.DataFrame | None = None

    def shards(self) -> set[str]:
        """Return the names of the shards that have an index file."""
        listed = self.folder.names(SHARDS)
        ends = ".parquet"
        return {
            name.removesuffix(ends)
            for name in listed
            if name.endswith(ends) and not name.startswith(".")
        }

    def frame(self) -> pd.DataFrame:
        """Return a row for each clip, by name; it is read anew if there are new shards."""
        names = self.shards()
        if self._table is None or names != self._names:
            columns = [*SCALARS, *(OTHER_COLUMNS if self.others else ())]
            rows = self._rows(names, columns)
            self._table = _latest(_with_others(rows, self.others).to_pandas())
            self._names = names
        return self._table

    def row(self, name: str) -> Any:
        """Return a clip's row; the index is read anew only if the clip is not known as explained.

        Raises:
            KeyError: no clip of that name.
        """
        known = self._table
        if known is None or name not in known.index or known.at[name, "status"] != "ok":
            known = self.frame()
        if name not in known.index:
            raise KeyError(f"no clip {name!r} among the {len(known)} of {self.folder}")
        return known.loc[name]

    def maps(self) -> pd.DataFrame:
        """Return the columns `grid` and `map` of each explained clip, by name."""
        columns = ["name", "status", "shard", *MAP_COLUMNS]
        table = self._rows(self.shards(), columns)
        table = table.filter(pc.equal(table["status"], "ok"))
        frame = table.select(["name", *MAP_COLUMNS]).to_pandas().set_index("name")
        return frame[~frame.index.duplicated(keep="last")]

    def unreadable(self) -> dict[str, str]:
        """Return the shards whose index file is damaged, each with what is wrong."""
        found = {}
        for name in self.shards():
            try:
                self._read(f"{SHARDS}/{name}.parquet", SCALARS)
            except (pa.ArrowException, OSError) as error:
                found[name] = str(error)
        return found

    def failures(self, shard: str) -> int | None:
        """Return how many clips of a shard failed; None if it has no index file yet."""
        try:
            status = self._read(f"{SHARDS}/{shard}.parquet", ["status"])["status"]
        except FileNotFoundError:
            return None
        return len(status) - status.to_pylist().count("ok")

    def gather(self, leave: Iterable[str] = ()) -> None:
        """Write the rows of all shards into one file, but for those of some that will change."""
        table = self._rows(self.shards() - set(leave), SCHEMA.names)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        self.folder.write(GATHERED, sink.getvalue())

    def _rows(self, names: set[str], columns: list[str]) -> pa.Table:
        """Return the rows of these shards, in order."""
        gathered = SCHEMA.empty_table().select(columns)
        if self.folder.exists(GATHERED):
            # A damaged file does no harm: it only repeats what is read below.
            with suppress(pa.ArrowException, OSError):
                gathered = self._read(GATHERED, columns)
        seen = set(pc.unique(gathered["shard"]).to_pylist())
        if not seen <= names:
            kept = pa.array(sorted(names), pa.string())
            gathered = gathered.filter(pc.is_in(gathered["shard"], kept))
        loose = sorted(names - seen)
        tables = [gathered]
        with ThreadPoolExecutor(8) as pool:
            tables += pool.map(lambda name: self._shard_table(name, columns), loose)
        table = pa.concat_tables(tables)
        return table.sort_by("shard") if loose else table

    def _shard_table(self, name: str, columns: list[str]) -> pa.Table:
        """Return the rows of one shard; none if its file is damaged: its clips are then missing."""
        try:
            return self._read(f"{SHARDS}/{name}.parquet", columns)
        except (pa.ArrowException, OSError):
            return SCHEMA.empty_table().select(columns)

    def _read(self, name: str, columns: list[str]) -> pa.Table:
        with self.folder.open(name) as file:
            table = pq.read_table(file, columns=columns)
        return table.cast(pa.schema([SCHEMA.field(column) for column in table.schema.names]))


def _with_others(rows: pa.Table, others: Sequence[str]) -> pa.Table:
    """Return a table with two columns for each output beside the main one, in place of lists."""
    for place, output in enumerate(others):
        for what in ("prediction", "probability"):
            lists = rows["other_predictions" if what == "prediction" else "other_probabilities"]
            rows = rows.append_column(f"{what}_{output}", pc.list_element(lists, place))
    return rows.drop_columns(list(OTHER_COLUMNS)) if others else rows


def _latest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each name: a success before a failure, then the last one."""
    names = rows["name"]
    if names.is_unique:
        return rows.set_index("name")
    ok = (rows["status"] == "ok").to_numpy()
    order = np.argsort(ok, kind="stable")
    last = rows.iloc[order].drop_duplicates("name", keep="last")
    return last.sort_index().set_index("name")
