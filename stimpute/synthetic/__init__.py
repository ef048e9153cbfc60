"""Simulated worlds and gaps, in torch, batched, on the device: what the networks are pretrained on. Knows no files."""

from stimpute.synthetic.gaps import GAP_KINDS, sample_gaps
from stimpute.synthetic.worlds import MARGINALS, WorldBatch, sample_worlds

__all__ = ["GAP_KINDS", "MARGINALS", "WorldBatch", "sample_gaps", "sample_worlds"]
