"""When the steps of CF files were: as the user says, by their time coordinate, by a scalar, by their names, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stimpute.errors import InputError
from stimpute.io.cf import Axes, time_variable
from stimpute.io.cf_time import TimeAxis, decode_times, from_labels, index_axis
from stimpute.io.dates import detect_dates
from stimpute.io.options import ReadOptions
from stimpute.io.raw import RawFile, RawVariable
from stimpute.io.room import refuse_absurd

_STEP_BYTES = 500  # a date, its label, its phases


def time_axes(
    files: Sequence[RawFile], axes: Sequence[Axes], lead: str, options: ReadOptions
) -> list[TimeAxis]:
    """One time axis per file.

    Parameters
    ----------
    axes : of the variable ``lead``, per file.

    Raises
    ------
    InputError : dates that are not as many as the steps, cannot be read, or are missing where other files have them.
    """
    lengths = [1 if (t := a.time) is None else f.dims[t] for f, a in zip(files, axes)]
    if options.times is not None:
        return _given_times(files[0], options.times, lengths)
    if all(a.time is None for a in axes):
        return _single_steps(files, axes, lead, options)
    return [_time_axis(f, f.variables[lead], a) for f, a in zip(files, axes)]


def _given_times(first: RawFile, labels: Sequence[str], lengths: Sequence[int]) -> list[TimeAxis]:
    if len(labels) != sum(lengths):
        raise InputError(f"{first.path}: --times gives {len(labels)} dates for {sum(lengths)} steps")
    ends = np.cumsum(lengths)
    return [from_labels(labels[end - n : end], label="--times") for n, end in zip(lengths, ends)]


def _single_steps(
    files: Sequence[RawFile], axes: Sequence[Axes], lead: str, options: ReadOptions
) -> list[TimeAxis]:
    """Files without a time dimension: dated by a scalar, else by their names, else not at all."""
    scalars = [time_variable(f, f.variables[lead], a) for f, a in zip(files, axes)]
    if all(s is not None for s in scalars):
        return [
            decode_times(s.read().reshape(1), s.attrs, label=f"{f.path}: {s.name}", name=s.short)
            for f, s in zip(files, scalars)
            if s is not None
        ]
    if len(files) > 1:
        reading = detect_dates([Path(f.path).name for f in files], options.date_format)
        return [
            from_labels([moment.isoformat()], label=str(f.path)) for moment, f in zip(reading.instants, files)
        ]
    return [index_axis(1, label=f"{files[0].path}: {lead}")]


def _time_axis(file: RawFile, variable: RawVariable, axes: Axes) -> TimeAxis:
    label = f"{file.path}: {variable.name}"
    if axes.time is None:
        raise InputError(f"{label} has no time dimension, unlike the other files of the stack")
    refuse_absurd(
        file.dims[axes.time] * _STEP_BYTES, f"{label}: {file.dims[axes.time]} steps", "is the file damaged?"
    )
    dated = time_variable(file, variable, axes)
    if dated is None:
        return index_axis(file.dims[axes.time], label=label)
    return decode_times(dated.read(), dated.attrs, label=f"{file.path}: {dated.name}", name=dated.short)
