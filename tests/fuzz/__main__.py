"""Run the fuzzers and print a table; the exit status is 1 if anything bad was found."""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import time
from pathlib import Path

from .isolation import table

COUNTS = {"videos": 3000, "folders": 150, "checkpoints": 200}  # the fuzzers, and a full run of each


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COUNTS, action="append")
    parser.add_argument("--count", type=int, help="cases of each fuzzer; default: a full run")
    parser.add_argument("--seconds", type=float, default=1500, help="start no batch after this")
    parser.add_argument("--table", type=Path, help="write the table to this file, too")
    asked = parser.parse_args()
    begin = time.monotonic()
    rows = []
    for name in asked.only or COUNTS:
        if importlib.util.find_spec(f"tests.fuzz.{name}") is None:
            continue
        run = importlib.import_module(f"tests.fuzz.{name}").run
        count = asked.count or COUNTS[name]
        # In batches, so that the time is kept.
        for batch, first in enumerate(range(0, count, 500)):
            if time.monotonic() - begin > asked.seconds:
                print(f"{name}: stopped after {first} of {count} cases for want of time")
                break
            rows += run(asked.seed * 1000 + batch, min(500, count - first))
    bad = [row for row in rows if row.bad]
    for row in bad:
        print(f"{row.fuzzer}: {row.case}: {row.outcome}\n{row.detail}\n")
    text = f"Seed {asked.seed}, {datetime.date.today()}, {time.monotonic() - begin:.0f} s.\n\n"
    text += table(rows)
    print(text)
    if asked.table:
        asked.table.write_text(text + "\n")
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main())
