"""`fused_fits`: networks that scikit-learn fits through joblib train together, as stacks.

A joblib backend runs the tasks as greenlets of the thread that calls `joblib.Parallel`, one at a time. A task that
calls `ScratchNNClassifier.fit` queues its `TrainingRun` and waits, and the next task runs. When no task can continue
without its network, the queued runs train as stacks, and the tasks resume.
"""

from .context import fused_fits
from .report import FusionReport, TrainedStack

__all__ = ["FusionReport", "TrainedStack", "fused_fits"]
