"""Covariates and domains on the grid and steps of a stack."""

import netCDF4
import numpy as np
import pytest
import xarray as xr

from stimpute.errors import InputError
from stimpute.io import ReadOptions, open_source
from stimpute.protocols import Window


def field_file(path, name, values, dims, lat, lon, times=None, units="days since 2020-01-01"):
    coords = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    if times is not None:
        coords["time"] = ("time", times, {"units": units})
    xr.Dataset({name: (dims, values)}, coords).to_netcdf(path)
    return path


@pytest.fixture
def stack(write_netcdf, gappy):
    """8 x 10 cells from 45 N 5 E, 0.1 degrees, 6 days from 2020-01-01."""
    return write_netcdf(gappy())


def whole(source):
    return source.read(Window.whole(source.layers[0].shape))


def test_a_plane_on_a_coarser_grid_is_interpolated_exactly(stack, tmp_path):
    lat, lon = np.arange(43, 47, 0.5), np.arange(4, 8, 0.5)
    plane = 2 * lat[:, None] + 3 * lon[None]
    path = field_file(tmp_path / "plane.nc", "plane", plane, ("lat", "lon"), lat, lon)
    with open_source(stack, ReadOptions(covariates=(f"{path}:plane",))) as source:
        grid, got = source.grid, whole(source).static["plane"]
        np.testing.assert_allclose(got, 2 * grid.y[:, None] + 3 * grid.x[None], rtol=1e-6)
        part = source.read(Window((0, 1), (2, 5), (3, 9))).static["plane"]
        np.testing.assert_allclose(part, got[2:5, 3:9], rtol=1e-6)


def test_stations_read_the_field_where_they_are(tmp_path):
    lat, lon = np.arange(43, 47, 0.5), np.arange(4, 8, 0.5)
    path = field_file(tmp_path / "plane.nc", "plane", 2 * lat[:, None] + 3 * lon, ("lat", "lon"), lat, lon)
    at = {"lat": ("station", [44.2, 43.1, 45.0], {"units": "degrees_north"}),
          "lon": ("station", [4.4, 5.9, 7.0], {"units": "degrees_east"})}  # fmt: skip
    times = {"time": ("time", [0, 1], {"units": "days since 2020-01-01"})}
    given = xr.Dataset({"t": (("time", "station"), np.ones((2, 3)))}, at | times)
    with open_source(given, ReadOptions(covariates=(str(path),), domain=str(path))) as source:
        np.testing.assert_allclose(whole(source).static["plane"], [[101.6, 103.9, 111.0]], rtol=1e-6)
        assert source.domain.shape == (1, 3)


def test_a_finer_grid_is_averaged(stack, tmp_path):
    lat, lon = np.arange(44, 46, 0.01), np.arange(4.5, 6.5, 0.01)
    noise = np.random.default_rng(0).normal(size=(len(lat), len(lon)))
    path = field_file(tmp_path / "fine.nc", "fine", noise, ("lat", "lon"), lat, lon)
    with open_source(stack, ReadOptions(covariates=(str(path),))) as source:
        fine = whole(source).static["fine"]
    assert np.isfinite(fine).all()
    assert fine.std() < 0.2  # the mean of about 80 cells


def test_time_is_interpolated_and_bounded(stack, tmp_path):
    lat, lon = np.array([46.0, 43.0]), np.array([4.0, 7.0])
    values = np.array([0.0, 4.0])[:, None, None] * np.ones((2, 2, 2))
    path = field_file(tmp_path / "rain.nc", "rain", values, ("time", "lat", "lon"), lat, lon, [0, 2])
    with open_source(stack, ReadOptions(covariates=(str(path),))) as source:
        rain = whole(source).dynamic["rain"]
    np.testing.assert_allclose(rain[:5, 0, 0], [0, 2, 4, 4, 4])
    assert np.isnan(rain[5]).all()  # three days after the last step, which is two days long


def test_gaps_and_the_outside_are_unknown(stack, tmp_path):
    lat, lon = np.array([45.0, 44.9]), np.array([5.0, 5.1, 5.2])
    values = np.array([[1.0, np.nan, 3.0], [1.0, np.nan, 3.0]])
    path = field_file(tmp_path / "small.nc", "small", values, ("lat", "lon"), lat, lon)
    with open_source(stack, ReadOptions(covariates=(str(path),))) as source:
        small = whole(source).static["small"]
    assert np.isnan(small[4:]).all()
    assert small[0, 0] == 1
    assert np.isnan(small[0, 1])


