"""Which values a variable can have: as its file declares, as its standard name allows, or as what was observed of it shows."""

from __future__ import annotations

import numpy as np

from stimpute.inference.options import Bounds, FillOptions
from stimpute.protocols import Layer
from stimpute.stack import Float32Array

STANDARD_NAME_BOUNDS: dict[str, Bounds] = {
    "normalized_difference_vegetation_index": (-1.0, 1.0),
    "volume_fraction_of_condensed_water_in_soil": (0.0, 1.0),
    "soil_moisture_content": (0.0, None),
    "mass_content_of_water_in_soil": (0.0, None),
    "mass_concentration_of_chlorophyll_in_sea_water": (0.0, None),
    "mass_concentration_of_chlorophyll_a_in_sea_water": (0.0, None),
    "area_fraction": (0.0, None),
    "cloud_area_fraction": (0.0, None),
    "sea_ice_area_fraction": (0.0, None),
    "relative_humidity": (0.0, None),
    "air_temperature": (0.0, None),
    "wind_speed": (0.0, None),
    "leaf_area_index": (0.0, None),
    "surface_albedo": (0.0, None),
}
_NEVER_NEGATIVE = ("precipitation", "rainfall", "snowfall", "lwe_thickness", "aerosol_optical")
_SHARES = ("1", "%", "percent", "m3 m-3", "m3/m3")
_AMOUNTS = (
    "mm",
    "mm/h",
    "mm h-1",
    "mm/hr",
    "mm/day",
    "mm d-1",
    "mm day-1",
    "mg m-3",
    "mg/m3",
    "mg m^-3",
    "ug m-3",
    "kg m-3",
    "g m-3",
    "kg m-2",
    "kg m-2 s-1",
)
_KELVIN = ("K", "kelvin", "Kelvin", "degK", "deg_K", "degrees_K", "degrees K")
PILED_UP = 0.05  # of what is observed, at one end of it: no tail of a distribution
_AT_LEAST = 20  # cells


def resolve_bounds(
    layer: Layer, options: FillOptions, seen: Float32Array | None = None
) -> tuple[Bounds, str]:
    """(low, high) that filled values of a layer are clipped into, None leaving a side open; and in words where what is observed says so.

    Parameters
    ----------
    seen : observed values of the layer (n,), some of them; None: bounds are not asked of what is observed.
    """
    if options.bounds is None:
        return (None, None), ""
    if options.bounds != "auto":
        return options.bounds, ""
    low, high = layer.valid_range
    known = STANDARD_NAME_BOUNDS.get(layer.standard_name, (None, None))
    if any(word in layer.standard_name for word in _NEVER_NEGATIVE):
        known = (0.0, None)
    known = _in_units(known, layer, seen)
    low, high = known[0] if low is None else low, known[1] if high is None else high
    if seen is None or (low, high) != (None, None):
        return (low, high), ""
    return _observed_bounds(layer, seen)


def _in_units(known: Bounds, layer: Layer, seen: Float32Array | None) -> Bounds:
    """What a standard name allows, in the units of the file; a side beyond which something was observed is none."""
    low, high = known
    units = layer.units.strip()
    if "temperature" in layer.standard_name and units not in _KELVIN:
        low = None
    if high is not None and units in ("%", "percent"):
        low, high = None if low is None else 100 * low, 100 * high
    if seen is None or not seen.size:
        return low, high
    return (
        None if low is not None and seen.min() < low else low,
        None if high is not None and seen.max() > high else high,
    )


def _observed_bounds(layer: Layer, values: np.ndarray) -> tuple[Bounds, str]:
    """0, where nothing is below it and the units are those of amounts, or there are none and much lies exactly on it; of shares 1 or 100 above, where much lies on that."""
    if len(values) < _AT_LEAST or values.min() < 0:
        return (None, None), ""
    units = layer.units.strip()
    least = max(_AT_LEAST, PILED_UP * len(values))
    amount = units in (*_AMOUNTS, *_SHARES[1:])
    if not amount and (units not in ("", "1") or int((values == 0).sum()) < least):
        return (None, None), ""
    top = float(values.max())
    share = units in _SHARES or not units
    full = top in (1.0, 100.0) and int((values == top).sum()) >= least and share
    said = f"{layer.name}: nothing observed is below 0" + (f" or above {top:g}" if full else "")
    return (
        0.0,
        top if full else None,
    ), f"{said}, so that filled values are not either; --bounds none lets them"
