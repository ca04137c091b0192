"""Sweeping: every clip of a data set is explained into a store, once."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import filelock
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..saliency.class_weights import KINDS
from ..saliency.explaining import explain_batch
from ..saliency.explanation import Explanation
from .engine import Engine, read_for
from .folders import Folder
from .index_files import SHARDS, Index
from .provenance import describe, determining
from .records import Heads, StoreSettings, heads_to_file, network_heads
from .store import FACTS, HEAD, Store, StoreError, check_same, open_store

if TYPE_CHECKING:
    import distributed

__all__ = ["sweep"]

GATHER_EVERY = 500  # shards: so many index files are read by themselves in a second or two


def sweep(
    data: Dataset,
    model: VideoModel,
    path: str | os.PathLike[str],
    client: distributed.Client | None = None,
    *,
    batch: int = 8,
    weights: str | None = None,
    top: int = 5,
    full: bool = False,
    progress: bool = True,
) -> Store:
    """Explain every clip of a data set into a store.

    The same call again resumes: clips that were explained are left alone, those that failed are
    tried once more, and damaged shards are made anew. A clip that fails is recorded with its error.
    Ctrl-C finishes the batches in flight; a process that is killed loses them, and no others.

    Args:
        data: the clips; further data sets may be added to a store, if no two clips share a name.
        model: from `wb.load_model` or `wb.wrap_model`.
        path: a folder, or an address that fsspec knows (s3://bucket/store). Dask's workers must
            see it under the same name.
        client: of any Dask cluster; None: in this process.
        batch: how many clips pass through the network together, and share a shard.
        weights: as `wb.explain` takes them.
        top: of how many classes the weights are kept, for a network without a linear head. The
            clip's own label is among them.
        full: keep activation maps in full precision, twice as large.
        progress: whether to show a bar with clips per second and the time left.

    Returns:
        The store, also if clips failed: `store.index` lists them.

    Raises:
        StoreError: the folder holds a store by another model, input spec or settings; or clips of
            the same names and other times; or something else.
        OSError: the store cannot be written; nothing that was written is lost.
        ValueError: no clip could be explained; the message names the first one's error. Or an
            argument makes no sense.
        filelock.Timeout: another sweep is writing to the folder.
    """
    if batch < 1 or top < 1:
        raise ValueError(f"batch and top count from 1, got {batch} and {top}")
    if weights is not None and weights not in KINDS:
        raise ValueError(f"weights: expected None or one of {', '.join(KINDS)}; got {weights!r}")
    settings = StoreSettings(weights, full, top)
    folder = Folder.at(path)
    with _only_writer(folder):
        store = _opened(folder, data, model, settings)
        plan = _plan(store, data, batch)
        rest = sum(map(len, plan.values()))
        with tqdm(
            total=len(data), initial=len(data) - rest, desc=data.title or "sweep", unit="clip",
            disable=not progress,
        ) as bar:  # fmt: skip
            if plan:
                engine = Engine(model, folder, settings=settings, heads=frozenset(store.heads))
                work = _in_threads(engine, data, plan)
                if client is not None:
                    from .cluster import on_workers

                    work = on_workers(client, engine, data, plan)
                with closing(engine), closing(work):
                    _follow(work, plan, store, bar)
                _remove_leftovers(folder)  # of Dask's workers that were lost
        Index(folder).gather()
    return open_store(path)


def _follow(
    work: Iterator[tuple[str, int]], plan: dict[str, list[str]], store: Store, bar: Any
) -> None:
    """Show progress, and gather the index now and then."""
    failed = 0
    left = set(plan)
    for number, (shard, failures) in enumerate(work, start=1):
        left.discard(shard)
        bar.update(len(plan[shard]))
        failed += failures
        if failed:
            bar.set_postfix(failed=failed)
        if number % GATHER_EVERY == 0:
            Index(store.folder).gather(leave=left)


@contextmanager
def _only_writer(folder: Folder) -> Iterator[None]:
    """Keep other sweeps out of a folder on the disk; a killed process lets go of it by itself."""
    if folder.local is None:
        yield
        return
    try:
        folder.local.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder.local / ".sweep.lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:  # an OSError, too
        raise
    except FileExistsError as error:
        reason = "expected a folder for the store, and this is a file. Choose another name"
        raise FileExistsError(error.errno, reason, str(folder.local)) from error
    except OSError as error:
        reason = f"{error.strerror}: the store cannot be written. Choose another folder"
        raise OSError(error.errno, reason, str(folder.local)) from error
    try:
        yield
    finally:
        lock.release()


def _opened(folder: Folder, data: Dataset, model: VideoModel, settings: StoreSettings) -> Store:
    """Return the store in a folder, made if there is none; refuse one that was made otherwise."""
    for file in folder.names(""):
        if file.startswith(".") and ".part." in file:  # a killed process was writing it
            folder.remove(file)
    if folder.exists(FACTS):
        store = open_store(str(folder))
        check_same(store.facts["determines"], determining(model, settings), str(folder))
        try:
            _ = store.heads
        except StoreError:  # missing or damaged
            _, heads = _first_explanation(data, model, settings)
            folder.write(HEAD, heads_to_file(heads))
    else:
        foreign = folder.names("") - {".sweep.lock", HEAD, "shards"}
        if foreign:
            raise StoreError(
                f"{folder} is no store and not empty: it holds {', '.join(sorted(foreign)[:3])}. "
                "Choose another folder"
            )
        ex, heads = _first_explanation(data, model, settings)
        if heads:
            folder.write(HEAD, heads_to_file(heads))
        facts = describe(model, ex, settings=settings, data=data.title)
        folder.write(FACTS, json.dumps(facts, indent=1).encode())
        store = Store(folder, facts)
    for shape, device, faster in store.facts["channels_last"]:
        model._faster_last[tuple(shape), device] = faster
    return store


def _first_explanation(
    data: Dataset, model: VideoModel, settings: StoreSettings
) -> tuple[Explanation, Heads]:
    """Explain the first clip that can be explained; return the heads that were proved, too."""
    first: Exception | None = None
    for name in data.index.index:
        try:
            clip = read_for(model, data, name)
            seen, x = model.prepare(clip)
            (ex,) = explain_batch(model, [(seen, x)], settings.weights)
            model.logits(clip)  # a second run measures the memory format, which the store records
        except Exception as error:
            first = first or error
        else:
            return ex, {} if settings.weights else network_heads(model, ex, x)
    if first is None:
        raise ValueError("the data set has no clips")
    raise ValueError(f"none of {len(data)} clips could be explained; the first: {first}") from first


def _plan(store: Store, data: Dataset, batch: int) -> dict[str, list[str]]:
    """Return the names of the clips that are missing, by the shard that each batch will make.

    Batches are stretches of the data set, whatever is done already, and a shard is named after its
    clips: a batch that is done again makes the same shard with the same content.
    """
    damaged = set(store.verify()["shard"])
    rows = store.index
    _check_names(rows, data)
    done = rows.index[(rows["status"] == "ok") & ~rows["shard"].isin(damaged)]
    names = data.index.index
    missing = ~names.isin(done)
    plan = {}
    for start in range(0, len(names), batch):
        chosen = names[start : start + batch][missing[start : start + batch]].tolist()
        if chosen:
            digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()[:12]
            plan[f"{start:08d}-{digest}"] = chosen
    # Rows that will be written again must not be remembered elsewhere.
    Index(store.folder).gather(leave={*plan, *damaged})
    _remove_leftovers(store.folder)
    return plan


def _remove_leftovers(folder: Folder) -> None:
    """Remove what killed processes left: half-written files, and shards without a row."""
    indexed = Index(folder).shards()
    for file in sorted(folder.names(SHARDS)):
        if file.startswith(".") or file.split(".")[0] not in indexed:
            folder.remove(f"{SHARDS}/{file}")


def _check_names(rows: Any, data: Dataset) -> None:
    """Raise StoreError if a clip of another label has the same name."""
    if "class" not in data.index or rows.empty:
        return
    both = rows.loc[rows.index.intersection(data.index.index), "label"].dropna()
    labels = data.index.loc[both.index, "class"]
    other = both.index[(both != labels).to_numpy()]
    if len(other):
        name = other[0]
        raise StoreError(
            f"the store has another clip called {name!r}, labelled {both[name]!r}, not "
            f"{labels[name]!r}: keep the two data sets in two stores"
        )


def _in_threads(
    engine: Engine, data: Dataset, plan: dict[str, list[str]]
) -> Generator[tuple[str, int]]:
    """Make the shards in this process, some being read or written while one is explained."""
    workers = (os.cpu_count() or 1) + 1
    waiting = iter(plan.items())
    with ThreadPoolExecutor(workers, "sweep", _give_way) as pool:
        running: dict[Any, str] = {}
        try:
            while True:
                for shard, names in waiting:
                    running[pool.submit(engine.make_shard, shard, data.subset(pd.Index(names)))] = (
                        shard
                    )
                    if len(running) > workers:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:  # an error or Ctrl-C: what is running is finished, what is waiting is not begun
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(engine.threads)  # what threads to come begin with


def _give_way() -> None:
    """Let this thread, which reads and writes, work when the network's threads leave it room.

    A pass waits after every layer for the slowest of its threads, so one that is interrupted holds
    up all of them.
    """
    # PyTorch would split each clip's resizing over all processors.
    torch.set_num_threads(1)
    if sys.platform == "linux":  # where every thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
