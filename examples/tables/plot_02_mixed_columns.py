"""
Mixed columns
=============

`ScratchNNClassifier` takes a DataFrame of numbers, categories, text and
missing values as it is. For comparison, the same network gets the features of
a hand-made ColumnTransformer, and boosted trees get the DataFrame. The
passengers are generated, so the true probabilities are known.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    StandardScaler,
)

from scratchnn import ScratchNNClassifier

# %%
# The table
# ---------
# Women, young and old passengers, and passengers who paid more are saved more
# often. The age of a fifth of the passengers is unknown, more often if they
# were lost.


def calc_chances(age, fare, sex, port):
    """Return the true probability of being saved."""
    logits = 2.5 * (sex == "female") + 3.0 * ((age < 16) | (age > 50)) - 2
    logits = logits + 1.5 * (np.log(fare) - 3) + 0.7 * (port == "Cherbourg")
    return 1 / (1 + np.exp(-logits))


rng = np.random.default_rng(0)
n_rows = 1400
age = rng.gamma(4, 8, n_rows)
fare = rng.lognormal(3, 1, n_rows)
sex = rng.choice(["male", "female"], n_rows, p=[0.6, 0.4])
ports = ["Southampton", "Cherbourg", "Queenstown"]
port = rng.choice(ports, n_rows, p=[0.7, 0.2, 0.1])
saved = rng.random(n_rows) < calc_chances(age, fare, sex, port)
is_unknown = rng.random(n_rows) < np.where(saved, 0.1, 0.3)
has_no_port = rng.random(n_rows) < 0.02
passengers = pd.DataFrame(
    {
        "age": np.where(is_unknown, np.nan, age),
        "fare": fare,
        "siblings": pd.array(rng.poisson(0.5, n_rows), dtype="Int64"),
        "sex": sex,
        "port": pd.Categorical(np.where(has_no_port, None, port), ports),
    }
)
X_train, X_test, y_train, y_test = train_test_split(
    passengers, saved, random_state=0, stratify=saved
)
print(X_train.head())

# %%
# By hand, and as it is
# ---------------------
# By hand: fill missing numbers, add missing-value indicators, scale, and
# encode the categories. The network needs none of these steps. The trees do
# not accept text, so they get categories.

numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
columns = make_column_transformer(
    (numbers, make_column_selector(dtype_include="number")),
    (
        OneHotEncoder(handle_unknown="ignore"),
        make_column_selector(dtype_exclude="number"),
    ),
)
trees = make_pipeline(
    FunctionTransformer(lambda frame: frame.astype({"sex": "category"})),
    HistGradientBoostingClassifier(random_state=0),
)
classifiers = {
    "columns by hand": make_pipeline(
        columns, ScratchNNClassifier(numeric_encoding=None, random_state=0)
    ),
    "frame as it is": ScratchNNClassifier(random_state=0),
    "boosted trees": trees,
}
print(f"{'':20s}accuracy  log loss")
for name, classifier in classifiers.items():
    classifier.fit(X_train, y_train)
    loss = log_loss(y_test, classifier.predict_proba(X_test))
    print(f"{name:20s}{classifier.score(X_test, y_test):8.3f}{loss:10.3f}")

# %%
# What the models learnt about age
# --------------------------------
# The figure shows the predicted chance of a man from Southampton who paid 20,
# at each age. The truth jumps at 16 and at 50. From 1,050 samples, a fifth of
# them without the age, no model finds it exactly. The networks learn smooth
# curves. The trees learn steps, many of which follow the noise.

ages = np.linspace(2, 75, 200)
men = X_test.iloc[[0] * len(ages)].assign(
    age=ages, fare=20.0, siblings=0, sex="male", port="Southampton"
)
men = men.astype(passengers.dtypes)
figure, axes = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
truth = calc_chances(ages, 20, "male", "Southampton")
axes.plot(ages, truth, color="black", linewidth=3, label="truth")
colours = ["#D55E00", "#0072B2", "#009E73"]
for colour, (name, classifier) in zip(
    colours, classifiers.items(), strict=True
):
    chances = classifier.predict_proba(men)[:, 1]
    axes.plot(ages, chances, color=colour, label=name)
axes.set(xlabel="age", ylabel="probability of being saved", ylim=(0, 1))
axes.legend(frameon=False, loc="upper center", handlelength=1)
plt.show()

# %%
# The encoded features
# --------------------
# The network gets numbers, the missing-value indicator of the age, a feature
# for each category, and bins of the numbers.

model = classifiers["frame as it is"]
for name in model.feature_names_encoded_[:14]:
    print(name)

# %%
# New samples
# -----------
# A port or a sex that was not seen in training gets zeros in all features of
# its column. A missing fare is filled with the mean.

new = pd.DataFrame(
    {
        "age": [8.0, 50.0],
        "fare": [20.0, None],
        "siblings": [1, 0],
        "sex": ["female", None],
        "port": ["Belfast", "Cherbourg"],
    }
)
print(model.predict_proba(new)[:, 1].round(2))
