"""Time axes in every calendar; steps sorted, selected, merged."""

import numpy as np
import pytest

from stimpute.errors import InputError, StimputeWarning
from stimpute.io.cf_steps import arrange
from stimpute.io.cf_time import decode_times, from_labels, short_labels


def decoded(numbers, units="days since 2000-01-01", calendar="standard", name="time"):
    return decode_times(
        np.asarray(numbers), {"units": units, "calendar": calendar}, label="f.nc: time", name=name
    )


def test_calendars_keep_their_own_dates():
    assert short_labels(decoded([59, 60], calendar="noleap").stamps) == ("2000-03-01", "2000-03-02")
    assert short_labels(decoded([58, 59], calendar="360_day").stamps) == ("2000-02-29", "2000-02-30")
    assert short_labels(decoded([0], "days since 1000-01-01").stamps) == ("1000-01-01",)


def test_phases_of_year_and_day():
    axis = decoded([0.0, 182.5 + 0.25], calendar="365_day")
    np.testing.assert_allclose(axis.year_phase, [0, 182.75 / 365])
    np.testing.assert_allclose(axis.day_phase, [0, 0.75])


def test_uneven_steps_keep_their_distance():
    axis = decoded([0, 1, 30], "hours since 2020-01-01")
    np.testing.assert_allclose(np.diff(axis.days), [1 / 24, 29 / 24], atol=1e-9)


def test_months_since_is_an_error_but_for_360_day():
    with pytest.raises(InputError, match=r"'months since 2000-01-01' are not dates.*--times"):
        decoded([0, 1], "months since 2000-01-01")
    assert short_labels(decoded([1], "months since 2000-01-01", "360_day").stamps) == ("2000-02-01",)


def test_undecodable_units_are_an_error():
    with pytest.raises(InputError, match="fortnights"):
        decoded([0], "fortnights since 2000-01-01")
    with pytest.raises(InputError, match="units 'days', which define no dates"):
        decoded([0], "days")


def test_missing_times_are_an_error():
    with pytest.raises(InputError, match="1 of 2 times are missing"):
        decoded([0.0, np.nan])
    with pytest.raises(InputError, match="are missing"):
        decode_times(
            np.array([0, -1]), {"units": "days since 2000-01-01", "_FillValue": -1}, label="f.nc: time"
        )


def test_numbers_without_units_warn():
    with pytest.warns(StimputeWarning, match="read as YYYYMMDD"):
        assert short_labels(decoded([20200131, 20200229], "").stamps) == ("2020-01-31", "2020-02-29")
    with pytest.warns(StimputeWarning, match="read as years"):
        assert short_labels(decoded([1999, 2000], "", name="year").stamps)[0] == "1999-01-01"
    with pytest.warns(StimputeWarning, match="no dates"):
        axis = decoded([1, 7], "", name="month")
    np.testing.assert_allclose(axis.year_phase, [0.5 / 12, 6.5 / 12])


def test_absolute_times_of_cdo():
    assert decoded([20200131.25], "day as %Y%m%d.%f").stamps == ("2020-01-31T06:00:00",)


@pytest.mark.parametrize(
    ("calendar", "number", "stamp"),
    [
        ("360_day", 20000230.5, "2000-02-30T12:00:00"),
        ("noleap", 20000301.0, "2000-03-01T00:00:00"),
        ("all_leap", 20010229.25, "2001-02-29T06:00:00"),
    ],
)
def test_absolute_times_keep_their_calendar(calendar, number, stamp):
    axis = decoded([20000228.0, number], "day as %Y%m%d.%f", calendar)
    assert (axis.calendar, axis.stamps[1]) == (calendar, stamp)
    assert axis.days[1] == from_labels([stamp], label="doc", calendar=calendar).days[0]


def test_absolute_times_of_no_day_of_their_calendar_are_refused():
    with pytest.raises(InputError, match="'20000229' is no date"):
        decoded([20000229.0], "day as %Y%m%d.%f", "noleap")


def labels(*texts):
    return from_labels(texts, label="doc")


def test_unsorted_steps_remember_the_order_of_the_file():
    steps = arrange([labels("2020-01-03", "2020-01-01", "2020-01-02")], ["a"])
    assert [p[0][1] for p in steps.places] == [1, 2, 0]
    assert steps.position.tolist() == [1, 2, 0]


def test_selection_includes_whole_months():
    axis = labels("2019-12-31", "2020-01-01", "2020-01-31T23:00", "2020-02-01")
    assert len(arrange([axis], ["a"], time=("2020-01", "2020-01")).days) == 2
    assert len(arrange([axis], ["a"], time=("", "2020-01-01")).days) == 2
    with pytest.raises(InputError, match="no step between 2021"):
        arrange([axis], ["a"], time=("2021", ""))


def test_duplicates_ask_for_a_decision():
    axes = [labels("2020-01-01", "2020-01-02"), labels("2020-01-02")]
    with pytest.raises(InputError, match=r"a.nc step 1 and b.nc step 0 .*--dedupe"):
        arrange(axes, ["a.nc", "b.nc"])
    assert arrange(axes, ["a", "b"], dedupe="first").places[1] == ((0, 1),)
    assert arrange(axes, ["a", "b"], dedupe="last").places[1] == ((1, 0),)
    assert arrange(axes, ["a", "b"], dedupe="mean").places[1] == ((0, 1), (1, 0))


def test_regular_inserts_what_is_missing():
    daily = arrange([labels("2020-01-01", "2020-01-02", "2020-01-04")], ["a"], regular=True)
    assert short_labels(daily.stamps)[2] == "2020-01-03"
    assert daily.places[2] == ()
    monthly = arrange([labels("2020-01-15", "2020-02-15", "2020-04-15")], ["a"], regular=True)
    assert short_labels(monthly.stamps)[2] == "2020-03-15"
    with pytest.raises(InputError, match="--regular"):
        arrange([labels("2020-01-01", "2020-01-03", "2020-01-06")], ["a"], regular=True)


@pytest.mark.parametrize(
    ("dates", "missing"),
    [
        ("2020-01-31 2020-03-31 2020-08-31 2020-10-31", "02-29 04-30 05-31 06-30 07-31 09-30"),
        ("2020-01-31 2020-02-29 2020-03-31 2020-05-31", "04-30"),
        ("2020-01-01 2020-01-11 2020-01-21 2020-02-01 2020-02-21 2020-03-01", "02-11"),
        ("2020-01-15 2020-01-31 2020-02-15 2020-03-15 2020-03-31", "02-29"),
        ("2019-12-03 2019-12-19 2020-01-01 2020-02-02 2020-02-18", "01-17"),
        ("2020-01-01 2020-01-02 2020-01-04 2020-01-06 2020-01-08", "01-03 01-05 01-07"),
    ],
    ids=["months of 31 days", "month ends", "dekads", "half months", "days of the year", "every other day"],
)
def test_regular_knows_the_calendars_that_forecasts_know(dates, missing):
    steps = arrange([labels(*dates.split())], ["a"], regular=True)
    inserted = [s[5:10] for s, places in zip(steps.stamps, steps.places, strict=True) if not places]
    assert inserted == missing.split()
    kept = [s[:10] for s, places in zip(steps.stamps, steps.places, strict=True) if places]
    assert kept == dates.split()
    assert steps.places[-1] == ((0, len(kept) - 1),)


def test_calendars_do_not_mix():
    with pytest.raises(InputError, match=r"a.nc has the calendar .* b.nc has 360_day"):
        arrange([labels("2020-01-01"), decoded([0], calendar="360_day")], ["a.nc", "b.nc"])
