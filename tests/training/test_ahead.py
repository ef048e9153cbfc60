"""Batches made by other processes are the ones this process would have made."""

from pathlib import Path

import pytest

from stimpute.model.config import ModelConfig
from stimpute.training import FeedOptions, TrainOptions, run_training


@pytest.mark.parametrize("reuse", [1, 2])
def test_the_weights_do_not_depend_on_who_makes_the_batches(tmp_path: Path, reuse: int) -> None:
    hashes = set()
    for workers in (0, 1):
        options = TrainOptions(
            tmp_path / f"w{workers}.safetensors",
            ModelConfig.small(embed_dim=16, num_heads=2, depth=1, cell_dim=8),
            steps=6,
            feed=FeedOptions(world_share=1.0, shapes=((1, 3, 8, 8), (2, 2, 6, 6))),
            reuse=reuse,
            workers=workers,
            device="cpu",
        )
        hashes.add(run_training(options).card["sha256"])
    assert len(hashes) == 1
