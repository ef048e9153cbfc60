"""One line per naming convention; the answer is the ISO label of each name."""

from __future__ import annotations

from datetime import datetime

import pytest

from stimpute.errors import InputError
from stimpute.io.dates import detect_dates, find_readings, rename

ONE = [
    ("sst_20180131.tif", "2018-01-31T00:00:00"),
    ("20180131.tif", "2018-01-31T00:00:00"),
    ("NDVI_2018-01-31.tif", "2018-01-31T00:00:00"),
    ("NDVI_2018_01_31.tif", "2018-01-31T00:00:00"),
    ("chirps-v2.0.2018.01.31.tif", "2018-01-31T00:00:00"),
    ("X2000.02.18", "2000-02-18T00:00:00"),
    ("lst_2018031.tif", "2018-01-31T00:00:00"),
    ("MOD13A1_NDVI_2016_337.tif", "2016-12-02T00:00:00"),
    ("MOD13Q1.A2013257.tif", "2013-09-14T00:00:00"),
    ("MOD13Q1.A2022017.h08v06.061.2022034233611.250m_16_days_NDVI.tif", "2022-01-17T00:00:00"),
    ("MOD021KM.A2018001.1035.061.2018001193012.tif", "2018-01-01T10:35:00"),
    ("VNP13A2.A2025001.h18v09.002.2025017085341.h5", "2025-01-01T00:00:00"),
    ("MOD13Q1.061__250m_16_days_NDVI_doy2018001_aid0001.tif", "2018-01-01T00:00:00"),
    ("LC08_L1TP_013032_20180131_20180207_01_T1", "2018-01-31T00:00:00"),
    ("LC08_L1TP_013032_20180131_20180207_01_T1_B4.TIF", "2018-01-31T00:00:00"),
    ("LC08_L1TP_013032_20180131_B4.TIF", "2018-01-31T00:00:00"),
    ("LC80130322018031LGN00_B4.TIF", "2018-01-31T00:00:00"),
    ("HLS.L30.T31UFS.2018031T105021.v2.0.B04.tif", "2018-01-31T10:50:21"),
    ("S2A_MSIL2A_20180131T105021_N0206_R008_T31UFS_20180131T141132.SAFE", "2018-01-31T10:50:21"),
    ("T31UFS_20180131T105021_B04_10m.jp2", "2018-01-31T10:50:21"),
    ("S1A_IW_GRDH_1SDV_20180131T105021_20180131T105046_020398_022D5A_7C1E", "2018-01-31T10:50:21"),
    ("S3A_SL_2_LST____20180131T105021_20180131T105321_20180131T130000_0179.tif", "2018-01-31T10:50:21"),
    ("S2A2A_20180131_008_BOA_10.tif", "2018-01-31T00:00:00"),
    ("20180131_LEVEL2_SEN2A_BOA.tif", "2018-01-31T00:00:00"),
    ("20180131_105021_1013_3B_AnalyticMS.tif", "2018-01-31T10:50:21"),
    ("SENTINEL2A_20180131-105021-123_L2A_T31UFS_D.tif", "2018-01-31T10:50:21"),
    ("TERRA_MODIS_012010_NDVI_2013-09-14.jp2", "2013-09-14T00:00:00"),
    ("201609281445_FINUTM.tif", "2016-09-28T14:45:00"),
    ("20180131105021-C3S-L3.tif", "2018-01-31T10:50:21"),
    ("goes_2018013110.tif", "2018-01-31T10:00:00"),
    ("OR_ABI-L2-LSTF-M6_G16_s20180311030383_e20180311041150_c20180311041577.tif", "2018-01-31T10:30:38"),
    ("3B-HHR.MS.MRG.3IMERG.20180131-S103000-E105959.0630.V06B.tif", "2018-01-31T10:30:00"),
    ("c_gls_NDVI_201801310000_GLOBE_PROBAV_V2.2.1.tif", "2018-01-31T00:00:00"),
    ("ESACCI-SOILMOISTURE-L3S-SSMV-COMBINED-20160606000000-fv05.2.tif", "2016-06-06T00:00:00"),
    ("SMAP_L3_SM_P_20180131_R16510_001.tif", "2018-01-31T00:00:00"),
    ("AQUA_MODIS.20180101_20180131.L3m.MO.CHL.chlor_a.9km.tif", "2018-01-01T00:00:00"),
    ("A20180012018031.L3m_MO_CHL_chlor_a_9km.tif", "2018-01-01T00:00:00"),
    ("et_201801.tif", "2018-01-01T00:00:00"),
    ("et_2018-02.tif", "2018-02-01T00:00:00"),
    ("et_2018_03.tif", "2018-03-01T00:00:00"),
    ("et_2018Mar.tif", "2018-03-01T00:00:00"),
    ("et_mar_2018.tif", "2018-03-01T00:00:00"),
    ("et_05-Mar-2018.tif", "2018-03-05T00:00:00"),
    ("lakes_31.01.2018.tif", "2018-01-31T00:00:00"),
    ("landcover_2018.tif", "2018-01-01T00:00:00"),
    ("2018-01-31T10:50:21Z", "2018-01-31T10:50:21"),
    ("2018-01-31 10:50", "2018-01-31T10:50:00"),
    ("time=2018-01-31 00:00:00.000", "2018-01-31T00:00:00"),
    ("2018:01:31 10:50:21", "2018-01-31T10:50:21"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "label"), ONE, ids=[n for n, _ in ONE])
def test_one_name(name: str, label: str) -> None:
    assert detect_dates([name]).instants[0].isoformat() == label


