"""From runs to trained networks: epochs, minibatches, and when to stop.

A `TrainingRun` is one model to train: its data, its hyperparameters, and what training changes. `train` takes runs of
one shape and trains them together, as a stack along the leading models axis of `network`; a single fit is a stack of
one.
"""

from .grouping import count_models, explain_alone, make_stacks
from .loop import Snapshot, is_out_of_memory, train, train_run, trainer
from .run import Data, EpochResult, History, Hyperparameters, RowSource, Steps, TrainingRun
from .stopping import is_interrupt
