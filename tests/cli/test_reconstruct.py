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


def test_several_variables_become_geotiffs_in_a_folder(stimpute, tmp_path, write_netcdf, gappy):
    path = write_netcdf(gappy(t=4, ny=6, nx=5))
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("ice", "f4", ("time", "lat", "lon"))[:] = np.random.default_rng(0).random(
            (4, 6, 5)
        )
    one, folder = tmp_path / "one.tif", f"{tmp_path}/fine/"
    refused = stimpute("reconstruct", path, one, "--factor", "2", "--var", "all", *CLASSICAL)
    assert refused.code == 1
    assert "name a folder" in refused.err
    done = stimpute(
        "reconstruct", path, folder, "--factor", "2", "--var", "all", "--of", "GeoTIFF", *CLASSICAL
    )
    assert done.code == 0, done.err
    assert {"sst.tif", "ice.tif"} <= {p.name for p in (tmp_path / "fine").iterdir()}


def write_grid(path, values: np.ndarray, cell: float) -> None:
    """A variable ``v`` over (time, y, x), whose outer corner lies at (0, 0)."""
    with netCDF4.Dataset(path, "w") as file:
        for name, units, n, first, step in zip(
            ("time", "y", "x"), ("days since 2020-01-01", "m", "m"), values.shape, (0, -cell / 2, cell / 2), (1, -cell, cell)
        ):  # fmt: skip
            file.createDimension(name, n)
            axis = file.createVariable(name, "f8", (name,))
            axis.units = units
            axis[:] = first + step * np.arange(n)
        stored = np.where(np.isfinite(values), values, -9).astype("f4")
        file.createVariable("v", "f4", ("time", "y", "x"), fill_value=np.float32(-9))[:] = stored


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A smooth field with holes, too large for a few megabytes, and what it is on the finer cells."""
    y, x, t = np.arange(180)[:, None] / 2, np.arange(220)[None, :] / 2, np.arange(2)[:, None, None]
    truth = np.sin(y / 6 + t / 4) + np.cos(x / 7 - t / 5)
    coarse = block_means(truth, 2).astype("f4")
    coarse[np.random.default_rng(0).random(coarse.shape) < 0.4] = np.nan
    coarse[:, 20:24, 30:40] = np.nan
    path = tmp_path_factory.mktemp("wide") / "wide.nc"
    write_grid(path, coarse, 1000.0)
    return path, truth


def piecewise(stimpute, path, out, *options):
    """The same reconstruction at once and in pieces: fields of either, by name."""
    both = []
    for memory in ("4GB", "1MB"):
        done = stimpute(
            "reconstruct", path, out, "--factor", "2", "--memory", memory, "--overwrite", *options
        )
        assert done.code == 0, done.err
        with netCDF4.Dataset(out) as file:
            both.append({n: np.ma.filled(v[:].astype(float), np.nan) for n, v in file.variables.items()})
    return both


def test_pieces_say_what_the_whole_says(stimpute, tmp_path, wide):
    path, truth = wide
    whole, pieces = piecewise(stimpute, path, tmp_path / "fine.nc", *CLASSICAL, "--quantiles", "0.05,0.95")
    np.testing.assert_array_equal(whole["v_fill_flag"], pieces["v_fill_flag"])
    there = pieces["v_fill_flag"] == 1
    assert there.mean() > 0.9
    errors = [np.abs(found["v"] - truth)[there].mean() for found in (whole, pieces)]
    assert 0 < np.abs(whole["v"] - pieces["v"])[there].mean() < 0.01 * truth.std()
    assert errors[1] < 1.05 * errors[0]
    for name in ("v_standard_error", "v_q05", "v_q95"):
        assert (np.isfinite(pieces[name]) == there).all()
    assert (pieces["v_q05"] < pieces["v_q95"])[there].all()
    coarse = read(path, "v")
    assert np.nanmax(np.abs(block_means(pieces["v"], 2) - coarse)) < 1e-4


def test_members_of_pieces_vary_as_much_where_these_overlap(stimpute, tmp_path, wide):
    path, _ = wide
    options = ("--members", "--samples", "4", "--seed", "3")
    whole, pieces = piecewise(stimpute, path, tmp_path / "fine.nc", *options)
    there = pieces["v_fill_flag"] == 1
    spreads = [found["v_members"].std(axis=0) for found in (whole, pieces)]
    for step in range(2):
        shared = np.corrcoef(
            *((found["v_members"][0] - found["v"])[step][there[step]] for found in (whole, pieces))
        )
        assert shared[0, 1] > 0.9, "the same noise"
    columns = (spreads[1] / spreads[0])[:, 4:-4].mean(axis=(0, 1))
    assert 0.8 < columns.min() < columns.max() < 1.25
    coarse = read(path, "v")
    for member in pieces["v_members"]:
        assert np.nanmax(np.abs(block_means(member, 2) - coarse)) < 1e-4


def test_pieces_without_any_observation_say_what_is_usual(stimpute, tmp_path, write_netcdf, gappy):
    values = gappy(t=3, ny=180, nx=40)
    values[:, 60:] = np.nan
    path, out = write_netcdf(values), tmp_path / "fine.nc"
    options = (
        "--factor",
        "2",
        "--fill-never-observed",
        "--memory",
        "1MB",
        "--quantiles",
        "0.05",
        "--overwrite",
    )
    for method in (CLASSICAL, ("--samples", "2", "--members")):
        done = stimpute("reconstruct", path, out, *options, *method)
        assert done.code == 0, done.err
        fine, seen = read(out), values[np.isfinite(values)]
        assert np.isfinite(fine).all()
        np.testing.assert_allclose(fine[:, -10:], seen.mean(), atol=0.2 * seen.std())
        np.testing.assert_allclose(read(out, "sst_standard_error")[:, -10:], seen.std(), rtol=0.2)


def test_an_archive_is_read_piece_by_piece(stimpute, tmp_path, wide):
    path, truth = wide
    ground = np.random.default_rng(2).normal(size=(180, 220))
    archive, detailed = tmp_path / "archive.nc", tmp_path / "detailed.nc"
    write_grid(archive, ground + 0.1 * np.arange(8)[:, None, None], 500.0)
    write_grid(detailed, read(path, "v") + block_means(ground[None], 2), 1000.0)
    both = piecewise(stimpute, detailed, tmp_path / "fine.nc", *CLASSICAL, "--archive", archive)
    there = both[0]["v_fill_flag"] == 1
    for found in both:
        assert np.abs(found["v"] - truth - ground)[there].mean() < 0.3 * np.abs(ground).mean()
    assert 0 < np.abs(both[0]["v"] - both[1]["v"])[there].mean() < 0.05


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--factor", "1"), 2, "--factor 1"),
        (("--factor", "4", "--samples", "1"), 2, "--samples 1"),
        (("--factor", "4", "--method", "magic"), 2, "--method magic"),
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
    (tmp_path / "of.2020").mkdir()
    for folder in ("fine", "of.2020"):
        refused = stimpute("reconstruct", small, tmp_path / folder, "--factor", "2", *CLASSICAL)
        assert refused.code == 1
        assert f"{folder}: reconstruct writes one file" in refused.errors[0]
    out = tmp_path / "fine.nc"
    out.write_text("mine")
    assert stimpute("reconstruct", small, out, "--factor", "2", *CLASSICAL).code == 1
    assert out.read_text() == "mine"


def test_nothing_observed_is_an_error(stimpute, tmp_path, write_netcdf):
    path = write_netcdf(np.full((3, 4, 5), np.nan, "f4"))
    done = stimpute("reconstruct", path, tmp_path / "fine.nc", "--factor", "2", *CLASSICAL)
    assert done.code == 1
    assert "no observed value" in done.errors[0]


def test_xarray_in_and_out_with_times_out_of_order(write_netcdf, gappy):
    import xarray as xr

    from stimpute import api

    path = write_netcdf(gappy(t=4, ny=5, nx=6), times=[3, 1, 2, 0])
    with xr.open_dataset(path) as given:
        fine = api.reconstruct(given.load(), factor=2, method="classical")
        assert np.array_equal(fine["time"], given["time"])
        means = block_means(fine["sst"].to_numpy().astype(float), 2)
        assert np.nanmax(np.abs(means - given["sst"].to_numpy())) < 1e-4
        assert float(fine["sst_standard_error"].min()) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "{in}", "--task", "reconstruct"), "needs --factor"),
        (("evaluate", "{in}", "--task", "sharpen"), "--task sharpen"),
        (("evaluate", "{in}", "--factor", "2"), "only for --task reconstruct"),
        (("evaluate", "{in}", "--task", "reconstruct", "--factor", "2", "--adapt", "1"), "--adapt"),
        (("evaluate", "{in}", "--task", "reconstruct", "--factor", "2", "--methods", "dct-pls"), "--methods dct-pls"),
        (("train", "{in}", "-o", "m.safetensors", "--task", "reconstruct"), "needs --factor"),
        (("train", "{in}", "-o", "m.safetensors", "--factor", "2"), "only for --task reconstruct"),
        (("train", "{in}", "-o", "m.safetensors", "--task", "reconstruct", "--factor", "2", "--depth", "3"), "--depth"),
        (("train", "{in}", "-o", "m.safetensors", "--task", "reconstruct", "--factor", "2", "--steps", "1", "--size", "base"), "--size"),
        (("train", "{in}", "-o", "m.safetensors", "--task", "reconstruct", "--factor", "2", "--steps", "1", "--precision", "bf16"), "--precision"),
        (("train", "{in}", "-o", "m.safetensors", "--task", "reconstruct", "--factor", "2", "--steps", "1", "--val-fraction", "0"), "--val-fraction"),
    ],
)  # fmt: skip
def test_options_of_the_task_are_checked(stimpute, tmp_path, monkeypatch, small, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = stimpute(*(a.replace("{in}", str(small)) for a in arguments))
    assert done.code == 2
    assert words in done.errors[0]


def test_evaluate_coarsens_and_hides(stimpute, small):
    import json

    done = stimpute(
        "evaluate", small, "--task", "reconstruct", "--factor", "2", "--methods", "linear+cubic,classical",
        "--holdout", "random,quarter", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert [(r["method"], r["case"]) for r in rows] == [
        ("linear+cubic", "random 40%"), ("classical", "random 40%"), ("linear+cubic", "quarter"), ("classical", "quarter"),
    ]  # fmt: skip
    assert all(r["scores"]["mae"] > 0 for r in rows)


def test_a_factor_without_a_model_names_the_ways_out(stimpute, tmp_path, small):
    done = stimpute("reconstruct", small, tmp_path / "fine.nc", "--factor", "3")
    assert done.code == 1
    assert "use --method st or --method classical" in done.errors[0]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A network for factor 2 that was trained for one step."""
    from stimpute.diffusion.config import DiffReconConfig
    from stimpute.training.diffusion_loop import DiffusionTraining, train_diffusion

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    network = DiffReconConfig(factor=2, width=8, token_dim=16, num_heads=2, steps=3)
    run = DiffusionTraining(
        path, network=network, steps=1, pool=1, shapes=((1, 3, 4, 4),), val_examples=1, device="cpu"
    )
    return train_diffusion(run).path


