"""Training: archives and simulated worlds in, a model file out. Needs torch and numpy, no geodata libraries."""

from stimpute.training.archive import Archive, read_npz
from stimpute.training.feed import FeedOptions
from stimpute.training.loop import TrainOptions, TrainProgress, TrainSummary, run_training
from stimpute.training.loss import LossOptions, Validation

__all__ = [
    "Archive",
    "FeedOptions",
    "LossOptions",
    "TrainOptions",
    "TrainProgress",
    "TrainSummary",
    "Validation",
    "read_npz",
    "run_training",
]
