"""A sweep on Dask: each worker loads the model once, and each task makes one shard.

Dask decides where a task runs, and runs those of a lost worker again. Results are shard names.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Generator
from contextlib import suppress
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
from .index_files import SHARDS, shard_rows

__all__ = ["on_workers"]

ATTEMPTS = 5  # at reaching all workers at once
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
    """Make the shards on Dask's workers; yield each shard's name and how many clips failed."""
    plugin = ModelPlugin(engine)
    _register(client, plugin)
    waiting = iter(plan.items())
    running: dict[distributed.Future, tuple[str, list[str]]] = {}

    def next_task() -> distributed.Future | None:
        for shard, names in waiting:
            future = client.submit(
                _make_shard, plugin.name, shard, data.subset(pd.Index(names)), pure=False
            )
            running[future] = (shard, names)
            return future
        return None

    try:
        first = [task for task in (next_task() for _ in range(WAITING)) if task is not None]
        done = distributed.as_completed(first)
        for future in done:
            shard, names = running.pop(future)
            try:
                failed = future.result()
            except distributed.KilledWorker as error:
                # Workers that were given these clips died, again and again: go on without them.
                failed = _record_failure(engine.folder, shard, names, error)
            future.release()
            yield shard, failed
            if (task := next_task()) is not None:
                done.add(task)
    finally:
        client.cancel(list(running))
        # A worker that is lost now has let go of it already.
        with suppress(OSError):
            client.unregister_worker_plugin(plugin.name)


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


def _make_shard(plugin: str, shard: str, clips: Dataset) -> int:
    loaded: Any = distributed.get_worker().plugins[plugin]
    return loaded.engine.make_shard(shard, clips)


def _record_failure(folder: Folder, shard: str, names: list[str], error: Exception) -> int:
    rows = [{"name": name, "shard": shard, **failure(error)} for name in names]
    folder.write(f"{SHARDS}/{shard}.parquet", shard_rows(rows))
    return len(rows)


def _on_cpu(model: VideoModel) -> VideoModel:
    """Return a model that another machine can load, whatever GPU this one has."""
    if model.device.type == "cpu":
        return model
    copied = copy.copy(model)
    copied.module = copy.deepcopy(model.module).cpu()
    return copied
