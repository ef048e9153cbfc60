"""Hiding some of what a batch shows, so that candidates can be judged on it: gaps of other frames, and whole frames.

Knows nothing about candidates. What is hidden to score a method from outside is drawn in :mod:`stimpute.holdout`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from stimpute.holdout import runs_like_empty
from stimpute.layers.positions import median_step

HIDDEN_SHARE = 0.25
EVERY_FRAME = 3  # is hidden wholly, where there are empty ones,
FARTHEST = 8  # octaves
JUDGED = 16  # others at each turn, until so many were


def hidden_by_turns(valid: Tensor) -> list[Tensor]:
    """What the candidates must do without, view by view, to be judged, each (B, T, H, W) bool: cells; where frames are empty, frames too.

    Of few frames one view after another hides a third, until enough of them were hidden or all. Where empty frames follow each other, or a
    series ends with them, one more view hides runs as long.
    """
    held_out = inner_hold_out(valid)
    turns = turns_for(valid)
    frames = [
        hidden_frames(valid, turn) & (turn < turns)[:, None, None, None] for turn in range(int(turns.max()))
    ]
    return [held_out, *(hidden for hidden in (*frames, hidden_runs(valid)) if bool(hidden.any()))]


def hidden_runs(valid: Tensor) -> Tensor:
    """Frames to hide in runs as long as those that are empty (:func:`stimpute.holdout.runs_like_empty`), (B, T, H, W) bool."""
    seen = valid.flatten(2).any(dim=2).cpu().numpy()
    chosen = torch.from_numpy(np.stack([runs_like_empty(sample) for sample in seen]))
    return valid & chosen.to(valid.device)[:, :, None, None]


def reach(valid: Tensor, times: Tensor) -> Tensor:
    """How far every frame is from those around it that hold observations: from the nearer one, from the other one, (B, T, 2).

    Parameters
    ----------
    valid : (B, T, H, W) bool.
    times : (B, T), days.

    Returns
    -------
    log2 of distances in median steps: 0 for a neighbour, at most ``FARTHEST``, as where there is none on that side.

    >>> seen = torch.tensor([[False, True, False, False, True, False, False, False]])[..., None, None]
    >>> (2 ** reach(seen, torch.arange(8.0)[None])[0, [0, 2, 3, 7]].T).round().tolist()
    [[1.0, 1.0, 1.0, 3.0], [256.0, 2.0, 2.0, 256.0]]
    """
    seen = valid.flatten(2).any(dim=2)
    step = median_step(times)
    before = torch.where(seen, times, -torch.inf).cummax(dim=1).values
    after = torch.where(seen, times, torch.inf).flip(1).cummin(dim=1).values.flip(1)
    away = torch.stack(((times - before) / step, (after - times) / step), dim=2)
    return away.sort(dim=2).values.clamp(1, 2**FARTHEST).log2()


def turns_for(valid: Tensor) -> Tensor:
    """In how many turns frames are hidden, (B,): none where no frame is empty.

    >>> valid = torch.ones(1, 20, 1, 1, dtype=torch.bool)
    >>> turns_for(valid).tolist(), turns_for(valid & (torch.arange(20) > 0)[:, None, None]).tolist()
    ([0], [3])
    """
    seen = valid.flatten(2).any(dim=2).sum(dim=1)
    turns = -(-JUDGED * EVERY_FRAME // seen.clamp_min(1))
    return torch.where(empty_frames(valid).any(dim=1), turns.clamp_max(EVERY_FRAME), 0)


def empty_frames(valid: Tensor) -> Tensor:
    """Frames (B, T) bool of which nothing was observed, of stacks of which something was."""
    seen = valid.flatten(2).any(dim=2)
    return ~seen & seen.any(dim=1, keepdim=True)


def hidden_frames(valid: Tensor, turn: int = 0) -> Tensor:
    """Every third frame that holds observations, wholly (B, T, H, W) bool: how candidates do without a frame. Others at the next ``turn``.

    Never the only one.
    """
    seen = valid.flatten(2).any(dim=2)
    number = seen.cumsum(dim=1)
    chosen = (
        seen & (number % EVERY_FRAME == (EVERY_FRAME // 2 + 1 + turn) % EVERY_FRAME) & (number[:, -1:] > 1)
    )
    return valid & chosen[:, :, None, None]


def inner_hold_out(valid: Tensor) -> Tensor:
    """Observed cells to hide so that each candidate can be judged: gaps of other frames laid over each frame.

    Frames of which nothing was observed lend no gap: a frame hidden wholly says nothing about cells that have neighbours.
    Deterministic, the same for equal samples at any place of a batch. At most ``HIDDEN_SHARE`` (about) of the observed cells
    are hidden, in frames chosen at random where it would be more; where frames have too few gaps, blobs are added. A single
    frame gets its own gaps, turned by 180 degrees.

    Parameters
    ----------
    valid : (B, T, H, W) bool.

    Returns
    -------
    (B, T, H, W) bool, a subset of ``valid``.
    """
    _, t, h, w = valid.shape
    generator = torch.Generator().manual_seed(20231200963)
    shift = torch.randint(1, max(t, 2), (t,), generator=generator)
    lot = torch.rand(t, generator=generator).to(valid.device)
    blobs = blob_field(t, h, w, generator).to(valid.device)
    observed = valid.flatten(1).sum(dim=1).clamp_min(1).float()
    if t == 1:
        transplanted = valid & ~valid.flip((2, 3))
        columns = transplanted.sum(dim=(1, 2)).cumsum(dim=1)
        kept = (columns <= HIDDEN_SHARE * observed[:, None])[:, None, None]
    else:
        transplanted = valid & ~torch.stack([sample[donors(sample, shift)] for sample in valid])
        share = transplanted.flatten(1).sum(dim=1) / observed
        kept = (lot[None] < (HIDDEN_SHARE / share.clamp_min(1e-6))[:, None])[:, :, None, None]
    transplanted = transplanted & kept
    share = transplanted.flatten(1).sum(dim=1) / observed
    missing = (HIDDEN_SHARE / 2 - share).clamp_min(0.03)
    blobs = valid & (blobs[None] < missing.view(-1, 1, 1, 1))
    return transplanted | blobs


def donors(valid: Tensor, shift: Tensor) -> Tensor:
    """For each frame (T,) another one that holds observations, ``shift`` (T,) of these later; itself where there is no other.

    >>> valid = torch.tensor([True, False, True, True])[:, None, None]
    >>> donors(valid, torch.tensor([1, 1, 1, 1])).tolist()
    [2, 2, 3, 0]
    """
    seen = valid.flatten(1).any(dim=1)
    holding = seen.nonzero()[:, 0]
    if len(holding) < 2:
        return torch.arange(len(valid), device=valid.device)
    number = (seen.cumsum(dim=0) - 1).clamp_min(0)
    later = (shift.to(valid.device) - 1) % (len(holding) - 1) + 1
    return holding[(number + later) % len(holding)]


def blob_field(t: int, h: int, w: int, generator: torch.Generator) -> Tensor:
    """A smooth random field (t, h, w) whose values are uniform ranks in [0, 1) within each frame."""
    coarse = torch.randn(t, 1, max(h // 4, 1) + 2, max(w // 4, 1) + 2, generator=generator)
    smooth = F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=True)[:, 0]
    rough = smooth + 0.3 * torch.randn(t, h, w, generator=generator)
    ranks = rough.flatten(1).argsort(dim=1).argsort(dim=1)
    return (ranks.float() / (h * w)).view(t, h, w)
