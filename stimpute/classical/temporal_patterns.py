"""Regression of each cell's series on the leading temporal patterns of the whole stack: what others did then says what it did.

The patterns are the EOFs in time of the gap-filled stack. Each cell starts with the loadings of its filled series and moves away from
them as far as its own observations ask for: the transpose of regressing frames on frames. Knows nothing about how gaps were filled.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FEW_STEPS = 3
_FLOOR = 1e-4  # of unit variance: what patterns leave over, at least


def regress_on_patterns(values: Tensor, valid: Tensor, filled: Tensor, *, count: int = 8) -> Tensor:
    """Each cell's series as a sum of ``count`` temporal patterns, loadings by penalised least squares on its observations.

    Parameters
    ----------
    values : (B, T, H, W) of about unit variance; gaps may hold anything.
    valid : bool (B, T, H, W), True = observed.
    filled : (B, T, H, W) without NaN, made from the observed cells only; read only in the gaps.
    count : of patterns, at most T - 1.

    Returns
    -------
    (B, T, H, W), without NaN; ``filled`` itself where there are three steps or fewer. The posterior mean if loadings differ from those
    of the filled series by as much as loadings differ between cells, and what the patterns leave over is noise.
    """
    steps = values.shape[1]
    if steps <= _FEW_STEPS:
        return filled
    series = torch.where(valid, values, filled).flatten(2)
    level = series.mean(dim=2, keepdim=True)
    apart = series - level
    gram = (apart @ apart.mT).double() / apart.shape[2]
    gram.diagonal(dim1=1, dim2=2).add_(1e-9)
    energy, vectors = torch.linalg.eigh(gram)
    kept = energy[:, -min(count, steps - 1) :].clamp_min(1e-9)
    rest = (gram.diagonal(dim1=1, dim2=2).sum(dim=1) - kept.sum(dim=1)).clamp_min(_FLOOR) / steps
    patterns = (vectors[:, :, -kept.shape[1] :] * kept.sqrt()[:, None]).float()  # loadings have unit variance
    loadings = (patterns / kept.float()[:, None]).mT @ apart
    fitted = level + patterns @ loadings
    seen = valid.flatten(2).double()
    missed = torch.where(valid.flatten(2), values.flatten(2) - fitted, fitted.new_zeros(()))
    size = patterns.shape[2]
    exact = patterns.double()  # where patterns leave nothing over, the 1 below is lost in single precision
    pairs = (exact[..., :, None] * exact[..., None, :]).flatten(2)  # (B, T, K * K)
    precision = (seen.mT @ pairs).unflatten(2, (size, size)) / rest[:, None, None, None]
    precision.diagonal(dim1=2, dim2=3).add_(1)
    moment = missed.double().mT @ exact / rest[:, None, None]
    moved: Tensor = torch.cholesky_solve(moment[..., None], torch.linalg.cholesky(precision))[..., 0]
    answer: Tensor = (fitted + patterns @ moved.mT.to(fitted.dtype)).reshape(values.shape)
    return answer
