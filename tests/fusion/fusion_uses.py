"""What scikit-learn runs through joblib, by name."""

import numpy as np
from fusion_helpers import X, alphas, folds, groups, labels, network, sample_weight, search, y, y2
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

USES = {
    "GridSearchCV": lambda: search().fit(X, y),
    "RandomizedSearchCV": lambda: RandomizedSearchCV(network(), alphas, n_iter=3, cv=folds, random_state=0).fit(X, y),
    "HalvingGridSearchCV": lambda: HalvingGridSearchCV(network(), alphas, cv=3, factor=2, random_state=0).fit(X, y),
    "HalvingRandomSearchCV": lambda: HalvingRandomSearchCV(
        network(), alphas, n_candidates=4, cv=3, factor=2, random_state=0
    ).fit(X, y),
    "cross_val_score": lambda: cross_val_score(network(), X, y, cv=5),
    "cross_validate": lambda: cross_validate(
        network(),
        X,
        y,
        cv=3,
        scoring=["neg_log_loss", "accuracy", "roc_auc_ovr"],
        return_train_score=True,
        return_estimator=True,
    ),
    "cross_val_predict": lambda: cross_val_predict(network(), X, y, cv=4, method="predict_proba"),
    "learning_curve": lambda: learning_curve(network(), X, y, train_sizes=[0.4, 1.0], cv=folds, return_times=False),
    "learning_curve, step by step": lambda: learning_curve(
        network(), X, y, train_sizes=[0.4, 1.0], cv=3, exploit_incremental_learning=True
    ),
    "validation_curve": lambda: validation_curve(
        network(), X, y, param_name="alpha", param_range=[0.1, 1.0], cv=3, scoring="neg_log_loss"
    ),
    "permutation_test_score": lambda: permutation_test_score(
        network(), X, y, cv=3, n_permutations=4, scoring="neg_log_loss", random_state=0
    ),
    "OneVsRest": lambda: OneVsRestClassifier(network()).fit(X, y),
    "OneVsOne": lambda: OneVsOneClassifier(network()).fit(X, y).decision_function(X),
    "Bagging": lambda: BaggingClassifier(network(), n_estimators=4, random_state=0).fit(X, y),
    "Bagging of columns": lambda: BaggingClassifier(
        network(), n_estimators=4, max_samples=0.7, max_features=0.5, random_state=0
    ).fit(X, y),
    "Voting": lambda: VotingClassifier(
        [("a", network()), ("b", network(alpha=1.0)), ("c", LogisticRegression())], voting="soft"
    ).fit(X, y),
    "Stacking": lambda: StackingClassifier([("a", network()), ("b", network(alpha=1.0))], network(), cv=3).fit(X, y),
    "Calibrated": lambda: CalibratedClassifierCV(network(), cv=3).fit(X, y),
    "Calibrated, isotonic, one model": lambda: CalibratedClassifierCV(
        network(), cv=3, ensemble=False, method="isotonic"
    ).fit(X, y),
    "MultiOutput": lambda: MultiOutputClassifier(network()).fit(X, labels).predict_proba(X),
    "ClassifierChain": lambda: ClassifierChain(network()).fit(X, labels).predict_proba(X),
    "grid around OneVsRest": lambda: search(OneVsRestClassifier(network()), {"estimator__alpha": [0.1, 1.0]}).fit(X, y),
    "nested search": lambda: cross_val_score(search(scoring="neg_log_loss"), X, y, cv=2),
    "Pipeline": lambda: search(
        make_pipeline(StandardScaler(), network(standardize=False)), {"scratchnnclassifier__alpha": [0.1, 1.0]}
    ).fit(X, y),
    "ColumnTransformer": lambda: cross_val_score(
        make_pipeline(
            ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [2, 3])], n_jobs=2), network()
        ),
        X,
        y,
        scoring="neg_log_loss",
    ),
    "several one after another": lambda: search(
        make_pipeline(SelectFromModel(network(hidden_layer_sizes=()), importance_getter="coef_"), network()),
        {"scratchnnclassifier__alpha": [0.1, 1.0], "selectfrommodel__estimator__alpha": [0.1, 1.0]},
    ).fit(X, y),
    "no networks": lambda: search(LogisticRegression(), {"C": [0.1, 1.0]}).fit(X, y),
    "partly networks": lambda: search(
        Pipeline([("model", network())]), {"model": [LogisticRegression(), network(), network(alpha=1.0)]}
    ).fit(X, y),
    "two searches": lambda: [search().fit(X, y), search().fit(X, y2)],
    "no search": lambda: network().fit(X, y),
    "sample weights": lambda: search().fit(X, y, sample_weight=sample_weight),
    "sample weights of cross_validate": lambda: cross_validate(
        network(batch_size=20), X, y, cv=4, params={"sample_weight": sample_weight}, scoring="neg_log_loss"
    ),
    "groups": lambda: search(cv=GroupKFold(3)).fit(X, y, groups=groups),
    "generator": lambda: search(network(random_state=np.random.RandomState(0))).fit(X, y),
    "strings": lambda: search().fit(X, np.array(["a", "b", "c"])[y]),
    "two classes": lambda: search(scoring="roc_auc").fit(X, y2),
    "multilabel": lambda: search(scoring="roc_auc").fit(X, labels),
    "sparse": lambda: cross_val_score(network(), sparse.csr_array(X), y, scoring="neg_log_loss"),
}
