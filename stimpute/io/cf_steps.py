"""The steps of a stack out of the time axes of its files: sorted, selected, duplicates decided, holes inserted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cftime
import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.io.cadence import Even, cadence_of
from stimpute.io.cf_time import NO_CALENDAR, TimeAxis, from_dates, inside, parse_label
from stimpute.io.options import Dedupe

FloatArray = npt.NDArray[np.float64]
Place = tuple[int, int]  # (file, index along its time dimension)


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of a stack in ascending time.

    Parameters
    ----------
    places : where each step is stored: one place; several that are averaged; none for an inserted gap.
    days, stamps, calendar, year_phase, day_phase : see :class:`stimpute.io.cf_time.TimeAxis`.
    position : the place of each step in the output (the file's own order, where it can be kept).
    altered : what was done to the steps beyond selecting them, in words for the history.
    """

    places: tuple[tuple[Place, ...], ...]
    days: FloatArray
    stamps: tuple[str, ...]
    calendar: str
    year_phase: FloatArray
    day_phase: FloatArray
    position: npt.NDArray[np.intp]
    altered: tuple[str, ...] = ()


def arrange(
    axes: Sequence[TimeAxis],
    labels: Sequence[str],
    *,
    time: tuple[str, str] | None = None,
    dedupe: Dedupe | None = None,
    regular: bool = False,
) -> Steps:
    """Sort, select, merge.

    Parameters
    ----------
    axes : one per file.
    labels : file names, for messages.
    time : first and last step kept.

    Raises
    ------
    InputError : files of different calendars, nothing left, duplicates without ``dedupe``, no regular step.
    """
    calendars = {axis.calendar for axis in axes}
    if len(calendars) > 1:
        second = next(i for i, axis in enumerate(axes) if axis.calendar != axes[0].calendar)
        raise InputError(
            f"{labels[0]} has the calendar {axes[0].calendar}, {labels[second]} has {axes[second].calendar}: "
            "they cannot be one stack"
        )
    steps = _sorted(axes)
    if time is not None:
        steps = _selected(steps, time, labels[0])
    steps = _deduplicated(steps, dedupe, labels)
    if regular:
        steps = _regular(steps, labels[0])
    return steps


def _sorted(axes: Sequence[TimeAxis]) -> Steps:
    places = [(f, i) for f, axis in enumerate(axes) for i in range(len(axis.days))]
    days = np.concatenate([axis.days for axis in axes])
    order = np.argsort(days, kind="stable")
    stamps = [s for axis in axes for s in axis.stamps]
    return Steps(
        places=tuple((places[i],) for i in order),
        days=days[order],
        stamps=tuple(stamps[i] for i in order),
        calendar=axes[0].calendar,
        year_phase=np.concatenate([axis.year_phase for axis in axes])[order],
        day_phase=np.concatenate([axis.day_phase for axis in axes])[order],
        position=order.astype(np.intp) if len(axes) == 1 else np.arange(len(order)),
    )


def _taken(steps: Steps, keep: npt.NDArray[np.intp], altered: tuple[str, ...] = ()) -> Steps:
    return Steps(
        places=tuple(steps.places[i] for i in keep),
        days=steps.days[keep],
        stamps=tuple(steps.stamps[i] for i in keep),
        calendar=steps.calendar,
        year_phase=steps.year_phase[keep],
        day_phase=steps.day_phase[keep],
        position=np.argsort(np.argsort(steps.position[keep])),
        altered=steps.altered + altered,
    )


def _selected(steps: Steps, time: tuple[str, str], label: str) -> Steps:
    if steps.calendar == NO_CALENDAR and any(time):
        raise InputError(
            f"{label}: its steps have no dates, so --time {','.join(time)} selects nothing; give --times"
        )
    keep = np.flatnonzero(inside(steps.stamps, *time))
    if keep.size == 0:
        raise InputError(
            f"{label}: no step between {time[0] or 'the start'} and {time[1] or 'the end'}; "
            f"it reaches from {steps.stamps[0]} to {steps.stamps[-1]}"
        )
    return _taken(steps, keep)