def test_another_crs(stack, tmp_path):
    import rasterio
    from rasterio.transform import from_origin

    path = tmp_path / "dem.tif"
    east = np.tile(400_000 + 1000 * (np.arange(400) + 0.5), (400, 1)).astype("f4")
    with rasterio.open(path, "w", driver="GTiff", width=400, height=400, count=1, dtype="float32", crs="EPSG:32631",
                       transform=from_origin(400_000, 5_150_000, 1000, 1000)) as file:  # fmt: skip
        file.write(east, 1)
    with open_source(stack, ReadOptions(covariates=(str(path),))) as source:
        ((name, dem),) = whole(source).static.items()
        import pyproj

        xs, ys = np.meshgrid(source.grid.x, source.grid.y)
        expected = pyproj.Transformer.from_crs(4326, 32631, always_xy=True).transform(xs, ys)[0]
    np.testing.assert_allclose(dem, expected, atol=600)
    assert name


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
@pytest.mark.parametrize("metric", ["stack", "field"])
def test_metres_of_no_crs_do_not_match_degrees(tmp_path, metric):
    """Neither way round: the first 40 metres are no degrees east of Greenwich."""
    steps = np.arange(5) * 10.0
    values = np.ones((2, 5, 5))
    field_file(tmp_path / "degrees.nc", "v", values, ("time", "lat", "lon"), steps, steps, [0, 1])
    at = {dim: (dim, steps, {"units": "m", "standard_name": f"projection_{dim}_coordinate"}) for dim in "yx"}
    times = {"time": ("time", [0, 1], {"units": "days since 2020-01-01"})}
    xr.Dataset({"v": (("time", "y", "x"), values)}, at | times).to_netcdf(tmp_path / "metres.nc")
    one, two = ("metres", "degrees") if metric == "stack" else ("degrees", "metres")
    named = "the stack" if metric == "stack" else "it"
    with pytest.raises(InputError, match=f"{two}.nc: {named} states no CRS"):
        open_source(tmp_path / f"{one}.nc", ReadOptions(covariates=(str(tmp_path / f"{two}.nc"),)))


@pytest.mark.parametrize("option", ["covariates", "domain"])
def test_a_file_of_several_fields_is_asked_back_about(stack, tmp_path, option):
    """Fields without time count as much as those with: none is taken unasked."""
    lat, lon = np.arange(43, 47, 0.5), np.arange(4, 8, 0.5)
    plane = np.ones((len(lat), len(lon)))
    path = field_file(tmp_path / "two.nc", "clay", plane, ("lat", "lon"), lat, lon)
    with netCDF4.Dataset(path, "a") as file:
        file.createDimension("time", 3)
        file.createVariable("time", "f8", ("time",))[:] = [0, 1, 2]
        file["time"].units = "days since 2020-01-01"
        file.createVariable("rain", "f4", ("time", "lat", "lon"))[:] = 1

    def opened(text):
        return open_source(stack, ReadOptions(**{option: (text,) if option == "covariates" else text}))

    with pytest.raises(
        InputError, match=r"clay \(lat lon\), rain \(time lat lon\); choose one with .*two.nc:clay"
    ):
        opened(str(path))
    with pytest.raises(InputError, match=r"no variable nope \(it has clay, rain\)"):
        opened(f"{path}:nope")
    opened(f"{path}:clay").close()


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("step", [5.0, 0.5])
def test_a_global_field_has_no_seam(write_netcdf, gappy, tmp_path, step, twice):
    """Longitudes -2 to 2, of a field on 0 to 360: as smooth over Greenwich as elsewhere, coarser or finer than the grid."""
    path = write_netcdf(gappy(t=2, ny=3, nx=9))
    with netCDF4.Dataset(path, "a") as file:
        file["lon"][:] = np.linspace(-8, 8, 9)
        file["lat"][:] = [1, 0, -1]
    lon, lat = np.arange(step / 2, 360, step), np.arange(-10, 11.0)
    lon = np.arange(0, 360 + step / 2, step) if twice else lon  # 0 and 360
    wave = np.broadcast_to(np.sin(np.radians(3 * lon)), (len(lat), len(lon)))
    field = field_file(tmp_path / "wave.nc", "wave", wave, ("lat", "lon"), lat, lon)
    with open_source(path, ReadOptions(covariates=(str(field),))) as source:
        got = whole(source).static["wave"]
        part = source.read(Window((0, 1), (0, 3), (3, 6))).static["wave"]
    expected = np.sin(np.radians(3 * np.linspace(-8, 8, 9)))
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), atol=0.012)
    np.testing.assert_allclose(part, got[:, 3:6], rtol=1e-5, atol=1e-6)