SEVERAL = [
    # a range and its length, through the year's last, shorter composite
    (["a_20181219_20181226", "a_20181227_20181231", "a_20190101_20190108"], ["2018-12-19", "2018-12-27", "2019-01-01"], "YYYYMMDD range"),
    (["a_2018-01-01_2018-01-31", "a_2018-02-01_2018-02-28"], ["2018-01-01", "2018-02-01"], "YYYY-MM-DD range"),
    (["a_20180101-20180108", "a_20180117-20180124"], ["2018-01-01", "2018-01-17"], "YYYYMMDD range"),
    (["a_201801_201803", "a_201804_201806"], ["2018-01-01", "2018-04-01"], "YYYYMM range"),
    # what never changes is no time axis
    (["v20200101_2018031", "v20200101_2018032"], ["2018-01-31", "2018-02-01"], "YYYYDDD"),
    (["t20200101_20180131", "t20200101_20180216"], ["2018-01-31", "2018-02-16"], "YYYYMMDD"),
    # a time that never changes may be a number; one that changes is a time
    (["a_20180131_0115", "a_20180201_0115"], ["2018-01-31", "2018-02-01"], "YYYYMMDD"),
    (["a_20180131_0115", "a_20180131_0130"], ["2018-01-31T01:15:00", "2018-01-31T01:30:00"], "YYYYMMDD_hhmm"),
    # day first, certain because no month has 31
    (["a_31-01-2018", "a_01-02-2018"], ["2018-01-31", "2018-02-01"], "DD-MM-YYYY"),
    # month and day that agree are one reading
    (["201801/a_20180105", "201802/a_20180205"], ["2018-01-05", "2018-02-05"], "YYYYMMDD"),
    # identifiers of uneven length before the date
    (["scene9_20180101", "scene10_20180102"], ["2018-01-01", "2018-01-02"], "YYYYMMDD"),
    (["1999", "2000"], ["1999-01-01", "2000-01-01"], "YYYY"),
    (["a_2018_b1", "a_2019_b1"], ["2018-01-01", "2019-01-01"], "YYYY"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "labels", "pattern"), SEVERAL, ids=str)
def test_several_names(names: list[str], labels: list[str], pattern: str) -> None:
    reading = detect_dates(names)
    read = [t.isoformat().removesuffix("T00:00:00") for t in reading.instants]
    assert (read, reading.pattern) == (labels, pattern)


AMBIGUOUS = [
    [
        "a_20180131_20180207",
        "a_20180216_20180301",
        "a_20180320_20180401",
    ],  # acquisition and processing, or what?
    ["a_20180131_20180207"],
    ["a_01022018", "a_03042018"],
    ["20200101_a_20180101", "20200301_a_20180109", "20200302_a_20180120"],
]


@pytest.mark.parametrize("names", AMBIGUOUS, ids=str)
def test_two_readings_are_an_error_that_shows_both(names: list[str]) -> None:
    with pytest.raises(InputError, match="--date-format") as caught:
        detect_dates(names)
    assert str(caught.value).count("->") == 2


@pytest.mark.parametrize(
    "names",
    [
        ["a.tif"],
        ["a_1234567.tif"],
        ["a_20181345.tif"],
        ["a_20180101", "b"],
        ["a_2018_1", "a_2018_2"],
        ["a_123456789"],
    ],
    ids=str,
)
def test_no_date_is_an_error(names: list[str]) -> None:
    with pytest.raises(InputError, match="--date-format"):
        detect_dates(names)


FORMATTED = [
    ("%Y%m%d", "sst_20180131.tif", "2018-01-31"),
    ("%y%m%d", "sst_180131.tif", "2018-01-31"),
    ("%d%m%Y", "sst_01022018.tif", "2018-02-01"),
    ("%m%d%Y", "sst_01022018.tif", "2018-01-02"),
    ("%Y%j", "lst2018031x.tif", "2018-01-31"),
    ("%Y%m%d", "a_201801311050.tif", "2018-01-31"),
    ("T1_%Y%m%d", "a_20180101_T1_20180131.tif", "2018-01-31"),
    ("L?08_*_%Y%m%d_", "LC08_L1TP_013032_20180131_20180207.tif", "2018-01-31"),
    ("%d%b%Y", "a_05Mar2018.tif", "2018-03-05"),
]


@pytest.mark.parametrize(("date_format", "name", "day"), FORMATTED)
def test_date_format(date_format: str, name: str, day: str) -> None:
    assert detect_dates([name], date_format).instants[0].date().isoformat() == day


def test_date_format_that_fits_twice_or_not_at_all() -> None:
    with pytest.raises(InputError, match="ambiguous"):
        detect_dates(["a_20180131_20180207.tif", "a_20180301_20180402.tif"], "%Y%m%d")
    with pytest.raises(InputError, match=r"no date in 'b\.tif'"):
        detect_dates(["a_20180131.tif", "b.tif"], "%Y%m%d")
    with pytest.raises(InputError, match="no year"):
        detect_dates(["a_0131.tif"], "%m%d")


def test_ranges_have_ends() -> None:
    reading = detect_dates(["AQUA_MODIS.20180101_20180131.tif", "AQUA_MODIS.20180201_20180228.tif"])
    assert reading.ends == (datetime(2018, 1, 31), datetime(2018, 2, 28))
    assert find_readings(["a_20180101", "a_20180102"])[0].ends is None


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("sst_20180131.tif", "sst_20180216.tif"),
        ("a_2018_031.tif", "a_2018_047.tif"),
        ("a_31Jan2018.tif", "a_16Feb2018.tif"),
        ("AQUA.20180131_20180201.tif", "AQUA.20180216_20180217.tif"),
    ],
)
def test_rename(name: str, new: str) -> None:
    assert rename(name, detect_dates([name]).found[0], datetime(2018, 2, 16)) == new
