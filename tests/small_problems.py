"""Small problems that the catalogue of uses and the tests of `fused_fits` share."""

import numpy as np
from sklearn.datasets import make_classification, make_multilabel_classification

SHAPE = {"n_features": 4, "n_informative": 3, "n_redundant": 0, "random_state": 0}
X, y = make_classification(120, n_classes=3, n_clusters_per_class=1, **SHAPE)
y2 = (y > 0).astype(int)
labels = make_multilabel_classification(120, n_features=4, n_classes=3, random_state=0)[1]
groups = np.arange(120) // 5
sample_weight = np.random.default_rng(0).uniform(0.5, 2, 120)
