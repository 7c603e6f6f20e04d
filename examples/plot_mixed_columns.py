"""
Mixed columns
=============

A table of numbers, categories, text and missing values, as a DataFrame. `ScratchNNClassifier` takes it as it is. For a
comparison, the same network gets the columns that a hand-made ColumnTransformer makes, and boosted trees get the frame.
The passengers are made up. All of it runs in half a minute.
"""

import time

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from scratchnn import ScratchNNClassifier

# %%
# The table
# ---------
# Women, the young, the old, and those who paid more are saved more often. The age is unknown for a fifth of the
# passengers, and more often for those who were lost.

rng = np.random.default_rng(0)
n_rows = 2000
age = rng.gamma(4, 8, n_rows)
fare = rng.lognormal(3, 1, n_rows)
sex = rng.choice(["male", "female"], n_rows, p=[0.6, 0.4])
port = rng.choice(["Southampton", "Cherbourg", "Queenstown"], n_rows, p=[0.7, 0.2, 0.1])
is_first = (age < 16) | (age > 50)
logits = 2.5 * (sex == "female") + 3 * is_first + 1.5 * (np.log(fare) - 3) + 0.7 * (port == "Cherbourg") - 2
saved = rng.random(n_rows) < 1 / (1 + np.exp(-logits))
passengers = pd.DataFrame(
    {
        "age": np.where(rng.random(n_rows) < np.where(saved, 0.1, 0.3), np.nan, age),
        "fare": fare,
        "siblings": pd.array(rng.poisson(0.5, n_rows), dtype="Int64"),
        "sex": sex,
        "port": pd.Categorical(np.where(rng.random(n_rows) < 0.02, None, port)),
    }
)
X_train, X_test, y_train, y_test = train_test_split(passengers, saved, random_state=0, stratify=saved)
print(X_train.head())

# %%
# By hand, and as it is
# ---------------------

columns = make_column_transformer(
    (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), make_column_selector(dtype_include="number")),
    (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
)
categories = passengers.assign(sex=passengers["sex"].astype("category")).dtypes
classifiers = {
    "network, by hand": make_pipeline(columns, ScratchNNClassifier(numeric_encoding=None, random_state=0)),
    "network, raw": ScratchNNClassifier(random_state=0),
    "boosted trees": HistGradientBoostingClassifier(random_state=0),
}
print(f"{'':18s}{'accuracy':>10s}{'log loss':>10s}{'seconds':>10s}")
for name, classifier in classifiers.items():
    start = time.perf_counter()
    frame = X_train.astype(categories) if name == "boosted trees" else X_train  # text, to the trees, is an error
    classifier.fit(frame, y_train)
    seconds = time.perf_counter() - start
    frame = X_test.astype(categories) if name == "boosted trees" else X_test
    accuracy, loss = classifier.score(frame, y_test), log_loss(y_test, classifier.predict_proba(frame))
    print(f"{name:18s}{accuracy:10.3f}{loss:10.3f}{seconds:10.2f}")

# %%
# What the network reads
# ----------------------
# Numbers, the mark of an unknown age, a column for each category, and bins of the numbers. With bins, the first
# layer already tells the young, the old and the others apart.

model = classifiers["network, raw"]
print(", ".join(model.feature_names_encoded_[:16]), "...")

# %%
# New rows
# --------
# A port that no passenger of training had, and an unknown sex, are like no category seen. An unknown fare is filled.

new = pd.DataFrame({"age": [8.0, 50.0], "fare": [20.0, None], "siblings": [1, 0], "sex": ["female", None]})
new["port"] = ["Belfast", "Cherbourg"]
print(model.predict_proba(new)[:, 1].round(2))
