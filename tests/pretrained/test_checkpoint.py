"""A model file is data: written whole, checked before it is believed, never a pickle."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch

from stimpute.errors import ModelError, OutputError
from stimpute.model.config import ModelConfig
from stimpute.model.st_transformer import STTransformer
from stimpute.pretrained import find_model, list_models, load_model, save_checkpoint
from stimpute.pretrained.checkpoint import read_header, write_atomic
from stimpute.pretrained.registry import load_forecaster, load_reconstructor

TINY = ModelConfig.small(embed_dim=16, depth=1, num_heads=2, cell_dim=8)


@pytest.fixture(scope="module")
def network() -> STTransformer:
    torch.manual_seed(3)
    return STTransformer(TINY)


def save(path: Path, network: STTransformer, **changes: object) -> dict[str, object]:
    given: dict[str, object] = {"training": {"seed": 3}, "scores": {}, "storage": "float32", **changes}
    return save_checkpoint(path, network.state_dict(), TINY.to_dict(), **given)  # type: ignore[arg-type]


@pytest.fixture
def saved(tmp_path: Path, network: STTransformer) -> Path:
    save(tmp_path / "m.safetensors", network)
    return tmp_path / "m.safetensors"


def edit_card(path: Path, **changes: object) -> None:
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, **changes}))


def test_round_trip_is_exact_in_float32(saved: Path, network: STTransformer) -> None:
    loaded = load_model(saved)
    assert loaded.config == TINY
    assert not loaded.network.training
    state = loaded.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert loaded.name == "m"
    assert len(loaded.sha256) == 64


def test_the_same_weights_hash_alike(tmp_path: Path, network: STTransformer) -> None:
    assert len({save(tmp_path / f"{i}.safetensors", network)["sha256"] for i in range(8)}) == 1


def test_float16_is_half_the_size_and_close(tmp_path: Path, saved: Path, network: STTransformer) -> None:
    half = tmp_path / "half.safetensors"
    save(half, network, storage="float16")
    assert half.stat().st_size < 0.62 * saved.stat().st_size
    state = load_model(half).network.state_dict()
    assert all(t.dtype == torch.float32 for t in state.values())
    largest = max(float((state[n] - t).abs().max()) for n, t in network.state_dict().items())
    assert largest < 2e-3


def test_loading_leaves_the_global_generator_alone(saved: Path) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    load_model(saved)
    assert torch.equal(before, torch.random.get_rng_state())


def test_required_covariates_are_in_the_card(tmp_path: Path, network: STTransformer) -> None:
    save(tmp_path / "m.safetensors", network, covariates=("rain",))
    assert load_model(tmp_path / "m.safetensors").covariates_required == ("rain",)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pkl", "m.ckpt", "m.safetensors"])
def test_a_pickle_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(ModelError, match="pickled model is never loaded") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_torch_zip_is_refused(tmp_path: Path, network: STTransformer) -> None:
    path = tmp_path / "m.safetensors"
    torch.save(network.state_dict(), path)
    with pytest.raises(ModelError, match="pickled model is never loaded"):
        load_model(path)


def test_missing_file_names_the_shipped_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a model file nor a shipped model"):
        find_model(tmp_path / "none.safetensors")


def test_missing_card(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match=r"its card m\.json is missing"):
        load_model(saved)


def test_an_altered_weight_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-3] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256"):
        load_model(saved)


@pytest.mark.parametrize("keep", [0, 5, 8, 500, -1])
def test_a_file_cut_short(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"safetensors|bytes of weights"):
        load_model(saved)


def test_a_huge_header_is_refused_before_it_is_read(saved: Path) -> None:
    saved.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_header(saved)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"not json",
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F32"}}',
        b'{"__metadata__": 3}',
        b"[" * 5000,
    ],
)
def test_nonsense_headers(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(ModelError):
        read_header(path)


def test_weights_of_another_architecture(saved: Path) -> None:
    edit_card(saved, config={**TINY.to_dict(), "depth": 2})
    with pytest.raises(ModelError, match=r"does not fit its config: lacks layers\.1"):
        load_model(saved)
    edit_card(saved, config={**TINY.to_dict(), "cell_dim": 16})
    with pytest.raises(ModelError, match="its config says"):
        load_model(saved)


def test_a_monstrous_config_allocates_nothing(saved: Path) -> None:
    edit_card(saved, config={**TINY.to_dict(), "embed_dim": 1 << 20})
    with pytest.raises(ModelError, match="its config says"):
        load_model(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 0}, "model format 0, this version"),
        ({"format_version": 99}, "model format 99"),
        ({"format": "other"}, "not a stimpute model card"),
        ({"config": None}, "lacks its config"),
        ({"config": {"heads": 3}}, "unknown fields: heads"),
    ],
)
def test_other_formats(saved: Path, changes: dict[str, object], message: str) -> None:
    edit_card(saved, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(saved)


def test_a_card_that_is_no_json(saved: Path) -> None:
    saved.with_suffix(".json").write_text("{")
    with pytest.raises(ModelError, match="no valid JSON"):
        load_model(saved)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    for bad in (torch.tensor([float("nan")]), torch.tensor([1e6])):  # 1e6 overflows float16
        with pytest.raises(ModelError, match="not finite"):
            save_checkpoint(tmp_path / "m.safetensors", {"a": bad}, {}, training={}, scores={})
    assert list(tmp_path.iterdir()) == []


def test_suffix_and_folder(tmp_path: Path, network: STTransformer) -> None:
    with pytest.raises(OutputError, match=r"ends in \.safetensors"):
        save(tmp_path / "m.pt", network)
    with pytest.raises(OutputError, match="cannot be written"):
        save(tmp_path / "absent" / "m.safetensors", network)


def test_atomic_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.json"
    write_atomic(path, b"old")

    def full_disk(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


def test_every_shipped_model_loads_and_is_small() -> None:
    for entry in list_models():
        assert entry.path.stat().st_size <= 16 << 20
        task = entry.card.get("task", entry.card["config"].get("task", "fill"))
        load = {"fill": load_model, "reconstruct": load_reconstructor, "forecast": load_forecaster}[task]
        loaded = load(entry.name)
        assert loaded.name == entry.name
        assert loaded.card["training"]
        assert loaded.card["scores"]


def test_list_models_of_a_folder(saved: Path) -> None:
    assert [entry.name for entry in list_models(saved.parent)] == ["m"]
