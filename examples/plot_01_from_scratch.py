"""
A neural network from scratch
=============================

This example runs the functions of `scratchnn.network` one by one: the
predictions, the gradient by hand, a step, and a training loop with validation
data. At the end, the estimator does the same. The data are the 569 tumours of
scikit-learn's breast cancer table.
"""

import copy
from functools import partial

import matplotlib.pyplot as plt
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

torch.set_num_threads(1)  # the matrices are too small for more

# %%
# Training, validation and test data
# ----------------------------------
# The network learns from the training data. We choose by the validation data,
# and use the test data once, at the end. ``indeps`` are the scaled features of
# the tumours. ``deps`` are 1 for benign tumours, and 0 for the others.

X, y = load_breast_cancer(return_X_y=True)
X_train, X_rest, y_train, y_rest = train_test_split(
    X, y, test_size=0.4, random_state=442, stratify=y
)
X_val, X_test, y_val, y_test = train_test_split(
    X_rest, y_rest, test_size=0.5, random_state=442, stratify=y_rest
)
scaler = StandardScaler().fit(X_train)  # of the training data alone
X_train, X_val, X_test = map(scaler.transform, (X_train, X_val, X_test))


def to_tensors(X, y):
    """Return inputs (n_samples, n_features) and targets (n_samples, 1)."""
    indeps = torch.tensor(X, dtype=torch.float32)
    return indeps, torch.tensor(y, dtype=torch.float32)[:, None]


train_indeps, train_deps = to_tensors(X_train, y_train)
val_indeps, val_deps = to_tensors(X_val, y_val)
test_indeps, test_deps = to_tensors(X_test, y_test)
for name, part in {"training": X_train, "validation": X_val}.items():
    print(f"{len(part)} samples for {name}")
print(f"{len(X_test)} samples for the test")

# %%
# Predictions and their loss
# --------------------------
# `init_coeffs` draws the coefficients: 20 hidden neurons, one output.
# `calc_preds` is the forward pass: multiply by the hidden weights, set
# negative values to zero (ReLU), multiply by the output weights, add the bias,
# and map the result to a value between 0 and 1 (sigmoid). `calc_loss` is the
# mean absolute error of these predictions.


def draw_coeffs():
    """Return the coefficients from which every run below starts."""
    generator = torch.Generator().manual_seed(442)
    return init_coeffs(X.shape[1], n_hidden=20, generator=generator)


coeffs = draw_coeffs()
print("weights", [tuple(weight.shape) for weight in coeffs.weights])
print("predictions", calc_preds(coeffs, train_indeps)[:3].flatten())
print("loss", calc_loss(coeffs, train_indeps, train_deps))

# %%
# The gradient by hand
# --------------------
# The chain rule, from the output back to the inputs. ``deltas`` are the
# gradient of the loss with respect to the sums of a layer.

hidden_weights, output_weights, output_bias = coeffs
hidden = (train_indeps @ hidden_weights).clamp(min=0)  # (n_samples, 20)
preds = torch.sigmoid(hidden @ output_weights + output_bias)  # (n_samples, 1)

deltas = (preds - train_deps).sign() * preds * (1 - preds) / len(preds)
output_weights_grad = hidden.T @ deltas  # (20, 1)
output_bias_grad = deltas.sum(0, keepdim=True)  # (1, 1)
deltas = deltas @ output_weights.T * (hidden > 0)  # (n_samples, 20)
hidden_weights_grad = train_indeps.T @ deltas  # (30, 20)
by_hand = [hidden_weights_grad, output_weights_grad, output_bias_grad]

# %%
# `store_grads` does the same for any number of layers. It stores the gradients
# where PyTorch's autograd would store them. Autograd finds the same values.

everything = Batch(train_indeps, train_deps)
followed = copy.deepcopy(coeffs).requires_grad_()
store_grads(coeffs, everything)
calc_loss(followed, train_indeps, train_deps).backward()
for own, stored, other in zip(by_hand, coeffs, followed, strict=True):
    torch.testing.assert_close(own, stored.grad)
    torch.testing.assert_close(own, other.grad)

autograd = followed.weights[0].grad
difference = (hidden_weights_grad - autograd).abs().max()
figure, axes = plt.subplots(
    1, 2, figsize=(4.8, 3.4), layout="constrained", sharey=True
)
limit = autograd.abs().max().item()
for axis, grad, title in zip(
    axes, [hidden_weights_grad, autograd], ["by hand", "autograd"], strict=True
):
    image = axis.imshow(
        grad.numpy(), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto"
    )
    axis.set(title=title, xlabel="hidden neuron", xticks=[0, 10, 19])
