"""`data_parallel`: processes that train each model together, each on its own samples.

No other folder imports this one. It reaches fits through two hooks: `tables.summary.Exchange`, by which what the
processes know of their samples is merged, and `training.trainer`, which takes the steps of an epoch together.
"""

from .context import Ranks, data_parallel

__all__ = ["Ranks", "data_parallel"]
