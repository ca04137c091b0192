"""The command line: `python -m workbench --help` lists the commands, which lie in their rooms."""

from __future__ import annotations

import argparse
import io
import sys

from .studies.commands import (
    add_check_data_command,
    add_evaluate_command,
    add_fine_tune_command,
    add_maker_commands,
    add_score_command,
)
from .studies.demo import add_demo_command
from .studies.study_commands import add_study_commands
from .sweeps.command import add_sweep_command

ADDERS = (
    add_demo_command,
    add_evaluate_command,
    add_score_command,
    add_sweep_command,
    add_study_commands,
    add_fine_tune_command,
    add_check_data_command,
    add_maker_commands,
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without Unicode shows τ as \u03c4, which is better than an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog="python -m workbench", description="The Saliency Tubes workbench."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in ADDERS:
        add(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("\nInterrupted. No file is left half-written.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
