"""`stimpute reconstruct`: sparse and coarse in, complete and fine out."""

from __future__ import annotations

import netCDF4
import numpy as np
import pytest
import rasterio

CLASSICAL = ("--method", "classical")


def block_means(fine: np.ndarray, factor: int) -> np.ndarray:
    t, ny, nx = fine.shape
    return fine.reshape(t, ny // factor, factor, nx // factor, factor).mean(axis=(2, 4))


def read(path, name="sst"):
    with netCDF4.Dataset(path) as file:
        return np.ma.filled(file[name][:].astype(float), np.nan)


def test_every_cell_is_there_and_block_means_are_what_was_observed(stimpute, tmp_path, small):
    out = tmp_path / "fine.nc"
    done = stimpute("reconstruct", small, out, "--factor", "4", *CLASSICAL)
    assert done.code == 0, done.err
    before, after = read(small), read(out)
    assert after.shape == (8, 64, 72)
    assert np.isfinite(after).all()
    observed = np.isfinite(before)
    assert np.abs(block_means(after, 4) - before)[observed].max() < 1e-4
    with netCDF4.Dataset(out) as file:
        assert "refined by a factor of 4" in file.history
        assert "block means conserved" in file.history


def test_without_conserve_observed_blocks_are_smoothed_too(stimpute, tmp_path, write_netcdf, gappy):
    noise = np.random.default_rng(0).normal(size=(6, 10, 12)).astype("f4")
    path = write_netcdf(gappy(t=6, ny=10, nx=12) + noise)
    out = tmp_path / "fine.nc"
    assert stimpute("reconstruct", path, out, "--factor", "2", "--no-conserve", *CLASSICAL).code == 0
    before = read(path)
    assert np.nanmax(np.abs(block_means(read(out), 2) - before)) > 0.1


def test_blocks_never_observed_are_refused_unless_asked_for(stimpute, tmp_path, write_netcdf, gappy):
    values = gappy(t=6, ny=7, nx=9)
    values[:, :3, :4] = np.nan  # a coast: never observed
    path = write_netcdf(values)
    out, all_out = tmp_path / "fine.nc", tmp_path / "all.nc"
    assert stimpute("reconstruct", path, out, "--factor", "3", *CLASSICAL).code == 0
    kept = np.isfinite(read(out)).all(axis=0)
    assert not kept[:9, :12].any()
    assert kept[9:].all()
    assert (
        stimpute("reconstruct", path, all_out, "--factor", "3", "--fill-never-observed", *CLASSICAL).code == 0
    )
    assert np.isfinite(read(all_out)).all()


def test_bounds_hold_and_so_do_the_block_means(stimpute, tmp_path, write_netcdf, gappy):
    rain = np.maximum(gappy(t=6, ny=8, nx=8) - 15, 0)
    path = write_netcdf(rain, attributes={"standard_name": "precipitation_amount", "units": "mm"})
    out = tmp_path / "fine.nc"
    assert stimpute("reconstruct", path, out, "--factor", "4", *CLASSICAL).code == 0
    fine = read(out)
    assert fine.min() >= 0
    assert np.nanmax(np.abs(block_means(fine, 4) - rain)) < 1e-2


def test_a_fine_covariate_draws_detail_into_the_blocks(stimpute, tmp_path, write_netcdf):
    rng = np.random.default_rng(1)
    ground = rng.normal(size=(1, 40, 48)).astype("f4")
    truth = 10 + 2 * ground + np.arange(5)[:, None, None]
    coarse = block_means(truth, 4).astype("f4")
    coarse[rng.random(coarse.shape) < 0.3] = np.nan
    path = write_netcdf(coarse)
    with netCDF4.Dataset(tmp_path / "ground.nc", "w") as file:
        for name, n, first, step in (("lat", 40, 45.0375, -0.025), ("lon", 48, 4.9625, 0.025)):
            file.createDimension(name, n)
            axis = file.createVariable(name, "f8", (name,))
            axis.units = f"degrees_{'north' if name == 'lat' else 'east'}"
            axis[:] = first + step * np.arange(n)
        file.createVariable("ground", "f4", ("lat", "lon"))[:] = ground[0]
    errors = []
    for extra in ((), ("--covariate", f"{tmp_path / 'ground.nc'}:ground")):
        out = tmp_path / f"fine{len(extra)}.nc"
        done = stimpute("reconstruct", path, out, "--factor", "4", *CLASSICAL, *extra)
        assert done.code == 0, done.err
        errors.append(np.nanmean(np.abs(read(out) - truth)))
    assert errors[1] < 0.5 * errors[0]


def test_geotiffs_in_and_out(stimpute, tmp_path, write_geotiffs, gappy):
    paths = write_geotiffs(gappy(t=4, ny=6, nx=5))
    out = tmp_path / "fine.tif"
    assert stimpute("reconstruct", *paths, out, "--factor", "2", *CLASSICAL).code == 0
    with rasterio.open(paths[0]) as before, rasterio.open(out) as after:
        assert after.bounds == before.bounds
        assert after.crs == before.crs
        assert after.shape == (12, 10)
        coarse = before.read(1)
        observed = coarse != before.nodata
        means = block_means(after.read([1]).astype(float), 2)[0]
        assert np.abs(means - coarse)[observed].max() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--factor", "1"), 2, "--factor 1"),
        (("--factor", "4", "--samples", "1"), 2, "--samples 1"),
        (("--factor", "4", "--method", "magic"), 2, "--method magic"),
        (("--factor", "4", "--memory", "2MB"), 1, "raise --memory"),
        (("--factor", "4", *CLASSICAL, "--members"), 2, "no members"),
        (("--factor", "4", *CLASSICAL, "--covariate", "nowhere.nc"), 1, "nowhere.nc"),
    ],
)
def test_bad_input_gets_one_line_and_no_file(stimpute, tmp_path, small, arguments, code, words):
    out = tmp_path / "fine.nc"
    done = stimpute("reconstruct", small, out, *arguments)
    assert done.code == code
    assert len(done.errors) == 1
    assert words in done.errors[0]
    assert [p.name for p in tmp_path.iterdir()] == [small.name]


def test_a_folder_is_no_output_and_an_existing_file_is_spared(stimpute, tmp_path, small):
    assert stimpute("reconstruct", small, tmp_path / "fine", "--factor", "2", *CLASSICAL).code == 1
    out = tmp_path / "fine.nc"
    out.write_text("mine")
    assert stimpute("reconstruct", small, out, "--factor", "2", *CLASSICAL).code == 1
    assert out.read_text() == "mine"


def test_nothing_observed_is_an_error(stimpute, tmp_path, write_netcdf):
    path = write_netcdf(np.full((3, 4, 5), np.nan, "f4"))
    done = stimpute("reconstruct", path, tmp_path / "fine.nc", "--factor", "2", *CLASSICAL)
    assert done.code == 1
    assert "no observed value" in done.errors[0]
