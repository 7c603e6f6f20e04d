"""What people do with a classifier in scikit-learn: one catalogue, for the network, for its peers, and for fused fits.

Each use takes nothing, trains in a moment, and returns a list of arrays that can be compared.
"""

from functools import partial

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from helpers import ALL_EPOCHS, make_network
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import RFE, SelectFromModel, SequentialFeatureSelector
from sklearn.inspection import DecisionBoundaryDisplay, partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    train_test_split,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from small_problems import X, groups, labels, sample_weight, y, y2

matplotlib.use("Agg")
partly = np.where(np.random.default_rng(0).random(120) < 0.5, -1, y)
frame = pd.DataFrame(X[:, :3], columns=["size", "depth", "age"]).assign(kind=np.array(list("abc"))[y[::-1]])
films = [f"{word} {other} film" for word in ("good", "great", "bad", "poor") for other in ("quiet", "long", "new")] * 2
praise = ["praise"] * 6 + ["blame"] * 6
grid = {"C": [1e-3, 1.0]}
folds = KFold(3)


def flatten(result):
    """Return all numbers of a result but the times, as arrays."""
    if isinstance(result, dict):
        return [value for name in sorted(result) if "time" not in name for value in flatten(result[name])]
    if isinstance(result, list | tuple):
        return [value for part in result for value in flatten(part)]
    if hasattr(result, "cv_results_"):
        # Ranks are left out, as equal scores that round differently have none that is the right one.
        scores = {name: value for name, value in result.cv_results_.items() if not name.startswith(("param", "rank"))}
        return flatten(scores) + (flatten(result.best_estimator_) if result.refit else [])
    if hasattr(result, "predict_proba"):
        return [result.predict_proba(X)]
    if hasattr(result, "get_support"):
        return [result.get_support()]
    return [np.asarray(result)]


