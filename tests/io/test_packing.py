"""Stored numbers to values and back, every kind of fill."""

import warnings

import numpy as np
import pytest

from stimpute.errors import InputError, OutputError, StimputeWarning
from stimpute.io.packing import Packing
from stimpute.io.packing_attributes import packing_of


def packed(attrs: dict, dtype: str = "i2", **options: object) -> Packing:
    return packing_of(attrs, np.dtype(dtype), label="f.nc: v", **options)


def test_scale_offset_and_fill():
    packing = packed({"scale_factor": 0.01, "add_offset": 20.0, "_FillValue": np.int16(-999)})
    values, valid = packing.decode(np.array([-999, 0, 150], dtype="i2"))
    assert valid.tolist() == [False, True, True]
    np.testing.assert_allclose(values, [0, 20, 21.5])


def test_negative_scale_swaps_the_valid_limits():
    packing = packed({"scale_factor": -2.0, "add_offset": 0.0, "valid_range": np.array([0, 10], dtype="i2")})
    assert packing.decoded_limits == (-20.0, 0.0)
    assert packing.decode(np.array([0, 10, 11], dtype="i2"))[1].tolist() == [True, True, False]


def test_missing_value_vector_beside_another_fill():
    packing = packed({"_FillValue": np.int16(-1), "missing_value": np.array([250, 251], dtype="i2")})
    assert packing.observed(np.array([-1, 250, 251, 252], dtype="i2")).tolist() == [False, False, False, True]


def test_nan_and_a_sentinel_in_one_file_and_infinity():
    packing = packed({"_FillValue": np.float32(-9999)}, "f4")
    stored = np.array([-9999, np.nan, np.inf, 0.5], dtype="f4")
    values, valid = packing.decode(stored)
    assert valid.tolist() == [False, False, False, True]
    assert values.tolist() == [0, 0, 0, 0.5]


def test_float64_nodata_for_float32_data():
    packing = packed({"missing_value": np.float64(-3.4e38)}, "f4")
    assert packing.observed(np.array([-3.4028235e38, -3.4e38, 1], dtype="f4")).tolist() == [
        False,
        False,
        True,
    ]


def test_unsigned_bytes_declared_signed():
    attrs = {"_Unsigned": "true", "_FillValue": np.int8(-1), "valid_range": np.array([0, -6], dtype="i1")}
    packing = packed(attrs, "i1")
    stored = np.array([255, 251, 250, 200], dtype="u1").view("i1")
    values, valid = packing.decode(stored)
    assert valid.tolist() == [False, False, True, True]
    assert values[2:].tolist() == [250, 200]
    np.testing.assert_array_equal(packing.encode([250.0, 200.0]), stored[2:])


def test_float_limits_of_packed_integers_are_in_values():
    packing = packed({"scale_factor": 0.1, "valid_min": np.float32(0.0), "valid_max": np.float32(1.0)})
    assert packing.observed(np.array([-1, 0, 10, 11], dtype="i2")).tolist() == [False, True, True, False]


def test_undeclared_default_fill_only_in_netcdf():
    stored = np.array([9.969209968386869e36, 1], dtype="f4")
    assert packed({}, "f4", netcdf=True).observed(stored).tolist() == [False, True]
    assert packed({}, "f4").observed(stored).tolist() == [True, True]


def test_nodata_outside_the_type():
    with pytest.raises(InputError, match=r"f.nc: v: nodata -9999 lies outside uint8; .*--nodata"):
        packed({"missing_value": -9999.0}, "u1")
    with pytest.raises(InputError, match=r"--nodata 300 lies outside uint8"):
        packed({}, "u1", nodata=(300,))
    with pytest.warns(StimputeWarning, match="-9999 lies outside uint8"):
        assert packed({"_FillValue": np.uint8(255), "missing_value": -9999.0}, "u1").nodata == (255,)


def test_several_codes_from_the_user():
    packing = packed({}, "u1", nodata=(249, 255))
    assert packing.observed(np.array([248, 249, 255], dtype="u1")).tolist() == [True, False, False]
    assert packing.fill == 249


def test_values_beyond_the_type_name_value_limit_and_option():
    packing = packed({"scale_factor": 0.01})
    with pytest.raises(OutputError, match=r"400 is beyond 327\.67.*--dtype"):
        packing.encode([400.0], "sst")


