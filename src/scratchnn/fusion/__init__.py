"""`fused_fits`: whatever scikit-learn runs through joblib trains its networks together, as stacks.

A joblib backend runs the tasks as threads, of which one at a time has the turn, so that no lock is needed.
A task that comes to `ScratchNNClassifier.fit` hands in its `TrainingRun` and passes the turn. When no task can go on
without its network, the thread that waits for the results trains what has been handed in, and the tasks go on.
"""

from .context import fused_fits
from .report import FusionReport, TrainedStack

__all__ = ["FusionReport", "TrainedStack", "fused_fits"]
