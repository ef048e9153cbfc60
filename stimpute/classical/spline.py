"""Penalised least squares in the cosine basis (DCT-PLS): smooth gap filling of whole volumes.

Garcia, D. (2010), Comput. Stat. Data Anal. 54, 1167-1178; Wang, G. et al. (2012), Ecol. Model. 243, 114-119. The smoothness is
annealed from ``s_start`` to ``s_end`` as in Garcia's ``inpaintn``. The cosine transforms are matrix products, for any
size, on any device. Time counts in steps, uneven or not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stimpute.classical.cosine import cosines
from stimpute.classical.mean import observed, overall_mean
from stimpute.classical.temporal import linear_filled


def dct_pls(
    values: Tensor,
    valid: Tensor,
    *,
    iterations: int = 100,
    s_start: float = 1e3,
    s_end: float = 1e-6,
    snapshots: tuple[int, ...] | None = None,
    relaxation: float = 2.0,
    time_weight: float = 1.0,
    initial: Tensor | None = None,
) -> Tensor:
    """Iterate ``z <- R * IDCT(G * DCT(W * (y - z) + z)) + (1 - R) * z`` with ``G = 1 / (1 + s * L**2)``.

    ``W`` is 1 where observed, ``L`` the eigenvalues of the second differences along (t, y, x), ``s`` falls
    geometrically from ``s_start`` to ``s_end``, ``R`` is the relaxation (2 in ``inpaintn``, 1 in the paper).

    Parameters
    ----------
    values : (B, T, H, W); gaps may hold anything.
    valid : bool (B, T, H, W), True = observed.
    iterations : number of steps of ``s``.
    snapshots : after how many iterations (1 .. ``iterations``) to keep the state; only the last if None.
    time_weight : weight of the second differences along time against those along y and x.
    initial : (B, T, H, W) first guess in the gaps, without NaN; linear in time, then the mean of the step, if None.

    Returns
    -------
    (B, K, T, H, W), one entry per snapshot, without NaN; 0 where a stack has no observation.

    Raises
    ------
    ValueError : a snapshot outside 1 .. ``iterations``.
    """
    kept = snapshots or (iterations,)
    if min(kept) < 1 or max(kept) > iterations:
        raise ValueError(f"snapshots {kept} outside 1 .. {iterations}")
    center = overall_mean(values, valid)
    shown = observed(values - center, valid)
    z = torch.where(valid, shown, _first_guess(values, valid, initial) - center)
    basis = tuple(cosines(n, values.dtype, values.device) for n in values.shape[1:])
    penalty = _penalty(values, time_weight)
    smoothness = torch.logspace(
        _log10(s_start), _log10(s_end), iterations, dtype=torch.float64, device=values.device
    ).to(values.dtype)
    states: dict[int, Tensor] = {}
    for step in range(1, max(kept) + 1):
        gain = relaxation / (1 + smoothness[step - 1] * penalty)
        smooth = _inverse(_forward(torch.where(valid, shown, z), basis).mul_(gain), basis)
        z = smooth.add_(z, alpha=1 - relaxation)
        if step in kept:
            states[step] = z + center
    return torch.stack([states[step] for step in kept], dim=1)


def _first_guess(values: Tensor, valid: Tensor, initial: Tensor | None) -> Tensor:
    if initial is not None:
        return initial
    steps = torch.arange(values.shape[1], dtype=values.dtype, device=values.device)
    return linear_filled(values, valid, steps.expand(values.shape[:2]))


def _log10(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).log10())


def _penalty(values: Tensor, time_weight: float) -> Tensor:
    """Squared eigenvalues of the weighted sum of second differences, (T, H, W)."""
    steps, rows, columns = (
        2 - 2 * torch.cos(torch.pi / n * torch.arange(n, dtype=torch.float64, device=values.device))
        for n in values.shape[1:]
    )
    total = time_weight * steps[:, None, None] + rows[None, :, None] + columns[None, None, :]
    return total.square().to(values.dtype)


def _forward(field: Tensor, basis: tuple[Tensor, ...]) -> Tensor:
    time, y, x = basis
    field = y @ (field @ x.mT)
    return (time @ field.flatten(2)).reshape(field.shape)


def _inverse(field: Tensor, basis: tuple[Tensor, ...]) -> Tensor:
    time, y, x = basis
    field = (time.mT @ field.flatten(2)).reshape(field.shape)
    return y.mT @ (field @ x)
