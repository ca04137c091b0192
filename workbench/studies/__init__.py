"""Studies: what is measured and printed, and what makes the shipped samples.

The evaluation of tubes against known answers and baselines, the randomisation check, the record of
the faithfulness study, and the paper's figures. Nothing else in the package imports this room.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "attribution_study",
        "charts",
        "conservation",
        "evaluation",
        "figures",
        "randomisation",
        "recipes",
        "sample_files",
        "scoring",
        "study",
        "training_matrix",
        "transformer_study",
    ],
)
