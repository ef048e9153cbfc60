"""What the name of an output stands for. Knows no formats but the folders that are one."""

from __future__ import annotations

from pathlib import Path

from stimpute.io.zarr_layout import is_zarr


def is_folder_output(out: str | Path, wanted: str | None = None) -> bool:
    """Whether an output is a folder of files: it exists as one (and is no Zarr store), ends in a slash, or has no suffix.

    >>> is_folder_output("filled/"), is_folder_output("filled.tif"), is_folder_output("filled", "Zarr")
    (True, False, False)
    """
    target = Path(out)
    if target.is_dir():
        return not is_zarr(target) and target.suffix.lower() != ".zarr"
    return str(out).endswith("/") or (not target.suffix and wanted != "Zarr")
