"""How far a filled stack is from the truth, over the cells that were missing: MAE, RMSE and MRE, beside the simplest guess.

python examples/score_against_truth.py GAPPY.nc FILLED.nc TRUTH.nc [VARIABLE]
"""

import sys

import numpy as np
import xarray as xr


def main(gappy: str, filled: str, truth: str, name: str | None = None) -> None:
    """Print one line for the fill and one for the mean of each cell over time."""
    with xr.open_dataset(gappy) as before, xr.open_dataset(filled) as after, xr.open_dataset(truth) as real:
        name = name or next(str(v) for v in before.data_vars if before[v].ndim == 3 and v in real)
        observed = before[name].to_numpy()
        answer = after[name].to_numpy()
        expected = real[name].to_numpy()
        error_bar = f"{name}_standard_error"
        scale = after[error_bar].to_numpy() if error_bar in after else None
    was_missing = np.isnan(observed) & np.isfinite(expected)
    judged = was_missing & np.isfinite(answer)
    print(
        f"{name}: {was_missing.sum():,} of {observed.size:,} cells were missing, {judged.sum():,} of them are now filled"
    )
    present = np.isfinite(observed)
    per_cell = np.where(present, observed, 0).sum(0) / np.maximum(present.sum(0), 1)
    report("stimpute fill", answer[judged], expected[judged])
    if scale is not None:
        inside = np.abs(answer - expected)[judged] <= 1.645 * scale[judged]
        print(f"  its 90 % intervals cover {inside.mean():.0%} of the truth")
    report("mean of the cell", np.broadcast_to(per_cell, expected.shape)[judged], expected[judged])


def report(label: str, estimate: np.ndarray, expected: np.ndarray) -> None:
    """One line of scores; MRE = sum |error| / sum |truth|."""
    error = estimate.astype(np.float64) - expected
    mae, rmse, mre = (
        np.abs(error).mean(),
        np.sqrt((error**2).mean()),
        np.abs(error).sum() / np.abs(expected).sum(),
    )
    print(f"  {label:<18} MAE {mae:.4f}   RMSE {rmse:.4f}   MRE {mre:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
