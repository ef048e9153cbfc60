"""The same from Python: xarray in, xarray out, nothing written.

python examples/02_python_api.py
"""

import numpy as np

import stimpute


def main() -> None:
    """Simulate sea surface temperature under clouds, fill it, look at flags, errors and scores."""
    gappy, truth = stimpute.simulate(kind="sst", shape=(20, 32, 32), seed=3)
    filled = stimpute.fill(gappy)

    before, after, expected = gappy["sst"], filled["sst"], truth["sst"]
    print(f"missing before: {float(before.isnull().mean()):.0%}, after: {float(after.isnull().mean()):.0%}")
    same = np.array_equal(before.values[before.notnull()], after.values[before.notnull()])
    print(f"observed cells unchanged: {same}")

    # 0 observed, 1 filled, 2 refused (cells that are never observed, such as land, stay empty unless asked for)
    flag = filled["sst_fill_flag"]
    print("cells by flag:", dict(zip(*(v.tolist() for v in np.unique(flag, return_counts=True)))))

    error = abs(after - expected).where(flag == 1)
    claimed = filled["sst_standard_error"].where(flag == 1)
    inside = (error <= 1.645 * claimed).where(flag == 1)
    print(
        f"MAE of the filled cells: {float(error.mean()):.3f} degC; claimed standard error: {float(claimed.mean()):.3f} degC"
    )
    print(f"90 % intervals hold the truth in {float(inside.mean()):.0%} of them")

    # any classical method by name, through the same function
    linear = stimpute.fill(gappy, method="linear")["sst"]
    print(
        f"MAE of linear interpolation in time: {float(abs(linear - expected).where(flag == 1).mean()):.3f} degC"
    )

    assert same
    assert not bool((after.isnull() & (flag == 1)).any())


if __name__ == "__main__":
    main()
