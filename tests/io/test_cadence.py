"""How series of dates go on: the dates that follow are those a user of such a product would expect."""

from __future__ import annotations

import cftime
import numpy as np
import pytest

from stimpute.errors import InputError
from stimpute.io.cadence import DaysOfMonth, Even, Monthly, cadence_of
from stimpute.io.cf_time import parse_label


def dates(*labels, calendar="standard"):
    return [parse_label(text, "", calendar) for text in labels]


def every(days, count, start="2001-01-05", calendar="standard"):
    units = f"days since {start}"
    return [cftime.num2date(days * k, units, calendar, only_use_cftime_datetimes=True) for k in range(count)]


def follows(series, steps=3):
    ahead = cadence_of(series, "").after(series[-1], steps)
    return [d.isoformat().removesuffix("T00:00:00") for d in ahead]


@pytest.mark.parametrize("days", [28, 30, 32, 56, 64])
def test_steps_of_a_month_or_so_that_are_no_months_stay_even(days):
    series = every(days, 12)
    assert cadence_of(series, "") == Even(days * 86400.0)
    ahead = cadence_of(series, "").after(series[-1], 5)
    assert [d.isoformat() for d in ahead] == [d.isoformat() for d in every(days, 17)[12:]]


def test_years_of_365_days_are_no_years_in_the_standard_calendar():
    series = every(365, 8)
    assert cadence_of(series, "") == Even(365 * 86400.0)
    assert cadence_of(every(365, 8, calendar="noleap"), "") == Monthly(12, 5)


def test_steps_that_are_missing_do_not_make_even_steps_monthly():
    series = [d for k, d in enumerate(every(28, 20)) if k not in (3, 4, 11)]
    assert cadence_of(series, "").step_days == 28
    assert cadence_of(series, "").places(series).tolist() == [
        k - 19 for k in range(20) if k not in (3, 4, 11)
    ]


def test_dekads_are_days_of_the_month():
    series = dates("2021-01-11", "2021-01-21", "2021-02-01", "2021-02-11", "2021-02-21", "2021-03-01")
    assert cadence_of(series, "") == DaysOfMonth((1, 11, 21))
    assert follows(series, 4) == ["2021-03-11", "2021-03-21", "2021-04-01", "2021-04-11"]
    assert cadence_of(series, "").places([series[0], *series[3:]]).tolist() == [-5, -2, -1, 0]


def test_dekads_that_end_with_the_month():
    series = dates("2020-01-10", "2020-01-20", "2020-01-31", "2020-02-10", "2020-02-20")
    assert follows(series) == ["2020-02-29", "2020-03-10", "2020-03-20"]


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (("2021-11-01", "2021-11-16", "2021-12-01", "2021-12-16"), ["2022-01-01", "2022-01-16"]),
        (("2021-01-15", "2021-01-31", "2021-02-15", "2021-02-28", "2021-03-15"), ["2021-03-31", "2021-04-15"]),
        (("2021-01-01", "2021-01-06", "2021-01-11", "2021-01-16", "2021-01-21", "2021-01-26", "2021-02-01"),
         ["2021-02-06", "2021-02-11"]),
    ],
)  # fmt: skip
def test_half_months_and_pentads(series, expected):
    assert follows(dates(*series), 2) == expected


@pytest.mark.parametrize(("step", "first"), [(8, 1), (16, 1), (16, 9)])
def test_composites_start_afresh_every_year(step, first):
    """MODIS: every 16 days from day 1 (Terra) or 9 (Aqua) of every year."""
    series = [
        cftime.num2date(day - 1, f"days since {year}-01-01", "standard", only_use_cftime_datetimes=True)
        for year in (2019, 2020)
        for day in range(first, 366, step)
    ]
    cadence = cadence_of(series, "")
    assert (cadence.step, cadence.first) == (step, first)
    assert [d.dayofyr for d in cadence.after(series[-1], 3)] == [first, first + step, first + 2 * step]
    assert cadence.after(series[-1], 1)[0].year == 2021
    assert cadence.places(series).tolist() == list(range(1 - len(series), 1))


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "all_leap"])
@pytest.mark.parametrize(("step", "count"), [(7, 52), (10, 36)])
def test_places_that_the_year_never_has_are_not_waited_for(calendar, step, count):
    series = [
        cftime.num2date(step * k, f"days since {year}-01-01", calendar, only_use_cftime_datetimes=True)
        for year in (2001, 2002)
        for k in range(count if calendar != "360_day" else min(count, 359 // step + 1))
    ]
    ahead = cadence_of(series, "").after(series[-1], 3)
    assert [(d.year, d.dayofyr) for d in ahead] == [(2003, 1), (2003, 1 + step), (2003, 1 + 2 * step)]
    assert np.diff(cadence_of(series, "").places(series)).max() == 1


def test_days_that_short_months_lack():
    series = dates("2023-10-30", "2023-11-30", "2023-12-30", "2024-01-30")
    assert follows(series) == ["2024-02-29", "2024-03-30", "2024-04-30"]
    series = dates("2023-01-30", "2023-02-28", "2023-03-30", "2023-12-30")
    assert follows(series) == ["2024-01-30", "2024-02-29", "2024-03-30"]


def test_middles_of_months_follow_their_lengths():
    series = dates("2023-01-16T12:00", "2023-02-15T00:00", "2023-03-16T12:00", "2023-12-16T12:00")
    assert follows(series, 2) == ["2024-01-16T12:00:00", "2024-02-15T12:00:00"]


def test_days_that_wander_within_a_month_are_those_last_seen():
    series = dates("2022-01-16", "2022-02-14", "2022-03-16", "2022-04-15", "2023-01-16")
    assert follows(series) == ["2023-02-14", "2023-03-16", "2023-04-15"]


def test_a_year_of_360_days():
    series = dates("2000-01-16", "2000-02-16", "2000-03-16", calendar="360_day")
    assert follows(series, 1) == ["2000-04-16"]
    assert follows(dates("2000-01-30", "2000-02-30", calendar="360_day"), 1) == ["2000-03-30"]


def test_clocks_are_kept():
    series = dates("2021-01-01T09:30", "2021-01-11T09:30", "2021-01-21T09:30", "2021-02-01T09:30")
    assert follows(series, 1) == ["2021-02-11T09:30:00"]


def test_a_week_is_seven_days_in_february_too():
    series = dates("2021-02-01", "2021-02-08", "2021-02-15", "2021-02-22", "2021-03-01", "2021-03-08")
    assert follows(series) == ["2021-03-15", "2021-03-22", "2021-03-29"]


def test_times_that_are_off_by_seconds_are_even():
    rng = np.random.default_rng(0)
    numbers = np.arange(20) * 5 + rng.uniform(-100, 100, 20) / 86400
    series = list(cftime.num2date(numbers, "days since 2020-01-01", only_use_cftime_datetimes=True))
    assert cadence_of(series, "").step_days == pytest.approx(5, abs=0.01)


def test_uneven_times_are_refused():
    with pytest.raises(InputError, match="irregular"):
        cadence_of(dates("2020-01-01", "2020-01-04", "2020-01-05", "2020-01-13", "2020-01-15"), "x.nc")