def _deduplicated(steps: Steps, dedupe: Dedupe | None, labels: Sequence[str]) -> Steps:
    fresh = (
        np.concatenate([[True], np.diff(steps.days) > 1e-9]) if len(steps.days) else np.array([], dtype=bool)
    )
    if fresh.all():
        return steps
    first = int(np.flatnonzero(~fresh)[0])
    if dedupe is None:
        (f0, i0), (f1, i1) = steps.places[first - 1][0], steps.places[first][0]
        raise InputError(
            f"{labels[f0]} step {i0} and {labels[f1]} step {i1} have the same time {steps.stamps[first]} "
            f"({int((~fresh).sum())} duplicates in all); decide with --dedupe first, last or mean"
        )
    starts = np.flatnonzero(fresh)
    ends = np.append(starts[1:], len(fresh))
    note = (f"{int((~fresh).sum())} duplicate steps merged (--dedupe {dedupe})",)
    if dedupe == "last":
        return _taken(steps, ends - 1, note)
    kept = _taken(steps, starts, note)
    if dedupe == "first":
        return kept
    groups = tuple(tuple(p for s in steps.places[a:b] for p in s) for a, b in zip(starts, ends))
    return Steps(**{**kept.__dict__, "places": groups})


def _regular(steps: Steps, label: str) -> Steps:
    """Insert the steps that a regular series lacks."""
    if len(steps.days) < 3 or steps.calendar == NO_CALENDAR:
        return steps
    dates = [parse_label(stamp, label, steps.calendar) for stamp in steps.stamps]
    wanted = _by_calendar(dates, label) or _even(steps)
    if wanted is None:
        raise InputError(
            f"{label}: the steps are not multiples of one interval, so --regular cannot tell which are missing"
        )
    all_dates, index = wanted
    if len(all_dates) == len(dates):
        return steps
    for date, at in zip(dates, index, strict=True):
        all_dates[at] = date
    axis = from_dates(np.array(all_dates, dtype=object))
    places: list[tuple[Place, ...]] = [()] * len(all_dates)
    for i, at in enumerate(index):
        places[at] = steps.places[i]
    return Steps(
        places=tuple(places),
        days=axis.days,
        stamps=axis.stamps,
        calendar=steps.calendar,
        year_phase=axis.year_phase,
        day_phase=axis.day_phase,
        position=np.arange(len(all_dates)),
        altered=(*steps.altered, f"{len(all_dates) - len(dates)} missing steps inserted (--regular)"),
    )


def _by_calendar(dates: list[Any], label: str) -> tuple[list[Any], list[int]] | None:
    """Every date of a series that follows the calendar (months, dekads, days of the year), and where in it ``dates`` are."""
    try:
        cadence = cadence_of(dates, label)
    except InputError:
        return None
    if isinstance(cadence, Even):  # of the median distance, with strays
        return None
    places = cadence.places(dates)
    index = (places - places[0]).tolist()
    return [dates[0], *cadence.after(dates[0], index[-1])], index


def _even(steps: Steps) -> tuple[list[Any], list[int]] | None:
    """The same for steps that are multiples of the shortest distance."""
    gaps = np.diff(steps.days)
    step = float(gaps.min())
    counts = np.concatenate([[0], np.cumsum(np.rint(gaps / step))]).astype(int)
    if np.abs((steps.days - steps.days[0]) - counts * step).max() > 0.01 * step or counts[-1] > 1_000_000:
        return None
    seconds = np.rint((steps.days[0] + np.arange(counts[-1] + 1) * step) * 86400)
    dates = cftime.num2date(
        seconds, "seconds since 1970-01-01", steps.calendar, only_use_cftime_datetimes=True
    )
    return list(dates), counts.tolist()
