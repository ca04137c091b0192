"""Run all benchmarks: `python -m benchmarks`, or some of them by name: `python -m benchmarks explain`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

scripts = sorted(Path(__file__).parent.glob("bench_*.py"))
wanted = sys.argv[1:]
for script in scripts:
    if not wanted or script.stem.removeprefix("bench_") in wanted:
        print(f"\n== {script.name}", flush=True)
        subprocess.run([sys.executable, str(script)], check=True)
