"""From runs to trained networks: epochs, minibatches, and when to stop.

A `TrainingRun` is one model to train: its data, its settings, and what training changes. `train` takes runs of one
shape and trains them together, as a stack along the leading models axis of `network`; a single fit is a stack of one.
"""

from .grouping import count_device_memory, count_models, explain_alone, make_stacks
from .interrupts import is_interrupt
from .joint import JointSteps, make_mean_score
from .loop import train, train_run, trainer
from .memory import Snapshot, is_out_of_memory, train_in_memory
from .ranks import ALONE, Ranks, failing_together, get_ranks
from .run import Data, DivergenceError, Epoch, History, RowSource, Settings, TrainingRun

__all__ = [
    "ALONE",
    "Data",
    "DivergenceError",
    "Epoch",
    "History",
    "JointSteps",
    "Ranks",
    "RowSource",
    "Settings",
    "Snapshot",
    "TrainingRun",
    "count_device_memory",
    "count_models",
    "explain_alone",
    "failing_together",
    "get_ranks",
    "is_interrupt",
    "is_out_of_memory",
    "make_mean_score",
    "make_stacks",
    "train",
    "train_in_memory",
    "train_run",
    "trainer",
]
