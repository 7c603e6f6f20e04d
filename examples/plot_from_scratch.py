"""
A neural network from scratch
=============================

This example runs the functions of `scratchnn.network` one by one, and then the estimator, which does the same.
The data are the 569 tumours of scikit-learn's breast cancer table.
"""

import copy
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier
from scratchnn.batch import Batch
from scratchnn.network import (
    calc_loss,
    calc_preds,
    execute_epoch,
    init_coeffs,
    model_accuracy,
    store_grads,
    train_model,
    update_coeffs,
)

# %%
# Training, validation and test data
# ----------------------------------
# The network learns from the training data. We choose by the validation data, and use the test data once, at the end.
# ``indeps`` are the inputs, one row a tumour, scaled to mean 0 and deviation 1; ``deps`` say whether it is benign.

X, y = load_breast_cancer(return_X_y=True)
X_train, X_rest, y_train, y_rest = train_test_split(X, y, test_size=0.4, random_state=442, stratify=y)
X_val, X_test, y_val, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=442, stratify=y_rest)


def to_tensors(X, y):
    """Return inputs (n_samples, n_features) and targets (n_samples, 1)."""
    return torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None]


scaler = StandardScaler().fit(X_train)  # of the training data alone: validation and test data must stay unknown
X_train, X_val, X_test = scaler.transform(X_train), scaler.transform(X_val), scaler.transform(X_test)
train_indeps, train_deps = to_tensors(X_train, y_train)
val_indeps, val_deps = to_tensors(X_val, y_val)
test_indeps, test_deps = to_tensors(X_test, y_test)
print(f"{len(train_deps)} rows for training, {len(val_deps)} for validation, {len(test_deps)} for the test")

# %%
# One step, by hand
# -----------------
# `init_coeffs` draws the coefficients: 20 hidden neurons, one output.

coeffs = init_coeffs(X.shape[1], n_hidden=20, generator=torch.Generator().manual_seed(442))
print("weights", [tuple(weight.shape) for weight in coeffs.weights])

# %%
# `calc_preds` is the forward pass: multiply, cut off below zero (ReLU), multiply, squash between 0 and 1 (sigmoid).
# `calc_loss` is the mean absolute error of these predictions.

print("predictions", calc_preds(coeffs, train_indeps)[:3].flatten())
print("loss", calc_loss(coeffs, train_indeps, train_deps))

# %%
# `store_grads` follows the chain rule by hand, and stores the gradient where PyTorch's autograd would store it. Here
# both work on the same batch, which holds all the data, and find the same gradients.

everything = Batch(train_indeps, train_deps)
store_grads(coeffs, everything)
by_hand = [value.grad.clone() for value in coeffs]
followed = copy.deepcopy(coeffs).requires_grad_()
for value in followed:
    value.grad = None
calc_loss(followed, train_indeps, train_deps).backward()
for name, own, other in zip(["hidden weights", "output weights", "output bias"], by_hand, followed, strict=True):
    print(f"{name}: by hand {own.flatten()[:2]}, autograd {other.grad.flatten()[:2]}")
    torch.testing.assert_close(own, other.grad)

# %%
# `update_coeffs` takes a step downhill, and clears the gradients. `execute_epoch` calls `store_grads` and
# `update_coeffs` for each batch, and returns the loss before the step.

update_coeffs(coeffs, lr=1.4)
for _ in range(3):
    loss = execute_epoch(coeffs, [everything], partial(update_coeffs, lr=1.4))
    print(f"loss {loss:.3f}, then {calc_loss(coeffs, train_indeps, train_deps):.3f}")

# %%
# Three learning rates
# --------------------
# `train_model` is the whole loop, and `model_accuracy` counts how often the likelier class is the right one.

runs = {}
for epochs, lr in [(30, 1.4), (30, 20), (100, 10)]:
    coeffs, losses = train_model(train_indeps, train_deps, epochs, lr)
    accuracy = model_accuracy(coeffs, val_indeps, val_deps).item()
    runs[epochs, lr] = coeffs, losses, accuracy
    print(f"{epochs} epochs at rate {lr}: loss {losses[0]:.3f} to {losses[-1]:.3f}, validation accuracy {accuracy:.3f}")

best = max(runs, key=lambda run: runs[run][2])
print(f"the best on validation data, {best}, on test data: {model_accuracy(runs[best][0], test_indeps, test_deps):.3f}")

# %%
# Larger steps, and more of them, bring the training loss further down, and the validation accuracy with it: the network
# begins to learn the training data by heart. That is what validation data are for.

try:
    import matplotlib.pyplot as plt
except ImportError:
    print("no plot: install matplotlib to see one")
else:
    figure, axes = plt.subplots()
    for (epochs, lr), (_, losses, _) in runs.items():
        axes.plot(losses, label=f"{epochs} epochs, rate {lr}")
    axes.set(xlabel="epoch", ylabel="mean absolute error on training data")
    axes.legend()

# %%
# The estimator does the same
# ---------------------------
# The recipe "scratch" is this method: from the same seed, it has the same loss after every epoch.

for (epochs, lr), (_, losses, _) in runs.items():
    classifier = ScratchNNClassifier.from_recipe(
        "scratch", max_iter=epochs, learning_rate_init=lr, random_state=442
    ).fit(X_train, y_train)
    difference = np.abs(np.array(classifier.loss_curve_) - losses).max()
    print(f"{epochs} epochs at rate {lr}: largest difference of the losses {difference:.1e}")
    assert difference < 1e-4

# %%
# The estimator's other parameters offer what has been learnt about training since: Adam, minibatches, log loss, scaled
# columns, early stopping. Its defaults use most of it:

classifier = ScratchNNClassifier(early_stopping=True, random_state=442)
classifier.fit(X_train, y_train, X_val=X_val, y_val=y_val)
print(f"test accuracy {classifier.score(X_test, y_test):.3f} after {classifier.n_iter_} epochs")
