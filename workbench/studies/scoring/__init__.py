"""Scoring: tubes held against human ground truth, always beside baselines. docs/scores.md.

`score` gives a table with a row per clip, actor and method; `summary` its means and intervals. In
the order of reading: `baseline_tubes`, `measures` of one volume, `costs`, `running`, `keeping` of
rows and provenance, `tables` with their summary, and the `command`."""

from .baseline_tubes import BASELINES, optical_flow
from .command import score_command
from .running import TOLERANCE, score
from .tables import Scores, read_scores

__all__ = [
    "BASELINES",
    "TOLERANCE",
    "Scores",
    "optical_flow",
    "read_scores",
    "score",
    "score_command",
]
