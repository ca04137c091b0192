"""Seeded fuzzers: damaged videos, data folders and checkpoints, and what the workbench does.

    python -m tests.fuzz --seed 0                 all of it (`make fuzz`), minutes
    python -m tests.fuzz --seed 0 --only videos --count 200

A fuzzer is a module here with a function `run(seed, count) -> list[Row]`; it is listed in
`__main__.py`. Cases run in a process of their own, see `isolation.py`.
"""
