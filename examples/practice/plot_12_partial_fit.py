"""
Out of core with partial_fit
============================

A table that is larger than memory can be read in parts. Each call of
``partial_fit`` trains on one part. This example reads a CSV file part by part,
and records the loss on test samples.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from scratchnn import ScratchNNClassifier

# %%
# A file
# ------
# It has 8,000 rows in random order. The order matters: if a network sees one
# class after the other, it forgets the first.

X, y = make_classification(
    9000,
    12,
    n_informative=8,
    n_clusters_per_class=4,
    flip_y=0.02,
    random_state=0,
)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=1000, random_state=0
)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "rows.csv"
pd.DataFrame(X_train).assign(y=y_train).to_csv(
    path, index=False, float_format="%.3f"
)
print(f"{path.stat().st_size:,} bytes")

# %%
# Part by part
# ------------
# The first call of ``partial_fit`` needs all classes, because a part may lack
# some. Each part updates the means and scales of the columns, so no scaler is
# needed. For comparison, a model without a hidden layer learns from the same
# parts.

models = {
    "no hidden layer": ScratchNNClassifier((), random_state=0),
    "100 neurons": ScratchNNClassifier((100,), random_state=0),
}
losses = {name: [] for name in models}
n_seen = []
for _ in range(3):  # passes over the file
    for part in pd.read_csv(path, chunksize=500):
        X_part, y_part = part.drop(columns="y").to_numpy(), part["y"]
        n_seen.append(len(part))
        for name, model in models.items():
            model.partial_fit(X_part, y_part, classes=[0, 1])
            losses[name].append(log_loss(y_test, model.predict_proba(X_test)))
folder.cleanup()

# %%
# The loss on test samples
# ------------------------
# A pass over the file is 8,000 samples. The first pass lowers the loss most.
# ``fit`` on all samples reaches a lower loss: it takes 50 passes, and its
# learning rate falls to zero. ``partial_fit`` keeps the rate constant, because
# it cannot know how many parts will follow. If the table fits into memory, use
# ``fit``.

whole = ScratchNNClassifier((100,), random_state=0).fit(X_train, y_train)
whole_loss = log_loss(y_test, whole.predict_proba(X_test))

figure, axes = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
colours = ["#D55E00", "#0072B2"]
for colour, (name, values) in zip(colours, losses.items(), strict=True):
    axes.plot(np.cumsum(n_seen) / 1000, values, color=colour)
    axes.text(24, values[-1] + 0.03, name, color=colour, ha="right")
axes.axhline(whole_loss, color="black", linestyle=":")
axes.text(24, whole_loss - 0.05, "100 neurons, fit on all samples", ha="right")
axes.set(xlabel="thousands of samples seen", ylabel="test log loss", ylim=0)
axes.spines[["top", "right"]].set_visible(False)
print(f"parts: {losses['100 neurons'][-1]:.3f}, all samples: {whole_loss:.3f}")
plt.show()
