"""Two weeks of sea surface temperature under clouds, forecast from the weeks before, beside what came.

python examples/forecast_picture.py forecast.png
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import stimpute

STEPS = 14


def main(picture: str) -> None:
    """Simulate, hide the last two weeks, forecast them, score and draw."""
    gappy, truth = (xr.decode_cf(d) for d in stimpute.simulate(kind="sst", shape=(120, 32, 32), seed=5))
    past, to_come = gappy.isel(time=slice(0, -STEPS)), truth["sst"].isel(time=slice(-STEPS, None))
    said = {m: stimpute.forecast(past, steps=STEPS, method=m) for m in ("sba", "blend", "persistence")}

    known = said["sba"]["sst"].notnull() & to_come.notnull()
    assert np.array_equal(said["sba"].time, to_come.time)
    for name, dataset in said.items():
        error = abs(dataset["sst"] - to_come).where(known)
        print(f"{name}: MAE {float(error.mean()):.3f} degC, last step {float(error[-1].mean()):.3f} degC")
    forecast, error = said["sba"]["sst"], said["sba"]["sst_standard_error"]
    inside = (abs(forecast - to_come) <= 1.645 * error).where(known)
    print(f"90 % intervals hold what came in {float(inside.mean()):.0%} of the cells")

    row, col = (int(i[0]) for i in np.nonzero(known.all("time").values))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(2, 1), layout="constrained")
    series = [d["sst"].values[:, row, col] for d in (past, truth)]
    days = np.arange(120)
    left.plot(days[40:], series[1][40:], color="0.7", label="truth")
    left.plot(days[40:-STEPS], series[0][40:], ".", color="k", label="observed")
    ahead = days[-STEPS:]
    mean, spread = (a.values[:, row, col] for a in (forecast, 1.645 * error))
    left.fill_between(ahead, mean - spread, mean + spread, alpha=0.25, color="C0", label="90 % interval")
    left.plot(ahead, mean, color="C0", label="forecast")
    left.set(xlabel="day", ylabel="degC", title=f"one cell ({row}, {col})")
    left.legend(loc="lower left", ncols=2, fontsize=8)
    by_lead = {n: abs(d["sst"] - to_come).where(known).mean(("lat", "lon")) for n, d in said.items()}
    for name, values in by_lead.items():
        right.plot(np.arange(1, STEPS + 1), values, label=name)
    right.set(xlabel="steps ahead", ylabel="MAE, degC", title="all cells")
    right.legend(fontsize=8)
    figure.savefig(picture, dpi=110)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "forecast.png")
