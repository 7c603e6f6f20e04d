"""
A fused search on a cluster
===========================

With joblib's backend "dask", `fused_fits` dispatches the fits of a search to
the workers of a Dask cluster, and each worker fuses its chunks. Here
the cluster is two processes of this machine. For another cluster, only the
client's address changes. The example needs the package ``distributed``.
"""

import logging

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV

from scratchnn import ScratchNNClassifier, fused_fits

try:
    from distributed import Client, LocalCluster
except ImportError:
    Client = None

# %%
# The search
# ----------
# Six learning rates and six penalties on three folds: 108 fits.

X, y = load_breast_cancer(return_X_y=True)
rates = np.geomspace(1e-3, 0.1, 6)
alphas = np.geomspace(1e-3, 1e2, 6)
network = ScratchNNClassifier(
    (20,), max_iter=20, numeric_encoding=None, random_state=0
)
search = GridSearchCV(
    network,
    {"alpha": alphas, "learning_rate_init": rates},
    cv=3,
    scoring="neg_log_loss",
    refit=False,
)

# %%
# The cluster
# -----------
# The workers of a local cluster import the main module, so the cluster must
# start under ``if __name__ == "__main__"``. It only listens on this machine.


def run_on_cluster():
    """Return the log loss of each candidate, and what was trained where."""
    cluster = LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )
    with (
        cluster,
        Client(cluster),
        joblib.parallel_config("dask"),
        fused_fits() as report,
    ):
        search.fit(X, y)
    return -search.cv_results_["mean_test_score"], report


if __name__ == "__main__" and Client is not None:
    losses, report = run_on_cluster()
    print(report)
elif __name__ == "__main__":
    print("without distributed, one process trains all networks")
    with fused_fits() as report:
        search.fit(X, y)
    losses = -search.cv_results_["mean_test_score"]

# %%
# The scores
# ----------
# They equal the scores of the same search in this process, up to rounding. The
# star marks the best candidate.

if __name__ == "__main__":
    with fused_fits():
        search.fit(X, y)
    np.testing.assert_allclose(
        losses, -search.cv_results_["mean_test_score"], rtol=0, atol=1e-3
    )
    figure, axes = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
    table = losses.reshape(len(alphas), len(rates))
    image = axes.imshow(table, cmap="cividis_r", origin="lower")
    axes.set_xticks(range(len(rates)), [f"{rate:.3f}" for rate in rates])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set(
        xlabel="learning_rate_init",
        ylabel="alpha",
        title=f"{report.n_fits} fits",
    )
    row, column = divmod(losses.argmin(), len(rates))
    axes.plot(column, row, "*", color="black", markersize=12)
    figure.colorbar(image, label="log loss of the folds")
    plt.show()
