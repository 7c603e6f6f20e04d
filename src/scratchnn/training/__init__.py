"""The training of networks: epochs, minibatches and stopping.

A `TrainingRun` is one model to train: its data, its hyperparameters and its state. `train` takes runs of one shape and
trains them together, as a stack along the leading models axis of `network`. A single fit is a stack of one run.
"""

from .grouping import count_models, explain_alone, make_stacks
from .loop import Snapshot, is_out_of_memory, train, train_run, trainer
from .run import Data, EpochResult, History, Hyperparameters, RowSource, Steps, TrainingRun
from .stopping import is_interrupt
