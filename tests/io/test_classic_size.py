"""The length that a NetCDF-3 header asks for, against files that netCDF4 wrote."""

import netCDF4
import pytest

from stimpute.io.classic_size import declared_bytes, is_classic, missing_bytes

KINDS = ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("records", [0, 1, 2])
@pytest.mark.parametrize("last", ["i1", "i2", "f8"])
def test_it_is_the_length_of_the_file(tmp_path, kind, records, last):
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w", format=kind) as file:
        file.createDimension("time", None)
        file.createDimension("x", 3)
        file.title = "odd length"
        for k in range(records):
            file.createVariable(f"r{k}", "i1", ("time", "x"))[:4] = k
        file.createVariable("never_written", "f4", ("x",))
        file.createVariable("last", last, ("x",))[:] = 1
    assert is_classic(path)
    assert missing_bytes(path) == 0
    assert 0 <= path.stat().st_size - declared_bytes(path) < 4  # padding
    path.write_bytes(path.read_bytes()[: declared_bytes(path) - 1])
    assert missing_bytes(path) == 1


@pytest.mark.parametrize("size", range(4, 60, 4))
def test_a_cut_header_is_an_error(tmp_path, size):
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("x", 3)
        file.createVariable("v", "f4", ("x",)).units = "m"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="header"):
        declared_bytes(path)


def test_other_files_are_left_alone(tmp_path):
    other = tmp_path / "a.nc"
    other.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert not is_classic(other)
    assert not is_classic(tmp_path / "absent.nc")