def test_an_ensemble_conserves_block_means_and_writes_its_members(stimpute, tmp_path, small, tiny_model):
    out, again = tmp_path / "fine.nc", tmp_path / "again.nc"
    given = (
        "--factor",
        "2",
        "--model",
        tiny_model,
        "--samples",
        "5",
        "--members",
        "--quantiles",
        "0.1,0.9",
        "--seed",
        "3",
    )
    assert stimpute("reconstruct", small, out, *given).code == 0
    before, members = read(small), read(out, "sst_members")
    observed = np.isfinite(before)
    assert members.shape == (5, 8, 32, 36)
    for member in members:
        assert np.abs(block_means(member, 2) - before)[observed].max() < 1e-3
    assert np.allclose(members.mean(axis=0), read(out), atol=1e-4)
    assert np.allclose(members.std(axis=0, ddof=1), read(out, "sst_standard_error"), atol=1e-4)
    assert (read(out, "sst_q10") <= read(out, "sst_q90")).all()
    assert stimpute("reconstruct", small, again, *given).code == 0
    assert np.array_equal(read(again, "sst_members"), members)


def test_a_model_for_another_factor_or_task_is_refused(stimpute, tmp_path, small, tiny_model):
    for arguments, words in (
        (("--factor", "4", "--model", tiny_model), "refines by 2"),
        (("--factor", "4", "--model", "st-small"), "a model for fill"),
    ):
        done = stimpute("reconstruct", small, tmp_path / "fine.nc", *arguments)
        assert done.code == 1
        assert words in done.errors[0]


