"""Conservation: by how much Σ relevance misses the logit, for the study's small transformers.

Relevance adds up to the logit less what biases and class tokens contribute. On unseen clips of the
transformer study, `python -m workbench study-conservation` prints how much that is in each family.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..models.video_model import VideoModel
from ..saliency.class_weights import GradientWeights
from ..saliency.explaining import explain_batch
from ..training.small_transformers import small_transformer, trained_families
from .transformer_study import study_clips

__all__ = ["conservation_of", "conservation_table"]

CLIPS = 40


def conservation_table(families: Sequence[str] = (), clips: int = CLIPS) -> pd.DataFrame:
    """Return by how much Σ relevance misses the logit, a row a family (all that are trained).

    Takes about ten seconds a family. See `conservation_of`.
    """
    names = list(families) or trained_families()
    rows = [conservation_of(small_transformer(family), clips) for family in names]
    return pd.DataFrame(rows, index=pd.Index(names, name="family"))


def conservation_of(model: VideoModel, clips: int = CLIPS) -> dict[str, object]:
    """Return by how much Σ relevance misses the logits of one network of the study.

    Returns:
        `layer`: where relevance is read. `gap`: |Σ relevance − logit| as a share of the clip's
        largest |logit|, median over clips and classes, and its quartiles `gap 25 %` and `gap 75 %`.
        `share`: Σ relevance / logit of the predicted class, median over clips. `residual`: of the
        default explanation, the largest over clips; NaN if that is not exact.
    """
    seen = [model.input.view(clip) for clip in study_clips(clips)]
    gaps, shares = [], []
    explanations = explain_batch(model, seen, "relevance")
    for ex in explanations:
        assert isinstance(ex.weighting, GradientWeights)
        logits = ex.logits.numpy()
        conserved = [ex.weighting.conserved(number) for number in range(len(logits))]
        missing = np.abs(np.array(conserved) - 1) * np.abs(logits)
        gaps.append(missing / np.abs(logits).max())
        shares.append(conserved[ex.class_id()])
    low, middle, high = np.quantile(gaps, (0.25, 0.5, 0.75))
    return {
        "layer": explanations[0].layer,
        "gap": middle,
        "gap 25 %": low,
        "gap 75 %": high,
        "share": float(np.median(shares)),
        "residual": float(max(ex.residual for ex in explain_batch(model, seen))),
    }
