"""What a sweep costs: against bare forward passes, on Dask, in bytes, and with a very large index.

    python benchmarks/bench_sweep.py [--only mfnet3d small dask store steps] [--clips 400]
    python benchmarks/bench_sweep.py --only kills --kills 100
    python benchmarks/bench_sweep.py --only index --rows 10000000

The clips are the shipped sample videos under many names. A sweep is cut into `--chunks` parts; half
as many bare passes come before each part and half after it, so that the ratio holds when the
machine's speed drifts. Beside each figure stands what other programs took of the processors: above
a few percent it says little, for PyTorch's threads wait for the slowest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from clock import seconds

import workbench as wb
from workbench.datasets.table import Dataset
from workbench.saliency.explaining import explain_batch
from workbench.sweeps.engine import at_once, read_for
from workbench.sweeps.index_files import GATHERED, SCALARS, SCHEMA, SHARDS
from workbench.sweeps.records import StoreSettings, clip_arrays, clip_row
from workbench.sweeps.shards import Kept, pack, thumbnails

BATCH = 8


def many(count: int) -> Dataset:
    """The shipped sample clips, again and again, under names of their own."""
    data = wb.samples.shipped()
    index = pd.concat([data.index] * (count // len(data) + 1)).iloc[:count]
    index.index = pd.Index([f"{number:05d}" for number in range(count)], name="name")
    return Dataset(index, data.classes, data.reader, "samples")


class Others:
    """The share of the processors that other programs took since this was made."""

    def __init__(self) -> None:
        self.begin = self._now()

    def share(self) -> float:
        """Return it, 0 to 1."""
        everyone, idle, own = (now - then for now, then in zip(self._now(), self.begin))
        return (everyone - idle - own) / everyone

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times, process = psutil.cpu_times(), psutil.Process()
        family = [process, *process.children(recursive=True)]
        used = sum(sum(each.cpu_times()[:4]) for each in family)  # with those that have ended
        return sum(times[:8]), times.idle + times.iowait, used


def throughput(name: str, count: int, chunks: int, rounds: int = 1) -> None:
    """Print a sweep's clips per second over those of bare passes with the inputs at hand.

    On a processor a sweep's batch passes through a large network in pieces, which is faster. So
    the ratio to passes of such pieces stands beside that to passes of whole batches.
    """
    model = wb.load_model(name)
    data = many(count)
    names = data.index.index
    x = torch.cat([model.prepare(read_for(model, data, name))[1] for name in names[:BATCH]])
    model.run(x)
    parts = np.array_split(np.arange(count), chunks)
    piece = at_once(x[:1], BATCH)
    ratios, rates, sizes = [], [], []
    everything = Others()

    def passes(clips: float, size: int = BATCH) -> float:
        """Return the seconds of bare passes for so many clips, `size` at once."""
        full = max(1, round(clips / size))

        def run() -> None:
            for _ in range(full):
                model.run(x[:size])

        return seconds(run) * clips / (full * size)

    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            bare = pieces = swept = 0.0
            others = Others()
            for number, part in enumerate(parts):
                store = Path(folder) / f"store_{turn}_{number}"
                # What is learnt on the first clip, and an empty store's files, are not counted.
                wb.sweep(data.subset(names[part[:1]]), model, store, progress=False)
                chunk = data.subset(names[part[1:]])

                def sweep(chunk: Dataset = chunk, store: Path = store) -> None:
                    wb.sweep(chunk, model, store, batch=BATCH, progress=False)

                bare += passes(len(chunk) / 2)
                pieces += passes(len(chunk) / 2, piece)
                swept += seconds(sweep)
                pieces += passes(len(chunk) / 2, piece)
                bare += passes(len(chunk) / 2)
                print(
                    f"  {name}: {(number + 1) * 100 // chunks} % of round {turn + 1} of {rounds}, "
                    f"ratio so far {bare / swept:.3f}, others took {others.share():.1%}",
                    flush=True,
                )
                files = (store / SHARDS).iterdir()
                sizes.append(sum(file.stat().st_size for file in files) / len(part))
            ratios.append(bare / swept)
            clips = count - chunks
            rates.append((clips / bare, clips / pieces, clips / swept))
    bare_rate, pieces_rate, swept_rate = np.median(rates, axis=0)
    print(
        f"{name}: {count} clips on {model.device}, {torch.get_num_threads()} threads: bare "
        f"{bare_rate:.2f} clips/s, sweep {swept_rate:.2f} clips/s, ratio "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}); bare {piece} at "
        f"once {pieces_rate:.2f} clips/s, ratio {swept_rate / pieces_rate:.3f}; "
        f"{statistics.median(sizes) / 1000:.0f} kB a clip, others took {everything.share():.1%}",
        flush=True,
    )


def processor_time(name: str, clips: int) -> None:
    """Print the milliseconds of one thread that each step of a clip takes."""
    torch.set_num_threads(1)
    model = wb.load_model(name, device="cpu")
    data = many(BATCH)
    names = data.index.index[:clips]
    read = [read_for(model, data, name) for name in names]
    prepared = [model.prepare(clip) for clip in read]
    x = torch.cat([each for _, each in prepared])
    explanations = explain_batch(model, prepared)
    settings = StoreSettings(None, full=False, top=5)
    heads = frozenset(explanations[0].outputs)
    arrays = [clip_arrays(ex, settings, heads) for ex in explanations]
    pictures = thumbnails(explanations[0].clip)
    kept = [Kept(name, each, (1, 1), pictures) for name, each in zip(names, arrays)]
    steps: dict[str, Callable[[], object]] = {
        "bare pass": lambda: model.run(x),
        "explain": lambda: explain_batch(model, prepared),
        "read": lambda: [read_for(model, data, name) for name in names],
        "resize and normalise": lambda: [model.prepare(clip) for clip in read],
        "keep": lambda: [(clip_arrays(ex, settings, heads), clip_row(ex)) for ex in explanations],
        "thumbnails": lambda: [thumbnails(ex.clip) for ex in explanations],
        "pack": lambda: pack(kept),
    }
    taken = {}
    for step, call in steps.items():
        times = []
        for _ in range(3):
            begin = time.process_time()  # zarr has a thread of its own
            call()
            times.append(time.process_time() - begin)
        taken[step] = 1000 * min(times) / len(names)
    added = sum(taken.values()) - taken["bare pass"] - taken["explain"]
    added += max(0.0, taken["explain"] - taken["bare pass"])
    listed = ", ".join(f"{step} {milliseconds:.1f}" for step, milliseconds in taken.items())
    bound = taken["bare pass"] / (taken["bare pass"] + added)
    print(f"{name}: ms of one thread a clip: {listed}; no ratio above {bound:.3f} without a GPU")


def steps() -> None:
    """Print where the time of a sweep goes, for a small network and for the paper's."""
    threads = torch.get_num_threads()
    processor_time("samples/mfnet", BATCH)
    processor_time("mfnet3d", 2)
    torch.set_num_threads(threads)


