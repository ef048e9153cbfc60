"""Yeo-Johnson's power transform: skewed values become about normal, and back again. Knows nothing about grids.

Kriging gives a mean. Where values are skewed, as of chlorophyll or rain, kriging of transformed values gives, back in units,
about the median, and no few large values speak for everything around them.

Source: Yeo, I.-K. and Johnson, R. A. (2000), Biometrika 87, 954-959.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POWERS = tuple(0.25 * k for k in range(9))  # 0 (logarithm of large values) to 2 (of small ones)
_SAMPLE = 20_000
_NORMAL = 1.4826  # standard deviation over median absolute deviation, of a normal distribution
_NARROW = 0.05  # of the standard deviation: the least unit in which values are raised to powers


@dataclass(frozen=True)
class PowerTransform:
    """``y = ((1 + x) ** power - 1) / power`` for ``x >= 0`` and its mirror image with ``2 - power`` below, ``x`` = (value - center) / unit.

    Parameters
    ----------
    power : in [0, 2]; 1 changes nothing but center and unit.
    center, unit : median of the values and about their standard deviation.
    gain : how much likelier the values are, each, under a normal distribution once transformed, in nats; >= 0.

    >>> transform = PowerTransform.fit(torch.exp(torch.linspace(-2, 2, 401)))
    >>> transform.power, transform.gain > 0.1
    (0.0, True)
    >>> float(transform.backward(transform.forward(torch.tensor(3.0))))
    3.0
    """

    power: float
    center: float
    unit: float
    gain: float

    @classmethod
    def fit(cls, values: Tensor) -> PowerTransform:
        """The power of ``POWERS`` under which ``values`` (any shape, finite) are most likely; 1 for less than two different ones."""
        flat = values.flatten()
        flat = flat[:: max(len(flat) // _SAMPLE, 1)].double()
        spread = float(flat.std()) if len(flat) > 1 else 0.0
        if not spread > 0:
            return cls(1.0, float(flat.mean()) if len(flat) else 0.0, 1.0, 0.0)
        center = float(flat.median())
        unit = max(_NORMAL * float((flat - center).abs().median()), _NARROW * spread)
        x = (flat - center) / unit
        stretch = float((x.sign() * x.abs().log1p()).mean())
        likely = {p: (p - 1) * stretch - 0.5 * float(_raised(x, p).var().log()) for p in POWERS}
        power = max(likely, key=likely.__getitem__)
        return cls(power, center, unit, likely[power] - likely[1.0])

    def forward(self, values: Tensor) -> Tensor:
        """Transformed values, of the same shape."""
        return _raised((values - self.center) / self.unit, self.power)

    def backward(self, transformed: Tensor) -> Tensor:
        """The inverse of :meth:`forward`: powers in [0, 2] reach every number, so it is defined everywhere."""
        return _lowered(transformed, self.power) * self.unit + self.center


def _raised(x: Tensor, power: float) -> Tensor:
    above, below = x.clamp_min(0), (-x).clamp_min(0)
    return torch.where(x >= 0, _box_cox(above, power), -_box_cox(below, 2 - power))


def _lowered(y: Tensor, power: float) -> Tensor:
    above, below = y.clamp_min(0), (-y).clamp_min(0)
    return torch.where(y >= 0, _box_cox_inverse(above, power), -_box_cox_inverse(below, 2 - power))


def _box_cox(x: Tensor, power: float) -> Tensor:
    return x.log1p() if power == 0 else ((1 + x) ** power - 1) / power


def _box_cox_inverse(y: Tensor, power: float) -> Tensor:
    return y.expm1() if power == 0 else (1 + power * y) ** (1 / power) - 1
