"""What a sweep leaves when its process, or a Dask worker, is killed at a random moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest
from sweep_material import clips, contents, deadly, sweep_slowly, tiny

import workbench as wb
from workbench.sweeps.store import StoreError

pytestmark = pytest.mark.slow  # up to a minute together

KILLS = int(os.environ.get("WORKBENCH_KILLS", "10"))
PATIENCE = 10  # seconds that a cluster waits for a worker to come back


@pytest.fixture(scope="module", autouse=True)
def processes_start_quickly() -> None:
    """Processes, Dask's too, are forked from one that has PyTorch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sweep_material", "workbench.sweeps.cluster"])
    forkserver.ensure_running()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    sweep_slowly(str(path))
    return contents(path)


def assert_same(path: Path, undisturbed: dict[str, bytes]) -> None:
    assert contents(path) == undisturbed
    store = wb.open_store(path)
    assert store.index.index.tolist() == clips(40).index.index.tolist()
    assert (store.index["status"] == "ok").all()
    assert store.verify().empty


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_killed_sweep_resumes(tmp_path: Path, undisturbed: dict[str, bytes], how: int) -> None:
    """Each sweep runs for a random while; whatever it left must be readable at once."""
    context = multiprocessing.get_context("forkserver")
    rng = random.Random(how)
    kills, rounds = 0, 0
    while kills < KILLS:
        rounds += 1
        seen: set[str] = set()
        path = tmp_path / f"store_{rounds}"
        while kills < KILLS:
            process = context.Process(target=sweep_slowly, args=(str(path),))
            process.start()
            process.join(rng.uniform(0.05, 0.9))
            if process.is_alive():
                os.kill(process.pid or 0, how)
            process.join()
            if process.exitcode == 0:
                break  # done before it could be killed: begin another store
            kills += 1
            if (path / "store.json").exists():
                store = wb.open_store(path)
                assert store.verify().empty
                assert seen <= set(store.names)
                seen = set(store.names)
        sweep_slowly(str(path))
        assert_same(path, undisturbed)


@pytest.mark.filterwarnings("ignore:no Dask worker is connected")  # both may be dead for a while
def test_clips_of_a_lost_worker_are_redone(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Workers are killed at random moments; their nannies or the cluster start others."""
    distributed = pytest.importorskip("distributed")
    import dask

    rng = random.Random(0)
    settings = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.scheduler.allowed-failures": 100,
        "distributed.comm.timeouts.connect": "5s",
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        kills = []

        def kill() -> None:
            before: set[int] = set()
            whole = time.monotonic()  # when both workers were last alive
            while len(kills) < KILLS:
                time.sleep(rng.uniform(0.1, 0.6))
                alive = set(client.run(os.getpid, on_error="ignore").values())
                # A nanny may give up on a worker that dies at the moment of its registration.
                if victims := sorted(alive & before):
                    psutil.Process(rng.choice(victims)).kill()
                    kills.append(len(alive))
                before = alive
                if len(alive) >= 2:
                    whole = time.monotonic()
                elif time.monotonic() - whole > PATIENCE:
                    cluster.scale(len(cluster.worker_spec) + 1)
                    whole = time.monotonic()

        killer = threading.Thread(target=kill)
        killer.start()
        rounds = 0
        while killer.is_alive():  # as many sweeps as it takes for all kills
            rounds += 1
            path = tmp_path / f"store_{rounds}"
            wb.sweep(clips(40, pause=0.05), tiny(), path, client, batch=4, progress=False)
            assert_same(path, undisturbed)
        killer.join()
    assert len(kills) == KILLS


def test_dask_makes_the_same_store_and_loads_the_model_once(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    from workbench.sweeps.cluster import ModelPlugin

    loads = []
    setup = ModelPlugin.setup

    def counted(self: ModelPlugin, worker: object) -> None:
        loads.append(worker)
        setup(self, worker)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelPlugin, "setup", counted)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        wb.sweep(clips(40), tiny(), tmp_path / "store", client, batch=4, progress=False)
        assert len(loads) == 2
        wb.sweep(clips(40), tiny(), tmp_path / "store", client, batch=4, progress=False)
        assert len(loads) == 2  # nothing was left to do
        assert client.submit(lambda: 1).result() == 1  # the cluster is the user's
    assert_same(tmp_path / "store", undisturbed)


@pytest.fixture
def threads_of_dask():  # type: ignore[no-untyped-def]
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_batches_that_the_scheduler_forgot_are_done_again(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, threads_of_dask
) -> None:  # type: ignore[no-untyped-def]
    from distributed import Future

    from workbench.sweeps import cluster

    monkeypatch.setattr(cluster, "PATIENCE", 0.3)
    submit, forgotten = threads_of_dask.submit, []

    def forgetful(function, plugin, shard, clips, **options):  # type: ignore[no-untyped-def]
        if len(forgotten) < 3:
            forgotten.append(shard)
            return Future(f"nobody-{shard}", threads_of_dask)
        return submit(function, plugin, shard, clips, **options)

    monkeypatch.setattr(threads_of_dask, "submit", forgetful)
    wb.sweep(clips(40), tiny(), tmp_path / "store", threads_of_dask, batch=4, progress=False)
    assert len(set(forgotten)) == 3
    assert_same(tmp_path / "store", undisturbed)


def test_workers_that_write_elsewhere_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads_of_dask
) -> None:  # type: ignore[no-untyped-def]
    from workbench.sweeps import cluster

    made = cluster.ModelPlugin.__init__

    def elsewhere(self, engine) -> None:  # type: ignore[no-untyped-def]
        made(self, engine)
        self.folder = str(tmp_path / "elsewhere")

    monkeypatch.setattr(cluster, "PATIENCE", 0.1)
    monkeypatch.setattr(cluster.ModelPlugin, "__init__", elsewhere)
    with pytest.raises(StoreError, match="must see the store's folder under the same name"):
        wb.sweep(clips(8), tiny(), tmp_path / "store", threads_of_dask, batch=4, progress=False)


def test_clips_that_kill_workers_are_recorded(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        data = deadly(clips(12), "clip_005")
        store = wb.sweep(data, tiny(), tmp_path / "store", client, batch=4, progress=False)
    failed = store.index[store.index["status"] == "failed"]
    # Dask also blames the batch that waited beside the deadly one.
    assert {"clip_004", "clip_005", "clip_006", "clip_007"} <= set(failed.index)
    assert failed["error"].str.startswith("KilledWorker").all()
    assert len(wb.sweep(clips(12), tiny(), tmp_path / "store", batch=4, progress=False)) == 12