def test_filled_values_never_read_as_missing():
    packing = packed({"_FillValue": np.uint8(0)}, "u1")
    stored = packing.encode([0.0, 0.2, 7.0])
    assert packing.observed(stored).all()
    assert stored.tolist() == [1, 1, 7]
    rain = packed({"_FillValue": np.float32(0)}, "f4")
    assert rain.observed(rain.encode([0.0])).all()


def test_filled_values_outside_the_valid_range_are_clipped_aloud():
    packing = packed({"valid_range": np.array([0, 100], dtype="i2")})
    with pytest.warns(StimputeWarning, match="1 filled values lie outside"):
        assert packing.encode([101.0, 5.0]).tolist() == [100, 5]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "i8", "u8", "f2", "f4", "f8"])
def test_every_type_survives_encode_of_its_own_values(dtype: str):
    packing = packed({}, dtype)
    numbers = np.array([0, 1, 100], dtype=dtype)
    np.testing.assert_array_equal(packing.encode(packing.decode64(numbers)[0]), numbers)


def test_another_dtype_unpacks_floats_and_keeps_integers_packed():
    packing = packed({"scale_factor": 0.5, "_FillValue": np.int16(-1)})
    as_float, as_int = packing.with_dtype("float32"), packing.with_dtype("int32")
    assert not as_float.packed
    assert np.isnan(as_float.fill)
    assert (as_int.scale, as_int.fill) == (0.5, -1)
    with pytest.raises(OutputError, match="--dtype potato"):
        packing.with_dtype("potato")


@pytest.mark.parametrize(
    "attrs", [{"_FillValue": np.int16(-7), "scale_factor": 0.1}, {"_Unsigned": "true", "valid_max": 300}]
)
def test_large_arrays_decode_like_small_ones(attrs):
    packing = packed(attrs)
    stored = np.arange(-(2**15), 2**15, dtype="i2").repeat(3)
    values, valid = packing.decode(stored)
    pieces = [packing.decode(stored[i : i + 1000]) for i in range(0, stored.size, 1000)]
    np.testing.assert_array_equal(values, np.concatenate([p[0] for p in pieces]))
    np.testing.assert_array_equal(valid, np.concatenate([p[1] for p in pieces]))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0.1476, 0.3], "int16"), ([255.0, 3.0], "uint8"), ([0.0, 200.0], "int16")],
    ids=["fractions", "the new fill", "beyond the valid range"],
)
def test_observed_values_that_another_dtype_cannot_hold_are_refused(values: list[float], dtype: str):
    limits = {"valid_range": np.array([-100, 100], dtype="f4")} if 200.0 in values else {}
    packing = packing_of(limits, np.dtype("f4"), label="test").with_dtype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        with pytest.raises(OutputError, match=r"observed value .* would become"):
            packing.recode(values)
    assert packing.observed(packing.recode([1.0, 7.0])).all()


@pytest.mark.parametrize(
    ("source", "value", "dtype"),
    [
        ("f8", 300000000.4, "int32"),
        ("i8", -2147483647, "int32"),
        ("i8", 2**53 + 2, "uint64"),
        ("f8", 21.9999, "int16"),
    ],
)
def test_large_observed_numbers_do_not_change_unseen(source: str, value: float, dtype: str):
    packing = packing_of({}, np.dtype(source), label="test").with_dtype(dtype)
    with pytest.raises(OutputError, match=r"observed value .* would become .*--dtype float32"):
        packing.recode([float(value)], "v", source)


@pytest.mark.parametrize(
    ("source", "value"),
    [("f4", np.float32(22) - np.spacing(np.float32(22))), ("f8", 220 * 0.1), ("i8", 2**31 - 2)],
)
def test_rounding_of_the_last_place_is_no_change(source: str, value: float):
    packing = packing_of({}, np.dtype(source), label="test").with_dtype("int32")
    assert packing.recode([float(value)], "v", source).tolist() == [round(float(value))]


def test_its_own_type_is_no_other_one():
    packing = packed({"_FillValue": np.int16(-1), "missing_value": np.int16(-2), "scale_factor": 0.5})
    assert packing.with_dtype("int16") is packing