def make_uses(model):
    """Return the catalogue for a classifier, by a function that makes it with some parameters, of which C is one."""

    def search(estimator=None, parameters=grid, **settings):
        return GridSearchCV(model() if estimator is None else estimator, parameters, **{"cv": folds, **settings})

    def validate(estimator=None, **settings):
        return cross_validate(model() if estimator is None else estimator, X, y, **{"cv": folds, **settings})

    def split_and_predict():
        rows, others, targets, _ = train_test_split(X, y2, random_state=0)
        pipeline = make_pipeline(StandardScaler(), model()).fit(rows, targets)
        names = ["predict", "predict_proba", "predict_log_proba", "decision_function"]
        return [getattr(pipeline, name)(others) for name in names]

    def draw_boundary(method):
        display = DecisionBoundaryDisplay.from_estimator(
            model().fit(X[:, :2], y2), X[:, :2], response_method=method, grid_resolution=5
        )
        plt.close(display.figure_)
        return display.response

    def select(selector):
        pipeline = make_pipeline(selector, model())
        return search(pipeline, {f"{pipeline.steps[-1][0]}__C": [0.1, 1.0]}).fit(X, y2)

    def encode(steps):
        return make_pipeline(ColumnTransformer(steps), model())

    scale = StandardScaler()
    numbers, kinds = ("numbers", scale, ["size", "depth"]), ("kinds", OneHotEncoder(sparse_output=False), ["kind"])
    parts = [("a", scale, [0, 1]), ("b", MinMaxScaler(), [2, 3])]
    uses = {
        # one after the other
        "no search": lambda: model().fit(X, y),
        "pipeline after train_test_split": split_and_predict,
        "text of a vectorizer": lambda: make_pipeline(TfidfVectorizer(), model()).fit(films, praise * 2).predict(films),
        "columns of a frame": lambda: encode([numbers, kinds]).fit(frame, y).predict_proba(frame),
        # searches and validation
        "GridSearchCV": lambda: search().fit(X, y),
        "RandomizedSearchCV": lambda: RandomizedSearchCV(model(), grid, n_iter=1, cv=folds, random_state=0).fit(X, y),
        "HalvingGridSearchCV": lambda: HalvingGridSearchCV(model(), grid, cv=3, factor=2, random_state=0).fit(X, y),
        "HalvingRandomSearchCV": lambda: HalvingRandomSearchCV(
            model(), grid, n_candidates=2, cv=3, factor=2, random_state=0
        ).fit(X, y),
        "cross_val_score": lambda: cross_val_score(model(), X, y),
        "cross_validate": lambda: validate(
            scoring=["neg_log_loss", "accuracy", "roc_auc_ovr"], return_train_score=True
        ),
        "estimators of cross_validate": lambda: validate(return_estimator=True),
        "cross_val_predict": lambda: cross_val_predict(model(), X, y, cv=4, method="predict_proba"),
        "learning_curve": lambda: learning_curve(model(), X, y, train_sizes=[0.4, 1.0], cv=folds)[:3],
        "validation_curve": lambda: validation_curve(
            model(), X, y, param_name="C", param_range=[0.1, 1.0], cv=3, scoring="neg_log_loss"
        ),
        "permutation_test_score": lambda: permutation_test_score(
            model(), X, y, cv=3, n_permutations=2, scoring="neg_log_loss", random_state=0
        ),
        "nested search": lambda: cross_val_score(search(scoring="neg_log_loss"), X, y, cv=2),
        "two searches": lambda: [search().fit(X, y), search().fit(X, y2)],
        "search over a pipeline": lambda: search(
            Pipeline([("scale", scale), ("model", model())]), {"model__C": [0.1, 1.0]}
        ).fit(X, y),
        "search over columns": lambda: validate(encode(parts), scoring="neg_log_loss"),
        "search over estimators": lambda: search(
            Pipeline([("model", model())]), {"model": [LogisticRegression(), model(), model(C=0.5)]}
        ).fit(X, y),
        "search without the classifier": lambda: search(LogisticRegression()).fit(X, y),
        # ensembles, and many classifiers in one
        "OneVsRest": lambda: OneVsRestClassifier(model()).fit(X, y),
        "OneVsOne": lambda: OneVsOneClassifier(model()).fit(X, y).decision_function(X),
        "grid around OneVsRest": lambda: search(OneVsRestClassifier(model()), {"estimator__C": [0.1, 1.0]}).fit(X, y),
        "Bagging": lambda: BaggingClassifier(model(), n_estimators=4, random_state=0).fit(X, y),
        "Bagging of columns": lambda: BaggingClassifier(
            model(), n_estimators=4, max_samples=0.7, max_features=0.5, random_state=0
        ).fit(X, y),
        "AdaBoost": lambda: AdaBoostClassifier(model(), n_estimators=2, random_state=0).fit(X, y),
        "Voting, hard": lambda: VotingClassifier([("a", model()), ("b", model(C=0.1))]).fit(X, y).predict(X),
        "Voting, soft": lambda: VotingClassifier(
            [("a", model()), ("b", model(C=0.5)), ("c", LogisticRegression())], voting="soft"
        ).fit(X, y),
        "Stacking": lambda: StackingClassifier([("a", model()), ("b", model(C=0.5))], model(), cv=3).fit(X, y),
        "Calibrated": lambda: CalibratedClassifierCV(model(), cv=3).fit(X, y),
        "Calibrated, isotonic, one model": lambda: CalibratedClassifierCV(
            model(), cv=3, ensemble=False, method="isotonic"
        ).fit(X, y),
        "MultiOutput": lambda: MultiOutputClassifier(model()).fit(X, labels).predict_proba(X),
        "ClassifierChain": lambda: ClassifierChain(model()).fit(X, labels).predict_proba(X),
        "SelfTraining": lambda: SelfTrainingClassifier(model(), threshold=0.6).fit(X, partly),
        # thresholds and inspection
        "TunedThreshold": lambda: TunedThresholdClassifierCV(model(), thresholds=20, cv=3).fit(X, y2).best_threshold_,
        "FixedThreshold": lambda: FixedThresholdClassifier(model(), threshold=0.7).fit(X, y2).predict(X),
        "permutation_importance": lambda: (
            permutation_importance(model().fit(X, y), X, y, n_repeats=2, random_state=0).importances
        ),
        "partial_dependence": lambda: partial_dependence(model().fit(X, y2), X, [0], grid_resolution=5)["average"],
        "boundaries": lambda: [draw_boundary(name) for name in ("predict", "predict_proba", "decision_function")],
        "SequentialFeatureSelector": lambda: SequentialFeatureSelector(model(), n_features_to_select=1, cv=2).fit(X, y),
        # forms of data
        "sample weights": lambda: search().fit(X, y, sample_weight=sample_weight),
        "sample weights of cross_validate": lambda: validate(
            params={"sample_weight": sample_weight}, scoring="neg_log_loss"
        ),
        "groups": lambda: search(cv=GroupKFold(3)).fit(X, y, groups=groups),
        "strings": lambda: search().fit(X, np.array(["a", "b", "c"])[y]),
        "two classes": lambda: search(scoring="roc_auc").fit(X, y2),
        "sparse": lambda: cross_val_score(model(), sparse.csr_array(X), y, scoring="neg_log_loss"),
    }
    linear = partial(model, hidden_layer_sizes=()) if hasattr(model(), "hidden_layer_sizes") else model
    uses |= {
        "RFE": lambda: RFE(linear(), n_features_to_select=2).fit(X, y2),
        "SelectFromModel": lambda: SelectFromModel(linear()).fit(X, y2),
        "several one after another": lambda: select(SelectFromModel(linear(), threshold=-np.inf, max_features=2)),
    }
    return {name: lambda use=use: flatten(use()) for name, use in uses.items()}


network = partial(make_network, learning_rate_init=0.01, numeric_encoding=None, dtype="float64", **ALL_EPOCHS)
USES = make_uses(network)
# What LogisticRegression cannot do.
USES |= {
    "learning_curve, step by step": lambda: flatten(
        learning_curve(network(), X, y, train_sizes=[0.4, 1.0], cv=3, exploit_incremental_learning=True)[:3]
    ),
    "generator": lambda: flatten(cross_val_score(network(random_state=np.random.RandomState(0)), X, y)),
    "multilabel": lambda: flatten(GridSearchCV(network(), grid, cv=folds, scoring="roc_auc").fit(X, labels)),
}
