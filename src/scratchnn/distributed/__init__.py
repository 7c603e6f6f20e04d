"""`data_parallel`: processes that train each model together, each on its own samples.

No other folder imports this one. It affects fits through two hooks: `tables.summary.Exchange` merges the summaries of
the samples of all processes, and `training.trainer` takes the steps of an epoch in all processes together.
"""

from .context import Ranks, data_parallel

__all__ = ["Ranks", "data_parallel"]