def dask_workers(name: str, count: int, rounds: int) -> None:
    """Print the speed of two Dask workers with one thread each over that of one.

    Beside the clock's ratio stands what processor time allows on two processors: there one worker
    has a processor to itself, and two share theirs with the scheduler.
    """
    model = wb.load_model(name, device="cpu")
    ratios = []
    for turn in range(rounds):
        others = Others()
        (one, by_one, _), (two, by_two, beside) = (
            _on_dask(model, many(count), workers) for workers in (1, 2)
        )
        ratios.append(two / one)
        print(
            f"  Dask, {name}, round {turn + 1} of {rounds}: 1 worker {one:.2f} clips/s, 2 workers "
            f"{two:.2f} clips/s, ratio {two / one:.2f}; processor time: {1000 * by_one:.1f} ms a "
            f"clip for 1 worker, {1000 * by_two:.1f} for 2 and {1000 * beside:.1f} beside them, "
            f"which allows {2 * by_one / (by_two + beside):.2f}; others took {others.share():.1%}",
            flush=True,
        )
    print(f"Dask: ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


def _on_dask(model: wb.VideoModel, data: Dataset, workers: int) -> tuple[float, float, float]:
    """Return clips per second, and seconds of processor time a clip, in the workers and here."""
    from distributed import Client, LocalCluster

    def used() -> tuple[float, float]:
        here = psutil.Process()
        elsewhere = sum(sum(each.cpu_times()[:2]) for each in here.children(recursive=True))
        return elsewhere, sum(here.cpu_times()[:2])

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        # What the first clip and the first batch of each worker teach is not counted.
        wb.sweep(data.subset(data.index.index[: 2 * workers * BATCH]), model, folder, client,
                 batch=BATCH, progress=False)  # fmt: skip
        before = used()
        wb.sweep(data, model, folder, client, batch=BATCH, progress=False)
        in_workers, here = np.subtract(used(), before)
        shards = (Path(folder) / SHARDS).glob("*.parquet")
        # From when all workers have searched for their layer.
        times = sorted(shard.stat().st_mtime for shard in shards)[4 * workers :]
    count = len(data) - 2 * workers * BATCH
    rate = BATCH * (len(times) - 1) / (times[-1] - times[0])
    return rate, in_workers / count, here / count


def reading_back(model_name: str) -> None:
    """Print how long a tube takes from a store, and how far it is from the direct one."""
    model = wb.load_model(model_name, device="cpu")
    data = many(8)
    names = data.index.index
    batch = [read_for(model, data, name) for name in names]
    direct = dict(zip(names, explain_batch(model, batch)))
    for full in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store"
            store = wb.sweep(data, model, path, batch=BATCH, full=full, progress=False)
            store[names[0]].tube()  # what the first one reads is kept: the index, the head
            times, differences = [], []
            for name in [*names] * 5:
                begin = time.perf_counter()
                tube = store[name].tube()
                times.append(time.perf_counter() - begin)
                expected = direct[name].tube().volume
                differences.append(np.abs(tube.volume - expected).max() / np.ptp(expected))
            size = sum(file.stat().st_size for file in (path / SHARDS).iterdir()) / len(data)
            print(
                f"{model_name}, {'full' if full else 'half'} precision: a tube in "
                f"{1000 * statistics.median(times):.1f} ms ({1000 * min(times):.1f}-"
                f"{1000 * max(times):.1f}), differs by up to {max(differences):.1e} of its range, "
                f"{size / 1000:.0f} kB a clip",
                flush=True,
            )


def stored() -> None:
    """Print what reading from a store costs: tubes, and an index of 100,000 clips."""
    reading_back("mfnet3d")
    reading_back("samples/mfnet")
    large_index(100_000)


def large_index(rows: int) -> None:
    """Print what a simulated index costs to read and to filter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        model = wb.load_model("samples/mfnet", device="cpu")
        wb.sweep(many(1), model, path, progress=False)
        rng = np.random.default_rng(0)
        names = pa.array([f"clip_{number:09d}" for number in range(rows)])
        classes = pa.array(model.classes or [])
        predicted = rng.integers(0, 8, rows)
        labels = np.where(rng.random(rows) < 0.7, predicted, rng.integers(0, 8, rows))
        columns = {
            "name": names, "status": pa.repeat("ok", rows), "label": classes.take(pa.array(labels)),
            "prediction": classes.take(pa.array(predicted)),
            "probability": rng.random(rows, np.float32), "correct": labels == predicted,
            "start": rng.random(rows), "stop": rng.random(rows),
            "centre": rng.random(rows, np.float32), "focus": rng.random(rows, np.float32),
            "shard": pa.repeat("00000000-0", rows), "part": np.zeros(rows, np.int32),
            "row": (np.arange(rows) % 8).astype(np.int32), "bytes": np.ones(rows, np.int64),
        }  # fmt: skip
        columns |= {name: pa.nulls(rows) for name in SCALARS if name not in columns}
        schema = pa.schema([SCHEMA.field(name) for name in SCALARS])
        table = pa.table([columns[name] for name in SCALARS], names=SCALARS).cast(schema)
        pq.write_table(table, path / GATHERED)
        (path / SHARDS / "00000000-0.parquet").touch()
        del table, columns, names
        before = psutil.Process().memory_info().rss
        begin = time.perf_counter()
        store = wb.open_store(path)
        index = store.index
        opened = time.perf_counter()
        wrong = index[(index["label"] == "open") & (index["prediction"] == "close")]
        filtered = time.perf_counter()
        grown = psutil.Process().memory_info().rss - before
        size = (path / GATHERED).stat().st_size
        print(
            f"index of {rows:,} clips: {size / 1e6:.0f} MB without maps, opened in "
            f"{opened - begin:.2f} s, filtered to {len(wrong):,} in {filtered - opened:.2f} s, "
            f"{grown / 1e6:.0f} MB in memory",
            flush=True,
        )


def kills(count: int) -> None:
    """Kill as many sweeps, and as many Dask workers, and compare what is left, bit for bit."""
    tests = Path(__file__).parent.parent / "tests" / "test_sweeps_kills.py"
    environment = os.environ | {"WORKBENCH_KILLS": str(count)}
    command = [sys.executable, "-m", "pytest", "-q", str(tests), "--timeout", "3600"]
    subprocess.run(command, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("steps", "small", "mfnet3d", "dask", "store", "index", "kills")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts[:-2])
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--chunks", type=int, default=2, help="that a sweep is cut into")
    parser.add_argument("--rounds", type=int, default=3, help="of small and dask")
    parser.add_argument("--threads", type=int, help="of PyTorch; processor time is exact for 1")
    parser.add_argument("--kills", type=int, default=100, help="of sweeps, and of Dask workers")
    parser.add_argument("--rows", type=int, default=100_000, help="of a simulated index")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)
    benchmarks: dict[str, Callable[[], None]] = {
        "small": lambda: throughput("samples/mfnet", asked.clips, asked.chunks, asked.rounds),
        "mfnet3d": lambda: throughput("mfnet3d", asked.clips, asked.chunks),
        "dask": lambda: dask_workers("samples/mfnet", asked.clips, asked.rounds),
        "store": stored,
        "index": lambda: large_index(asked.rows),
        "kills": lambda: kills(asked.kills),
        "steps": steps,
    }
    for part in parts:
        if part in asked.only:
            benchmarks[part]()


if __name__ == "__main__":
    main()
