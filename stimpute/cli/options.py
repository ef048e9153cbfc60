"""The options that several commands share, each defined once. ``STIMPUTE_NAME`` in the environment stands for ``--name``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from stimpute.cli import console, parse

WHAT, READING, METHOD = "What", "Reading", "Method"
REFUSAL, RESULT, RUN, TALK = "Refusal", "Result", "Run", "Talk"
METHODS = "st|linear|mean|dct-pls|dineof|kriging"


def option(*flags: str, panel: str, help: str, **more: Any) -> Any:
    """A Typer option whose environment variable mirrors its first long flag."""
    first = flags[0].split("/")[0]
    variable = "STIMPUTE_" + first.lstrip("-").upper().replace("-", "_")
    return typer.Option(*flags, help=help, rich_help_panel=panel, envvar=variable, show_envvar=False, **more)


def _version(value: bool) -> None:
    if value:
        from stimpute import __version__

        console.write_text(f"stimpute {__version__}")
        raise typer.Exit


def _quiet(value: bool) -> bool:
    console.talk.quiet = console.talk.quiet or value
    return value


def _verbose(value: bool) -> bool:
    console.talk.verbose = console.talk.verbose or value
    return value


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="IN...", callback=parse.named, help="Files, folders, globs, @list.txt or @-; - for stdin."
    ),
]
Input = Annotated[
    list[str],
    typer.Argument(metavar="IN...", callback=parse.named, help="One stack: a file, or several of one stack."),
]
InputsAndOutput = Annotated[
    list[str],
    typer.Argument(
        metavar="IN... OUT", callback=parse.named, help="Inputs (one stack), then the output. - streams."
    ),
]

Var = Annotated[
    list[str] | None,
    option("--var", panel=WHAT, metavar="NAME", help="Variable to fill; repeatable; 'all' for every one."),
]
BBox = Annotated[
    Any, option("--bbox", panel=WHAT, parser=parse.box, metavar="XMIN,YMIN,XMAX,YMAX", help="Only this box.")
]
BBoxCRS = Annotated[
    str | None, option("--bbox-crs", panel=WHAT, metavar="CRS", help="CRS of --bbox, e.g. EPSG:4326.")
]
Time = Annotated[
    Any,
    option(
        "--time",
        panel=WHAT,
        parser=parse.span,
        metavar="FROM,TO",
        help="Only these times, both ends included.",
    ),
]
Covariate = Annotated[
    list[str] | None,
    option(
        "--covariate",
        panel=WHAT,
        metavar="PATH[:VAR]",
        help="A covariate; repeatable; static if it has no time axis.",
    ),
]

NoData = Annotated[
    list[float] | None,
    option("--nodata", panel=READING, metavar="VALUE", help="Stored value that means no data; repeatable."),
]
DateFormat = Annotated[
    str | None,
    option(
        "--date-format", panel=READING, metavar="FORMAT", help="strptime format of dates in names, e.g. %Y%j."
    ),
]
Times = Annotated[
    str | None,
    option(
        "--times",
        panel=READING,
        metavar="LIST|FILE",
        help="ISO dates of the steps: a comma list, or a text file.",
    ),
]
Dedupe = Annotated[
    str | None,
    option("--dedupe", panel=READING, metavar="first|last|mean", help="What to do with steps of equal time."),
]
Regular = Annotated[
    bool, option("--regular", panel=READING, help="Insert the steps missing from a regular series, as gaps.")
]
Domain = Annotated[
    str | None,
    option(
        "--domain", panel=READING, metavar="PATH[:VAR]", help="Raster that is non-zero inside the domain."
    ),
]
QC = Annotated[bool, option("--qc", panel=READING, help="Treat outliers as gaps (a declared alteration).")]
Force = Annotated[
    bool,
    option(
        "--force",
        panel=READING,
        help="Read palette or categorical rasters too; take files of different units as one.",
    ),
]
NoWrap = Annotated[
    bool, option("--no-wrap", panel=READING, help="Longitudes that span 360 degrees do not wrap.")
]

Model = Annotated[
    str | None,
    option("--model", panel=METHOD, metavar="NAME|PATH", help="Model of method st (see 'stimpute models')."),
]
Adapt = Annotated[
    str | None,
    option(
        "--adapt",
        panel=METHOD,
        metavar="MINUTES",
        help="Train the model on this very stack first, for so many minutes (or 300steps); kept only if better.",
    ),
]
Fast = Annotated[
    bool,
    option(
        "--fast",
        panel=METHOD,
        help="Without the network, from fewer candidates: over twice as fast, less accurate (method st).",
    ),
]
Device = Annotated[str, option("--device", panel=RUN, metavar="auto|cpu|cuda|mps", help="Where to compute.")]
Threads = Annotated[
    int | None,
    option("--threads", panel=RUN, metavar="N", help="CPU threads (default: all cores, or OMP_NUM_THREADS)."),
]
Memory = Annotated[
    Any,
    option(
        "--memory",
        panel=RUN,
        parser=parse.size,
        metavar="2GB",
        help="Memory for arrays (default: a quarter of what is free).",
    ),
]
Seed = Annotated[int, option("--seed", panel=RUN, metavar="N", help="Seed of everything random.", min=0)]
Overwrite = Annotated[bool, option("--overwrite", panel=RUN, help="Replace an existing output.")]

FillNeverObserved = Annotated[
    bool,
    option("--fill-never-observed", panel=REFUSAL, help="Fill cells that were never observed too."),
]
Uncertainty = Annotated[
    bool, option("--uncertainty/--no-uncertainty", panel=RESULT, help="Write the standard error.")
]
Quantiles = Annotated[
    Any,
    option(
        "--quantiles",
        panel=RESULT,
        parser=parse.levels,
        metavar="Q,...",
        help="Write quantiles, e.g. 0.05,0.95.",
    ),
]
Flags = Annotated[bool, option("--flags/--no-flags", panel=RESULT, help="Write the fill flag.")]
Bounds = Annotated[
    str,
    option(
        "--bounds",
        panel=RESULT,
        metavar="MIN,MAX|auto|none",
        help="Keep estimates inside; auto: valid_range, standard_name, else 0 (and 1, 100 %) where observations pile up there.",
    ),
]
DType = Annotated[
    str | None,
    option("--dtype", panel=RESULT, metavar="DTYPE", help="Stored dtype, if not the input's."),
]
Format = Annotated[
    str | None,
    option("--of", panel=RESULT, metavar="NetCDF|NetCDF3|Zarr|GeoTIFF|COG", help="Output format."),
]
Creation = Annotated[
    list[str] | None,
    option(
        "--co",
        panel=RESULT,
        metavar="K=V",
        help="Creation option; repeatable. NetCDF: FORMAT=NC|NC2|NC4|NC4C|CDF5, COMPRESS=DEFLATE|ZSTD|NONE, ZLEVEL=0..9, "
        "SHUFFLE=YES|NO; Zarr: ZARR_FORMAT=2|3; GeoTIFF, COG: those of GDAL.",
    ),
]
Plot = Annotated[
    str | None, option("--plot", panel=RESULT, metavar="PNG", help="Draw a picture of the result.")
]
Json = Annotated[bool, option("--json", panel=TALK, help="The result as JSON on stdout.")]
Quiet = Annotated[bool, option("--quiet", "-q", panel=TALK, callback=_quiet, help="No progress, no summary.")]
Verbose = Annotated[
    bool, option("--verbose", "-v", panel=TALK, callback=_verbose, help="Say more; tracebacks on errors.")
]
Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_version, is_eager=True, rich_help_panel=TALK, help="Print the version."
    ),
]


def recorded(context: typer.Context) -> str:
    """The command line as ``history`` records it: what was typed, after what the environment added to it."""
    typed = list(console.talk.arguments)
    at = typed.index(context.info_name) + 1 if context.info_name in typed else 0
    return shlex.join(["stimpute", *typed[:at], *_from_environment(context), *typed[at:]])


def _from_environment(context: typer.Context) -> list[str]:
    words: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "ENVIRONMENT":
            continue
        value = context.params[str(parameter.name)]
        if isinstance(value, bool):
            words += (parameter.opts if value else parameter.secondary_opts)[:1]
            continue
        text = parameter.value_from_envvar(context)
        for one in [text] if isinstance(text, str) else text or ():
            words += [parameter.opts[0], one]
    return words


def output(out: str) -> str:
    """The output as it is typed, ``.`` by its whole name.

    >>> output("a.nc"), output("s3://bucket/a.zarr"), output("-")
    ('a.nc', 's3://bucket/a.zarr', '-')
    """
    if out.startswith("memory:"):
        raise typer.BadParameter(f"{out}: would be gone when the command ends; name a file or a store")
    if out and Path(out).name:
        return out
    if not out or not (whole := Path.cwd() if Path(out) == Path() else Path(out)).name:
        raise typer.BadParameter(f"OUT {out!r} names neither a file nor a folder for the outputs")
    return str(whole)


def reading(**values: Any) -> dict[str, Any]:
    """The reading options a command was given, as keywords of the Python API: those left at their default are left out."""
    return {name: value for name, value in values.items() if not _unset(value)}


def _unset(value: Any) -> bool:  # 0 was typed, False was not
    return value is None or value is False or (isinstance(value, list | tuple) and not value)
