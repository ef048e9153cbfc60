"""What covariates say of a stack, and whether the other candidates start from it: only if that errs less on the internal hold-out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stimpute.classical.covariate_regression import regress_covariates
from stimpute.model.batch import Batch
from stimpute.model.inner_hold_out import empty_frames
from stimpute.model.kriged import krige_rest

HELPS = 0.98  # error on the internal hold-out over that without covariates, at most
PARTS = 16  # of the hidden cells, in the order of time, that must agree on it:
SURE = 2.6  # standard errors of the mean of its logarithm (Student, 15 degrees of freedom: 99 %)
TINY = 1e-6
TOGETHER = 0.9  # share of gaps at which a covariate is known, over that of observed cells, at most, if it goes missing with them


@dataclass(frozen=True, eq=False)
class Drift:
    """Regression on covariates, view by view.

    Parameters
    ----------
    fitted : (B, T, H, W) for each view, finite everywhere.
    kriged : likewise, with kriging of what it leaves over.
    helps : (B,) bool, samples of which hidden cells are estimated better with covariates than without.
    """

    fitted: list[Tensor]
    kriged: list[Tensor]
    helps: Tensor

    def start(self, number: int) -> Tensor:
        """What the candidates of a view start from, (B, T, H, W): the regression where it helps, else 0."""
        said = self.fitted[number]
        return torch.where(self.helps[:, None, None, None], said, said.new_zeros(()))

    def taken_off(self, views: list[Batch]) -> list[Batch]:
        """The views without what their candidates start from."""
        return [replace(view, values=view.values - self.start(i)) for i, view in enumerate(views)]

    def rest(self, kriged: list[Tensor]) -> list[Tensor]:
        """Kriging of :meth:`taken_off`; of samples that covariates do not help this is ``kriged``."""
        helps = self.helps[:, None, None, None]
        return [
            torch.where(helps, of_rest - self.start(i), plain)
            for i, (of_rest, plain) in enumerate(zip(self.kriged, kriged, strict=True))
        ]


def regress_on_covariates(views: list[Batch], hidden: list[Tensor], kriged: list[Tensor]) -> Drift | None:
    """The drift of a stack; None where there are no covariates, or where they help no sample.

    Parameters
    ----------
    views : the stack, then the stack without the cells of each entry of ``hidden`` (B, T, H, W).
    hidden : as of :func:`~stimpute.model.inner_hold_out.hidden_by_turns`: cells, then whole frames.
    kriged : the views kriged without covariates.
    """
    fitted = []
    for v in views_of_covariates(views):
        said = regress_covariates(
            v.values, v.valid, v.dynamic, v.dynamic_valid, v.static, v.static_valid, v.times
        )
        if said is None:
            return None
        fitted.append(said)
    with_covariates = krige_rest(views, fitted)
    asked = like_most_gaps(views[0].valid, hidden)
    before, after = (missed(said[1:], views[0].values, asked) for said in (kriged, with_covariates))
    cells = torch.stack(asked).any(dim=0)
    helps = torch.stack([is_less(a[h], b[h]) for a, b, h in zip(after, before, cells, strict=True)])
    return Drift(fitted, with_covariates, helps) if bool(helps.any()) else None


def views_of_covariates(views: list[Batch]) -> list[Batch]:
    """The views, in which covariates that go missing with the values are missing from cells that are hidden, too.

    Those are covariates known at a smaller share of gaps than of observed cells: other bands under the same clouds.
    """
    first = views[0]
    if not first.dynamic.shape[1]:
        return views
    at_gaps, at_observed = (
        (first.dynamic_valid & cells[:, None]).flatten(2).sum(dim=2)
        / cells.flatten(1).sum(dim=1).clamp_min(1)[:, None]
        for cells in (~first.valid, first.valid)
    )
    together = (at_gaps < TOGETHER * at_observed)[:, :, None, None, None]
    if not bool(together.any()):
        return views
    hidden = [(first.valid & ~v.valid)[:, None] for v in views]
    return [
        replace(v, dynamic_valid=v.dynamic_valid & ~(together & cells))
        for v, cells in zip(views, hidden, strict=True)
    ]


def like_most_gaps(valid: Tensor, hidden: list[Tensor]) -> list[Tensor]:
    """Of what is hidden, sample by sample: the whole frames where most gaps lie in empty ones, else the cells."""
    gaps = (~valid).flatten(1).sum(dim=1)
    in_empty = (~valid & empty_frames(valid)[:, :, None, None]).flatten(1).sum(dim=1)
    frames = torch.zeros_like(in_empty, dtype=torch.bool)
    for turn in hidden[1:]:
        frames = frames | turn.flatten(1).any(dim=1)
    whole = (frames & (2 * in_empty > gaps))[:, None, None, None]
    return [hidden[0] & ~whole, *(turn & whole for turn in hidden[1:])]


def missed(said: list[Tensor], values: Tensor, asked: list[Tensor]) -> Tensor:
    """Absolute error (B, T, H, W) of each view at the cells asked of it; of the first that is asked."""
    error = torch.zeros_like(values)
    for estimate, cells in zip(reversed(said), reversed(asked), strict=True):
        error = torch.where(cells, (estimate - values).abs(), error)
    return error


def is_less(after: Tensor, before: Tensor) -> Tensor:
    """Whether errors (n,) are clearly smaller than others of the same cells, in the order of time: bool, without dimensions."""
    if len(after) < PARTS:
        return torch.tensor(False, device=after.device)
    part = (torch.arange(len(after), device=after.device) * PARTS).div(len(after), rounding_mode="floor")
    sums = [torch.zeros(PARTS, device=after.device).index_add(0, part, e) + TINY for e in (after, before)]
    change = (sums[0] / sums[1]).log()
    doubt = SURE * change.std() / PARTS**0.5
    clearly: Tensor = (sums[0].sum() < HELPS * sums[1].sum()) & (change.mean() < -doubt)
    return clearly
