"""A sweep on Dask: each worker loads the model once, and each task makes one shard.

Dask decides where a task runs, and runs those of a lost worker again.
"""

from __future__ import annotations

import copy
import ctypes
import platform
import time
import warnings
from collections.abc import Generator
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import distributed
import pandas as pd
from distributed.protocol import pickle

from ..datasets.table import Dataset
from ..models.pretrained import best_device
from ..models.video_model import VideoModel
from .engine import Engine, failure
from .folders import Folder
from .index_files import SHARDS, Index, shard_rows
from .store import StoreError

__all__ = ["on_workers"]

ATTEMPTS = 5  # at reaching all workers at once
PATIENCE = 30.0  # seconds without news, after which the tasks are looked after
# glibc's `mallopt`: from which size on a block is mapped, and how much free memory is kept. Left
# alone, glibc raises both to these values as a process frees large blocks.
MAPPED, KEPT = (-3, 32 << 20), (-1, 64 << 20)
WAITING = 1000  # tasks that the scheduler holds at a time, so that its memory does not grow


class ModelPlugin(distributed.WorkerPlugin):
    """Gives each worker an engine, with the model on its GPU if it has one."""

    def __init__(self, engine: Engine) -> None:
        self.name = f"sweep-{uuid4().hex}"
        self.folder = str(engine.folder)
        self.settings = engine.settings
        self.heads = engine.heads
        self.model = pickle.dumps(_on_cpu(engine.model))

    def setup(self, worker: distributed.Worker) -> None:
        """Load the model, when a worker starts."""
        _keep_memory()
        model = pickle.loads(self.model)
        model.module.to(best_device())
        self.engine = Engine(
            model, Folder.at(self.folder), settings=self.settings, heads=self.heads
        )

    def teardown(self, worker: distributed.Worker) -> None:
        """Let go of the model, when the sweep or the worker ends."""
        self.engine.close()
        del self.engine

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine where it is: threads and GPU memory cannot travel."""
        return {key: value for key, value in self.__dict__.items() if key != "engine"}


def on_workers(
    client: distributed.Client, engine: Engine, data: Dataset, plan: dict[str, list[str]]
) -> Generator[tuple[str, int]]:
    """Make the shards on Dask's workers; yield each shard's name and how many clips failed.

    Raises:
        StoreError: the workers write to another folder than this process reads.
    """
    plugin = ModelPlugin(engine)
    _register(client, plugin)
    tasks = _Tasks(client, engine.folder, plugin.name, data, plan)
    try:
        yield from tasks.finished()
    finally:
        client.cancel(list(tasks.running.values()))
        # A worker that is lost now has let go of it already.
        with suppress(OSError):
            client.unregister_worker_plugin(plugin.name)


class _Tasks:
    """The batches of a sweep as tasks of a cluster.

    A batch is done when its index file is there. The result of a task is never fetched: it would
    lie in the memory of a worker, and could be lost with the worker after the batch was written.
    """

    def __init__(
        self,
        client: distributed.Client,
        folder: Folder,
        plugin: str,
        data: Dataset,
        plan: dict[str, list[str]],
    ) -> None:
        self.client = client
        self.folder = folder
        self.plugin = plugin
        self.data = data
        self.plan = plan
        self.running: dict[str, distributed.Future] = {}  # by the shard
        # Of clips that failed in an earlier sweep: their files say nothing about this one.
        self._from_before = Index(folder).shards().intersection(plan)
        self._done: SimpleQueue[tuple[str, distributed.Future]] = SimpleQueue()

    def finished(self) -> Generator[tuple[str, int]]:
        """Yield the batches that are done, and keep the scheduler supplied with further ones."""
        waiting = iter(self.plan)
        for shard in islice(waiting, WAITING):
            self._submit(shard)
        while self.running:
            try:
                shard, future = self._done.get(timeout=PATIENCE)
            except Empty:
                self._look_after()
                continue
            if self.running.get(shard) is not future:
                continue  # it was submitted once more meanwhile
            failed = self._outcome(shard, future)
            if failed is None:
                self._submit(shard)
                continue
            del self.running[shard]
            yield shard, failed
            for following in islice(waiting, 1):
                self._submit(following)

    def _submit(self, shard: str) -> None:
        clips = self.data.subset(pd.Index(self.plan[shard]))
        future = self.client.submit(_make_shard, self.plugin, shard, clips, pure=False)
        self.running[shard] = future
        future.add_done_callback(lambda done: self._done.put((shard, done)))

    def _outcome(self, shard: str, future: distributed.Future) -> int | None:
        """Return how many clips of a batch failed; None: it has to be done again."""
        if future.status == "error":
            error = future.exception()
            if not isinstance(error, distributed.KilledWorker):
                raise error
            # Workers that were given these clips died, again and again: go on without them.
            rows = [{"name": name, "shard": shard, **failure(error)} for name in self.plan[shard]]
            self.folder.write(f"{SHARDS}/{shard}.parquet", shard_rows(rows))
            return len(rows)
        index = Index(self.folder)
        patience = PATIENCE if future.status == "finished" else 0.0
        begin = time.monotonic()
        while (failed := index.failures(shard)) is None:
            if time.monotonic() - begin >= patience:
                break
            time.sleep(0.5)  # a network file system shows new files after a while
        if failed is None and future.status == "finished":
            raise StoreError(
                f"a worker has written {shard}, and it is not at {self.folder}: "
                "Dask's workers must see the store's folder under the same name"
            )
        return failed

    def _look_after(self) -> None:
        """Find batches that nobody works at any more; nothing was heard for a while."""
        written = Index(self.folder).shards() - self._from_before
        lost = []
        for shard, future in self.running.items():
            if shard in written:  # the message was lost
                self._done.put((shard, future))
            else:
                lost.append(shard)
        at_work = self.client.processing()
        if not at_work:
            warnings.warn(f"no Dask worker is connected: {len(lost)} batches wait", stacklevel=2)
        elif not any(at_work.values()):  # the scheduler has forgotten them with a lost worker
            for shard in lost:
                self.running[shard].cancel()
                self._submit(shard)


def _register(client: distributed.Client, plugin: ModelPlugin) -> None:
    """Give each worker the model; a worker that dies meanwhile does not count."""
    for rest in reversed(range(ATTEMPTS)):
        try:
            client.register_plugin(plugin)
            return
        except OSError:
            if not rest:
                raise
            time.sleep(1)


def _keep_memory() -> None:
    """Let the memory that one layer frees serve the next.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_ set. That also ends glibc's own adjustments, and
    every tensor over 128 kB is taken from the system anew: a clip took twice as long.
    """
    if platform.libc_ver()[0] == "glibc":
        for setting in (MAPPED, KEPT):
            ctypes.CDLL(None).mallopt(*setting)


def _make_shard(plugin: str, shard: str, clips: Dataset) -> int:
    loaded: Any = distributed.get_worker().plugins[plugin]
    return loaded.engine.make_shard(shard, clips)


def _on_cpu(model: VideoModel) -> VideoModel:
    """Return a model that another machine can load, whatever GPU this one has."""
    if model.device.type == "cpu":
        return model
    copied = copy.copy(model)
    copied.module = copy.deepcopy(model.module).cpu()
    return copied
