"""
Text with sparse features
=========================

The network takes a sparse table as it is: here, the word counts of restaurant
reviews. "Good" is praise, and "not good" is not. A linear model adds up words,
so it cannot learn the difference; a network with a hidden layer can.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from scratchnn import ScratchNNClassifier

# %%
# A small corpus
# --------------
# A review praises or blames one thing, half of the time with a negation, and
# adds neutral words. 5 % of the labels are wrong.

rng = np.random.default_rng(0)
praise = ["good", "fresh", "tasty", "friendly", "lovely", "perfect"]
blame = ["bad", "bland", "cold", "rude", "awful", "burnt"]
things = ["soup", "pasta", "waiter", "dessert", "wine", "service"]
fillers = ["we", "came", "here", "on", "monday", "with", "old", "friends"]


def write_review():
    """Return a review, and whether it is positive."""
    is_praise, is_negated = rng.random(2) < 0.5
    words = [rng.choice(praise if is_praise else blame)]
    if is_negated:
        words.insert(0, rng.choice(["not", "never", "hardly"]))
    extra = rng.choice(fillers, size=rng.integers(2, 6), replace=False)
    review = ["the", rng.choice(things), "was", *words, *extra]
    return " ".join(review), is_praise != is_negated


reviews, labels = zip(*[write_review() for _ in range(1500)], strict=True)
is_wrong = rng.random(len(labels)) < 0.05
y = np.where(labels != is_wrong, "positive", "negative")
texts_train, texts_test, y_train, y_test = train_test_split(
    reviews, y, test_size=0.5, random_state=0
)
print(*texts_train[:3], sep="\n")

# %%
# Two pipelines
# -------------
# CountVectorizer returns a sparse matrix with a column for each word. It stays
# sparse in the network.

models = {
    "LogisticRegression": make_pipeline(
        CountVectorizer(), LogisticRegression()
    ),
    "ScratchNNClassifier": make_pipeline(
        CountVectorizer(), ScratchNNClassifier((50,), random_state=0)
    ),
}
for name, model in models.items():
    model.fit(texts_train, y_train)
    accuracy = model.score(texts_test, y_test)
    print(f"{name}: test accuracy {accuracy:.3f}")
counts = models["ScratchNNClassifier"][0].transform(texts_test)
share = counts.nnz / np.prod(counts.shape)
print(f"{counts.shape[1]} columns, {share:.0%} of the values are stored")

# %%
# Praise, blame and negations
# ---------------------------
# The linear model gives each word a weight, so "not" moves all phrases in the
# same direction. The network reverses the meaning. With pairs of words as
# features (``ngram_range=(1, 2)``), a linear model can do this, too, but only
# for pairs in the training texts.

phrases = ["good", "not good", "fresh", "hardly fresh"]
phrases += ["cold", "not cold", "rude", "never rude"]
asked = [f"the soup was {phrase}" for phrase in phrases]
figure, axes = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
places = np.arange(len(phrases))[::-1]
colours = ["#999999", "#0072B2"]
for colour, (name, model) in zip(colours, models.items(), strict=True):
    chances = model.predict_proba(asked)[:, 1]
    axes.plot(chances, places, "o", markersize=9, color=colour, label=name)
axes.axvline(0.5, color="black", linewidth=1)
axes.set(
    xlabel="probability of a positive review",
    xlim=(0, 1),
    yticks=places,
    yticklabels=phrases,
)
axes.grid(axis="y", alpha=0.4)
figure.legend(loc="outside upper center", ncols=2, frameon=False)
plt.show()
