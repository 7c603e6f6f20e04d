"""`fused_fits`: what scikit-learn runs through joblib trains its networks together, as stacks.

A joblib backend runs the tasks as greenlets of the thread that calls `joblib.Parallel`, one at a time. A task that
comes to `ScratchNNClassifier.fit` queues its `TrainingRun` and is left, and the next task runs. When no task can go on
without its network, the queued runs train as stacks, and the tasks are resumed.
"""

from .context import fused_fits
from .report import FusionReport, TrainedStack

__all__ = ["FusionReport", "TrainedStack", "fused_fits"]