@pytest.fixture
def fine_archive(tmp_path):
    """A fine grid, twice as fine as that of `write_netcdf`, and what lies on it at other times."""
    ground = np.random.default_rng(4).normal(size=(16, 18)).astype("f4")

    def write(name="sst", shift=0.0):
        path = tmp_path / f"archive-{name}-{shift}.nc"
        with netCDF4.Dataset(path, "w") as file:
            for axis, n, first, step in (("lat", 16, 45.025, -0.05), ("lon", 18, 4.975, 0.05)):
                file.createDimension(axis, n)
                made = file.createVariable(axis, "f8", (axis,))
                made.units = f"degrees_{'north' if axis == 'lat' else 'east'}"
                made[:] = first + shift + step * np.arange(n)
            file.createDimension("time", 10)
            time = file.createVariable("time", "f8", ("time",))
            time.units, time[:] = "days since 2010-06-01", np.arange(10)
            file.createVariable(name, "f4", ("time", "lat", "lon"))[:] = (
                10 + 2 * ground + np.arange(10)[:, None, None]
            )
        return path

    return ground, write


def test_a_fine_archive_of_another_time_tells_what_is_inside_the_blocks(
    stimpute, tmp_path, write_netcdf, fine_archive
):
    ground, write = fine_archive
    truth = (13 + 2 * ground + np.arange(5)[:, None, None]).astype("f4")
    coarse = block_means(truth, 2)
    coarse[np.random.default_rng(1).random(coarse.shape) < 0.3] = np.nan
    path = write_netcdf(coarse)
    errors = []
    for extra in ((), ("--archive", str(write()))):
        out = tmp_path / f"fine{len(extra)}.nc"
        done = stimpute("reconstruct", path, out, "--factor", "2", *CLASSICAL, *extra)
        assert done.code == 0, done.err
        errors.append(np.nanmean(np.abs(read(out) - truth)))
    assert errors[1] < 0.2 * errors[0]
    with netCDF4.Dataset(out) as file:
        assert "beside a fine archive" in file.history


def test_an_archive_that_does_not_fit_is_one_line(stimpute, tmp_path, small, fine_archive):
    _, write = fine_archive
    for archive, words in ((tmp_path / "none.nc", "none.nc"), (write("sst", 90.0), "covers no cell")):
        out = tmp_path / "o.nc"
        done = stimpute("reconstruct", small, out, "--factor", "2", *CLASSICAL, "--archive", str(archive))
        assert done.code != 0
        assert "--archive" in done.errors[0]
        assert words in done.errors[0]
        assert not out.exists()
    archive = write()
    done = stimpute(
        "reconstruct", small, archive, "--factor", "2", *CLASSICAL, "--archive", str(archive), "--overwrite"
    )
    assert done.code != 0
    assert "archive-sst" in done.errors[0]
