"""Standard input and output; what inputs stand for."""

import io
from types import SimpleNamespace

import pytest

from stimpute.errors import InputError, UsageError
from stimpute.io import create_sink, open_source
from stimpute.io.inputs import expand_inputs, kind_of
from stimpute.io.streams import copy_out, spooled


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_spooling_knows_the_format(tmp_path):
    with spooled(io.BytesIO(b"II*\x00rest")) as path:
        assert path.suffix == ".tif"
        assert path.read_bytes() == b"II*\x00rest"
    assert not path.exists()
    with pytest.raises(InputError, match="nothing came"), spooled(io.BytesIO()):
        pass
    with pytest.raises(InputError, match="no NetCDF"), spooled(io.BytesIO(b"hello there")):
        pass


def test_terminals_are_refused(tmp_path):
    with pytest.raises(UsageError, match="standard input is a terminal"), spooled(Terminal()):
        pass
    with pytest.raises(UsageError, match="standard output is a terminal"):
        copy_out(tmp_path / "x.nc", Terminal())


def test_a_file_through_stdin_and_stdout(write_netcdf, gappy, fill_with, monkeypatch, tmp_path):
    path = write_netcdf(gappy())
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
    monkeypatch.setattr(
        "sys.stdout", SimpleNamespace(buffer=out, flush=lambda: None, write=lambda text: None)
    )
    fill_with(3.0, ["-"], "-")
    (tmp_path / "back.nc").write_bytes(out.getvalue())
    with open_source(tmp_path / "back.nc") as source:
        assert "sst_fill_flag" in source.files[0].variables
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=Terminal()))
    with open_source(path) as source, pytest.raises(UsageError):
        create_sink("-", source)


def test_a_list_of_inputs_through_stdin(write_geotiffs, gappy, fill_with, monkeypatch, tmp_path):
    """It is looked at by checks, opened, and read by whoever asks again; names are found from here."""
    files = write_geotiffs(gappy())
    monkeypatch.chdir(files[0].parent)
    text = "".join(f"{path.name}\n" for path in files)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(f"# of a month\n{text}".encode())))
    for _ in range(2):
        assert expand_inputs(["@-"]) == [path.name for path in files]
    fill_with(3.0, ["@-"], tmp_path / "out.tif")
    with open_source(tmp_path / "out.tif") as source:
        assert source.layers[0].shape == gappy().shape


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "@-: lists no inputs"),
        (b"II*\x00\x08", "@-: a list of inputs is text"),
        (b"@-\n", "@-: lists itself"),
        (b"absent.nc", r"absent\.nc: no such file or folder"),
    ],
)
def test_a_list_that_is_none(monkeypatch, content, message):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    with pytest.raises(InputError, match=message):
        expand_inputs(["@-"])


def test_a_list_from_a_terminal_is_refused_and_data_are_told_from_a_list(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=Terminal()))
    with pytest.raises(UsageError, match="@-: standard input is a terminal"):
        expand_inputs(["@-"])
    with pytest.raises(InputError, match="@- reads a list"), spooled(io.BytesIO(b"a1.nc\na2.nc\n")):
        pass
    (tmp_path / "a.tif").write_bytes(b"II*\x00\xff\xfe")
    with pytest.raises(InputError, match=r"a\.tif: a list of inputs is text"):
        expand_inputs([f"@{tmp_path / 'a.tif'}"])


def test_inputs_that_stand_for_files(tmp_path):
    for name in ("a1.nc", "a2.nc", "b.tif", "odd[1].nc"):
        (tmp_path / name).write_bytes(b"CDF\x01" if name.endswith("nc") else b"II*\x00")
    (tmp_path / "list.txt").write_text("# two\na1.nc\n\na2.nc\n")
    assert expand_inputs([f"@{tmp_path / 'list.txt'}"]) == [str(tmp_path / "a1.nc"), str(tmp_path / "a2.nc")]
    assert expand_inputs([tmp_path / "a*.nc"]) == [str(tmp_path / "a1.nc"), str(tmp_path / "a2.nc")]
    assert expand_inputs([tmp_path / "odd[1].nc"]) == [str(tmp_path / "odd[1].nc")]
    assert expand_inputs([tmp_path]) == [str(tmp_path / "b.tif")]
    assert [kind_of(str(tmp_path / n)) for n in ("a1.nc", "b.tif")] == ["NetCDF", "GeoTIFF"]
    with pytest.raises(InputError, match="no such file"):
        expand_inputs([tmp_path / "c*.nc"])
    with pytest.raises(InputError, match=r"a1\.nc is NetCDF, .*b\.tif is GeoTIFF"):
        open_source([tmp_path / "a1.nc", tmp_path / "b.tif"])
