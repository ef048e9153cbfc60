"""Training: archives and simulated worlds in, a model file out. Needs torch and numpy, no geodata libraries."""

from stimpute.training.archive import Archive, read_npz
from stimpute.training.feed import SHAPES, FeedOptions, scaled_shapes
from stimpute.training.loop import run_training
from stimpute.training.loss import LossOptions
from stimpute.training.options import TrainOptions, TrainProgress, TrainSummary
from stimpute.training.validation import Validation

__all__ = [
    "SHAPES",
    "Archive",
    "FeedOptions",
    "LossOptions",
    "TrainOptions",
    "TrainProgress",
    "TrainSummary",
    "Validation",
    "read_npz",
    "run_training",
    "scaled_shapes",
]
