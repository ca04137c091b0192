"""What a sweep costs: against bare forward passes, on Dask, in bytes, and with a very large index.

    python benchmarks/bench_sweep.py [--clips 400] [--rounds 3] [--kills 100] [--rows 10000000]

The clips are the shipped sample videos under many names. Bare passes and sweeps take turns, so that
the ratio holds when the machine's speed drifts. `--kills` kills as many sweeps and Dask workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
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
from workbench.sweeps.index_files import GATHERED, SCALARS, SCHEMA, SHARDS

BATCH = 8


def many(count: int) -> Dataset:
    """The shipped sample clips, again and again, under names of their own."""
    data = wb.samples.shipped()
    index = pd.concat([data.index] * (count // len(data) + 1)).iloc[:count]
    index.index = pd.Index([f"{number:05d}" for number in range(count)], name="name")
    return Dataset(index, data.classes, data.reader, "samples")


def throughput(name: str, count: int, rounds: int) -> None:
    """Print a sweep's clips per second over those of bare passes with the inputs at hand."""
    model = wb.load_model(name)
    data = many(count)
    inputs = [model.prepare(data.read(i, frames=16))[1] for i in range(BATCH)]
    x = torch.cat(inputs)
    model.run(x)
    bare, swept, sizes = [], [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "store"
            # What is learnt on the first clip, and the files of an empty store, are not counted.
            wb.sweep(data.subset(data.index.index[:1]), model, store, progress=False)

            def passes() -> None:
                for _ in range(count // BATCH):
                    model.run(x)

            def sweep(store: Path = store) -> None:
                wb.sweep(data, model, store, batch=BATCH, progress=False)

            turns = (passes, sweep) if number % 2 else (sweep, passes)
            times = {turn.__name__: seconds(turn) for turn in turns}
            bare.append(count / times["passes"])
            swept.append(count / times["sweep"])
            files = (store / SHARDS).iterdir()
            sizes.append(sum(file.stat().st_size for file in files) / count)
    ratios = [one / other for one, other in zip(swept, bare)]
    print(
        f"{name:<14} {count} clips on {model.device}, {torch.get_num_threads()} threads: "
        f"bare {statistics.median(bare):.1f} clips/s, sweep {statistics.median(swept):.1f} clips/s, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), "
        f"{statistics.median(sizes) / 1000:.0f} kB a clip",
        flush=True,
    )


def dask_workers(count: int, rounds: int) -> None:
    """Print the speed of two Dask workers with one thread each over that of one."""
    from distributed import Client, LocalCluster

    model = wb.load_model("samples/mfnet", device="cpu")
    data = many(count)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in rates:
            with (
                LocalCluster(workers, threads_per_worker=1, dashboard_address=None) as cluster,
                Client(cluster) as client,
                tempfile.TemporaryDirectory() as folder,
            ):
                wb.sweep(data, model, folder, client, batch=BATCH, progress=False)
                # From when all workers are at it: each searches for its layer in its first shard.
                shards = (Path(folder) / SHARDS).glob("*.parquet")
                times = sorted(shard.stat().st_mtime for shard in shards)[workers:]
                rates[workers].append(BATCH * (len(times) - 1) / (times[-1] - times[0]))
    ratios = [two / one for one, two in zip(rates[1], rates[2])]
    print(
        f"Dask: 1 worker {statistics.median(rates[1]):.1f} clips/s, 2 workers "
        f"{statistics.median(rates[2]):.1f} clips/s, ratio {statistics.median(ratios):.2f}",
        flush=True,
    )


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0, help="of sweeps, and of Dask workers")
    parser.add_argument("--rows", type=int, default=0, help="of a simulated index")
    parser.add_argument("--skip-rates", action="store_true", help="only --kills and --rows")
    asked = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    if not asked.skip_rates:
        throughput("samples/mfnet", asked.clips, asked.rounds)
        throughput("mfnet3d", max(2 * BATCH, asked.clips // 8), asked.rounds)
        dask_workers(asked.clips, asked.rounds)
    for rows in (100_000, asked.rows):
        if rows:
            large_index(rows)
    if asked.kills:
        tests = Path(__file__).parent.parent / "tests" / "test_sweeps_kills.py"
        environment = os.environ | {"WORKBENCH_KILLS": str(asked.kills)}
        command = [sys.executable, "-m", "pytest", "-q", str(tests), "--timeout", "3600"]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
