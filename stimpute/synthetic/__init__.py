"""Simulated worlds and gaps, in torch, batched, on the device: what the networks are pretrained on. Knows no files."""

from stimpute.synthetic.archives import STACK_KINDS, SimulatedStack, gappy_stack, smap_like
from stimpute.synthetic.gaps import GAP_KINDS, sample_gaps
from stimpute.synthetic.worlds import MARGINALS, WorldBatch, sample_worlds

__all__ = [
    "GAP_KINDS",
    "MARGINALS",
    "STACK_KINDS",
    "SimulatedStack",
    "WorldBatch",
    "gappy_stack",
    "sample_gaps",
    "sample_worlds",
    "smap_like",
]