axes[0].set_ylabel("feature")
figure.colorbar(image, ax=axes, label="gradient of the hidden weights")
print(f"largest difference: {difference:.0e}, largest value: {limit:.0e}")
plt.show()

# %%
# Steps
# -----
# `update_coeffs` takes a step against the gradient, and clears the gradients.
# `execute_epoch` calls `store_grads` and `update_coeffs` for each batch, and
# returns the loss before the step.

update_coeffs(coeffs, lr=1.4)
for _ in range(3):
    loss = execute_epoch(coeffs, [everything], partial(update_coeffs, lr=1.4))
    after = calc_loss(coeffs, train_indeps, train_deps)
    print(f"loss {loss:.3f}, then {after:.3f}")

# %%
# Three runs with validation
# --------------------------
# The loop of `train_model`, with the validation loss of each epoch.


def train_and_watch(epochs, lr):
    """Return the coefficients, and the losses before each step."""
    coeffs = draw_coeffs()
    losses = []  # (epochs, 2): training, validation
    for _ in range(epochs):
        val_loss = calc_loss(coeffs, val_indeps, val_deps).item()
        loss = execute_epoch(
            coeffs, [everything], partial(update_coeffs, lr=lr)
        )
        losses.append((loss.item(), val_loss))
    return coeffs, np.array(losses)


runs = {}
for epochs, lr in [(30, 1.4), (30, 20), (100, 10)]:
    coeffs, losses = train_and_watch(epochs, lr)
    np.testing.assert_allclose(
        losses[:, 0], train_model(train_indeps, train_deps, epochs, lr)[1]
    )
    accuracy = model_accuracy(coeffs, val_indeps, val_deps).item()
    runs[epochs, lr] = coeffs, losses, accuracy
    print(
        f"{epochs} epochs at rate {lr}: training loss {losses[-1, 0]:.3f}, "
        f"validation loss {losses[-1, 1]:.3f}, accuracy {accuracy:.3f}"
    )

# %%
# At the smallest rate, 30 epochs are too few: both losses still fall. At
# larger rates, the training loss falls further, but the validation loss does
# not. In the longest run, it even rises again: the network memorizes the
# training samples. Validation data reveal this.

_, losses, _ = runs[100, 10]
print(f"lowest validation loss of 100 epochs: after {losses[:, 1].argmin()}")

figure, axes = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
colours = ["#0072B2", "#D55E00", "#009E73"]
for colour, ((epochs, lr), (_, losses, _)) in zip(
    colours, runs.items(), strict=True
):
    axes.semilogy(losses[:, 0], color=colour)
    axes.semilogy(losses[:, 1], color=colour, linestyle=":", linewidth=2)
    axes.annotate(
        f"rate {lr}",
        (epochs - 1, losses[-1, 1]),
        xytext=(4, 6 if lr < 20 else -12),
        textcoords="offset points",
        color=colour,
        ha="left" if epochs < 50 else "right",
    )
axes.plot([], [], color="black", label="training")
axes.plot(
    [], [], color="black", linestyle=":", linewidth=2, label="validation"
)
axes.set(xlabel="epoch", ylabel="mean absolute error")
axes.set_yticks([0.01, 0.1, 0.5], ["0.01", "0.1", "0.5"])
axes.legend(frameon=False)
plt.show()

# %%
# We choose by the validation data, and only then look at the test data.

best = min(runs, key=lambda run: runs[run][1][-1, 1])
test_accuracy = model_accuracy(runs[best][0], test_indeps, test_deps)
print(f"{best[0]} epochs at rate {best[1]}: test accuracy {test_accuracy:.3f}")

# %%
# The estimator does the same
# ---------------------------
# The recipe "scratch" is this method: with the same seed, it has the same loss
# in every epoch.

for (epochs, lr), (_, losses, _) in runs.items():
    classifier = ScratchNNClassifier.from_recipe(
        "scratch", max_iter=epochs, learning_rate_init=lr, random_state=442
    ).fit(X_train, y_train)
    difference = np.abs(classifier.loss_curve_ - losses[:, 0]).max()
    print(f"{epochs} epochs at rate {lr}: losses differ by {difference:.1e}")
    assert difference < 1e-4

# %%
# The other parameters of the estimator offer today's standard methods: Adam,
# minibatches, the log loss, a penalty, early stopping. The defaults use most
# of them.

classifier = ScratchNNClassifier(random_state=442).fit(X_train, y_train)
print(f"defaults: test accuracy {classifier.score(X_test, y_test):.3f}")
