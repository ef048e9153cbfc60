"""One small tree of errors: what was wrong, in which file, what to do. Knows nothing but text.

Every error a user can cause derives from :class:`StimputeError`; the command line prints its message in one line and
exits with its ``exit_code``.
"""


class StimputeError(Exception):
    """Something the user can mend. ``exit_code`` is what the command line returns."""

    exit_code = 1


class UsageError(StimputeError):
    """The command line alone is wrong (no file was opened yet)."""

    exit_code = 2


class InputError(StimputeError):
    """An input file cannot be read, or not without a decision by the user."""


class OutputError(StimputeError):
    """The output exists, equals an input, or cannot be written."""


class UploadError(OutputError):
    """A finished output did not arrive at its address; what it was made of is kept for another try."""


class ModelError(StimputeError):
    """A model file is missing, wrong, too old, or does not fit the stack."""


class DivergenceError(ModelError):
    """Training ran away; what it started from is untouched."""


class DeviceError(StimputeError):
    """A device asked for by name is absent or broken."""


class ClusterError(StimputeError):
    """A Dask cluster cannot be reached, or cannot do the work."""


class VariogramError(StimputeError):
    """No variogram can be estimated or fitted (too few pairs, no variance)."""


class StimputeWarning(UserWarning):
    """Something the user should know; names the file and the value. The command line prints it on stderr."""
