"""Accuracy of `partial_fit` on chunks of a table, by the order of the rows: what shuffling across chunks is worth.

Run: python tests/benchmarks/chunks.py.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from common import pick, print_table, run_tables
from sklearn.datasets import load_digits, make_classification
from sklearn.model_selection import train_test_split

from scratchnn import ScratchNNClassifier

N_CHUNKS = 20
N_EPOCHS = 10
SEEDS = range(3)
Chunks = list[np.ndarray]  # of row numbers


def cut_shuffled(y: np.ndarray, rng: np.random.Generator) -> Chunks:
    """Return chunks of rows in random order."""
    return np.array_split(rng.permutation(len(y)), N_CHUNKS)


def cut_sorted(y: np.ndarray, rng: np.random.Generator) -> Chunks:
    """Return chunks of rows in the order of the classes."""
    return np.array_split(np.argsort(y, kind="stable"), N_CHUNKS)


def read_in_order(chunks: Chunks, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the chunks as they are stored."""
    yield from chunks


def read_shuffled(chunks: Chunks, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the chunks in random order."""
    yield from (chunks[place] for place in rng.permutation(len(chunks)))


def read_together(chunks: Chunks, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield five chunks at a time, drawn at random, as one."""
    for places in np.array_split(rng.permutation(len(chunks)), len(chunks) // 5):
        yield np.concatenate([chunks[place] for place in places])


READERS: dict[str, tuple[Callable[..., Chunks], Callable[..., Iterator[np.ndarray]]]] = {
    "rows shuffled, chunks as stored": (cut_shuffled, read_in_order),
    "rows sorted by class, chunks as stored": (cut_sorted, read_in_order),
    "rows sorted by class, chunks shuffled": (cut_sorted, read_shuffled),
    "rows sorted by class, 5 random chunks as one": (cut_sorted, read_together),
}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a table by its name."""
    if name == "digits":
        data: Any = load_digits(return_X_y=True)
    else:
        data = make_classification(10_000, 20, n_informative=10, n_classes=4, n_clusters_per_class=3, random_state=0)
    return data[0], data[1]


def score_reader(name: str, reader: str, seed: int) -> float:
    """Return the accuracy on a quarter of the rows, after all epochs over the chunks of the others."""
    X_train, X_test, y_train, y_test = train_test_split(*load(name), random_state=seed)
    rng = np.random.default_rng(seed)
    classifier = ScratchNNClassifier((100,), random_state=seed)
    if reader == "fit, which has all rows":
        return float(classifier.set_params(max_iter=N_EPOCHS).fit(X_train, y_train).score(X_test, y_test))
    cut, read = READERS[reader]
    chunks = cut(y_train, rng)
    for _ in range(N_EPOCHS):
        for rows in read(chunks, rng):
            classifier.partial_fit(X_train[rows], y_train[rows], classes=np.unique(y_train))
    return float(classifier.score(X_test, y_test))


def compare_orders() -> None:
    """Print the table of accuracies."""
    names = pick(["digits", "10,000 rows, 4 classes"])
    rows = [
        [
            reader,
            *(f"{statistics.mean(score_reader(name, reader, seed) for seed in pick(SEEDS)):.3f}" for name in names),
        ]
        for reader in ["fit, which has all rows", *READERS]
    ]
    print_table(f"Accuracy after {N_EPOCHS} epochs over {N_CHUNKS} chunks", ["order", *names], rows)


if __name__ == "__main__":
    run_tables({"chunks": compare_orders})
