"""
Digits, and what hidden neurons see
===================================

The weights of a hidden neuron have the shape of its input, so for pictures
they are pictures, too: ink increases the neuron's value where they are red,
and decreases it where they are blue.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from scratchnn import ScratchNNClassifier

# %%
# A network of 24 hidden neurons
# ------------------------------
# The 1,797 digits have 8 x 8 pixels. With ``numeric_encoding=None``, each
# pixel is one feature, so a neuron has 64 weights, one for each pixel.

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, random_state=0, stratify=y
)
model = ScratchNNClassifier((24,), numeric_encoding=None, random_state=0)
model.fit(X_train, y_train)
print(f"test accuracy {model.score(X_test, y_test):.3f}")

# %%
# The values of the hidden neurons
# --------------------------------
# ``coefs_`` and ``intercepts_`` are NumPy arrays, as in MLPClassifier. They
# apply to the scaled features. Two lines compute the values of the hidden
# neurons, and two more lines the predictions.

scaled = (X_test - model.mean_) / model.scale_
hidden = np.maximum(scaled @ model.coefs_[0] + model.intercepts_[0], 0)
logits = hidden @ model.coefs_[1] + model.intercepts_[1]
assert (model.classes_[logits.argmax(1)] == model.predict(X_test)).all()

# %%
# Twelve neurons
# --------------
# Each neuron has an output weight for each digit. The title of its pictures is
# the digit with the largest output weight. The upper picture shows the
# neuron's 64 weights, and the lower picture the mean of the ten test digits
# for which its value is largest. Many means show another digit than the title:
# a neuron finds a part that several digits share, and the output layer adds up
# all neurons.

favourites = model.coefs_[1].argmax(1)  # the digit each neuron votes for
order = np.argsort(favourites, kind="stable")[::2]
weights = model.coefs_[0]

figure, grid = plt.subplots(4, 6, figsize=(5.4, 4), layout="constrained")
for place, neuron in enumerate(order[:12]):
    row, column = 2 * (place // 6), place % 6
    picture = weights[:, neuron].reshape(8, 8)
    limit = np.abs(picture).max()
    above, below = grid[row, column], grid[row + 1, column]
    above.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
    above.set_title(f"for {favourites[neuron]}")
    strongest = hidden[:, neuron].argsort()[-10:]
    below.imshow(X_test[strongest].mean(0).reshape(8, 8), cmap="gray_r")
for axes in grid.flat:
    axes.set(xticks=[], yticks=[])
for row, label in enumerate(["weights", "digits"] * 2):
    grid[row, 0].set_ylabel(label)
plt.show()