def test_files_of_one_name_are_covariates_of_their_own(stack, tmp_path):
    lat, lon = np.arange(43, 47, 0.5), np.arange(4, 8, 0.5)
    paths = []
    for number in range(3):
        (tmp_path / f"lag{number}").mkdir()
        plane = np.full((len(lat), len(lon)), float(number))
        paths.append(field_file(tmp_path / f"lag{number}" / "rain.nc", "c", plane, ("lat", "lon"), lat, lon))
    with open_source(stack, ReadOptions(covariates=tuple(map(str, paths)))) as source:
        static = whole(source).static
    assert sorted(float(field[0, 0]) for field in static.values()) == [0, 1, 2]


def test_dedupe_settles_equal_times_of_a_covariate_too(stack, tmp_path):
    lat, lon, times = np.arange(43, 47, 0.5), np.arange(4, 8, 0.5), [0, 1, 1, 2, 3, 4, 5]
    field = np.ones((len(times), len(lat), len(lon)))
    path = field_file(tmp_path / "twice.nc", "c", field, ("time", "lat", "lon"), lat, lon, times)
    with pytest.raises(InputError, match="--dedupe"):
        open_source(stack, ReadOptions(covariates=(str(path),)))
    open_source(stack, ReadOptions(covariates=(str(path),), dedupe="first")).close()


def test_what_is_missing_or_elsewhere_is_an_error(stack, tmp_path):
    with pytest.raises(InputError, match=r"--covariate .*nothing\.nc"):
        open_source(stack, ReadOptions(covariates=(str(tmp_path / "nothing.nc"),)))
    with pytest.raises(InputError, match="no variable chl"):
        open_source(stack, ReadOptions(covariates=(f"{stack}:chl",)))
    far = field_file(tmp_path / "far.nc", "far", np.ones((2, 2)), ("lat", "lon"), [0.0, 1.0], [0.0, 1.0])
    with pytest.raises(InputError, match="covers no cell"):
        open_source(stack, ReadOptions(covariates=(str(far),)))
    old = field_file(
        tmp_path / "old.nc",
        "old",
        np.ones((2, 2, 2)),
        ("time", "lat", "lon"),
        [43.0, 46.0],
        [4.0, 7.0],
        [-900, -890],
    )
    with pytest.raises(InputError, match="nowhere near"):
        open_source(stack, ReadOptions(covariates=(str(old),)))


def test_a_domain_from_a_file(stack, tmp_path):
    lat, lon = 45 - 0.1 * np.arange(8), 5 + 0.1 * np.arange(10)
    land = (np.arange(10) < 4)[None].repeat(8, axis=0).astype("i1")
    path = field_file(tmp_path / "land.nc", "land", land, ("lat", "lon"), lat, lon)
    with open_source(stack, ReadOptions(domain=f"{path}:land")) as source:
        np.testing.assert_array_equal(source.domain, land == 1)
        assert source.besides == (str(path),)


@pytest.mark.parametrize("inside", [0, 1])
def test_a_mask_in_the_file_is_the_domain_if_the_data_agree(write_netcdf, gappy, inside):
    values = gappy()
    values[:, :, 6:] = np.nan
    path = write_netcdf(values)
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("mask", "i1", ("lat", "lon"))[:] = np.where(np.arange(10) < 6, inside, 1 - inside)
    with open_source(path) as source:
        np.testing.assert_array_equal(source.domain[0], np.arange(10) < 6)
    with netCDF4.Dataset(path, "a") as file:
        file["mask"][:] = np.arange(10) % 2
    with open_source(path) as source:
        assert source.domain is None
