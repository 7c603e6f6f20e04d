"""
Decision boundaries as the width grows
======================================

LogisticRegression, MLPClassifier and `ScratchNNClassifier` separate two
spirals, the networks with 4, 20 and 200 hidden neurons.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier

# %%
# Two spirals
# -----------
# The spirals wind around each other, with some noise. Half of the samples are
# for training. The other half is for the test, and shown in the figure.

rng = np.random.default_rng(0)
n_rows = 600
y = rng.integers(2, size=n_rows)
turns = np.sqrt(rng.uniform(0.02, 1, n_rows)) * 2.6 * np.pi
angles = turns + np.pi * y
X = turns[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
X += rng.normal(scale=0.5, size=X.shape)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.5, random_state=0, stratify=y
)

# %%
# Linear models, and three widths
# -------------------------------
# Without a hidden layer, ScratchNNClassifier is logistic regression. It scales
# the features itself; the others need a scaler. Both kinds of networks have
# the same penalty and the same initial learning rate. MLPClassifier trains
# until its loss no longer falls, and ScratchNNClassifier for 50 epochs.

settings = {"alpha": 0.001, "learning_rate_init": 0.01, "random_state": 0}


def make_mlp(width):
    """Return MLPClassifier after a scaler."""
    mlp = MLPClassifier((width,), max_iter=2000, **settings)
    return make_pipeline(StandardScaler(), mlp)


widths = [4, 20, 200]
models = {
    "scikit-learn": [
        make_pipeline(StandardScaler(), LogisticRegression()),
        *[make_mlp(width) for width in widths],
    ],
    "scratchnn": [
        ScratchNNClassifier(()),
        *[ScratchNNClassifier((width,), **settings) for width in widths],
    ],
}

# %%
# The boundaries
# --------------
# The colour is the probability of the class, and the number is the test
# accuracy. The boundary of a linear model is a line. Each neuron of
# MLPClassifier adds a kink along a straight line, so with a few neurons, the
# boundary has corners. ScratchNNClassifier also has bins of both features, so
# four neurons bend the boundary at more places. With 200 neurons, both follow
# the spirals.

figure, grid = plt.subplots(
    2, 4, figsize=(6, 3.4), layout="constrained", sharex=True, sharey=True
)
dots = ListedColormap(["#D55E00", "#0072B2"])
for axes_row, (library, row) in zip(grid, models.items(), strict=True):
    axes_row[0].set_ylabel(library, fontsize=12)
    for axes, model in zip(axes_row, row, strict=True):
        model.fit(X_train, y_train)
        DecisionBoundaryDisplay.from_estimator(
            model,
            X,
            ax=axes,
            response_method="predict_proba",
            class_of_interest=1,
            grid_resolution=80,
            plot_method="pcolormesh",
            cmap="RdBu",
            vmin=0,
            vmax=1,
            alpha=0.6,
            xlabel="",
            ylabel=axes.get_ylabel(),
        )
        axes.scatter(*X_test.T, c=y_test, cmap=dots, s=2)
        axes.set(xticks=[], yticks=[], ylim=(-13, None))
        accuracy = model.score(X_test, y_test)
        axes.text(
            0.5,
            0.02,
            f"{accuracy:.0%}",
            transform=axes.transAxes,
            ha="center",
            fontsize=12,
        )
titles = ["linear", *[f"{width} neurons" for width in widths]]
for axes, title in zip(grid[0], titles, strict=True):
    axes.set_title(title, fontsize=12)
plt.show()
