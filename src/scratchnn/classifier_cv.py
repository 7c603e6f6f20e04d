"""The network with its penalty chosen by cross-validation."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .classifier import ScratchNNClassifier
from .estimator import parameters
from .estimator.agreeing import check_alone
from .estimator.arrays import find_array_library
from .estimator.callbacks import with_callbacks
from .estimator.choosing import check_alphas, choose_alpha, list_alphas, score_alphas
from .estimator.compat import StrOptions, fit_context, make_router, make_splits
from .estimator.faults import keep_on_error
from .estimator.fitting import Call, Tables, finish_fit, prepare_fit
from .estimator.resuming import open_session
from .estimator.tables import Array, Table
from .estimator.validation import validate_table

_LEFT_OUT = {"alpha", "C", "warm_start"}  # ScratchNNClassifier's parameters that there are not here


class ScratchNNClassifierCV(ScratchNNClassifier):
    """`ScratchNNClassifier` with its penalty chosen by cross-validation, as LogisticRegressionCV does it.

    The networks of all folds and penalties train together, as stacks. The penalty with the highest mean score over the
    folds is chosen, and a network trained with it on all rows.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, batch_size, ... :
        All parameters of `ScratchNNClassifier` except ``alpha``, ``C`` and ``warm_start``, with the same defaults.
    alphas : 'auto' or array-like of float, default='auto'
        Strengths of the penalty to choose from, see ``alpha`` of `ScratchNNClassifier`. 'auto' stands for three
        candidates: what ``alpha="auto"`` means for the rows at hand, a third of it, and three times as much. The first
        is a good guess, so another candidate is chosen only if it is better in each fold. It is not trained on further
        folds if it is not better in the first one.
    cv : int, cross-validation generator or iterable, default=None
        How to split the rows, as for LogisticRegressionCV: a number of folds, which are stratified, a splitter, or an
        iterable of pairs of row numbers. None is 3 folds.
    refit : bool, default=True
        Whether to train on all rows with the best penalty. Without, there is no model to predict with.
    scoring : str or callable, default='loss'
        What the penalty is chosen by: 'loss', which is minus the loss of the rows left out, or any scorer of
        scikit-learn. With ``early_stopping``, the networks of the folds watch it on these rows, too.

    Attributes
    ----------
    alpha_ : float
        The strength of the penalty that was chosen, for all rows.
    alphas_ : ndarray of shape (n_alphas,)
        Those that it was chosen from, for all rows.
    scores_ : ndarray of shape (n_folds, n_alphas)
        Scores on the rows that each fold left out: higher is better. NaN where training diverged, or a
        candidate of 'auto' was not trained on that fold.
    classes_, coefs_, intercepts_, ... :
        With ``refit``, all attributes of `ScratchNNClassifier`.

    See Also
    --------
    ScratchNNClassifier : The parameters, and the model.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from scratchnn import ScratchNNClassifierCV
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = ScratchNNClassifierCV((10,), alphas=[0.1, 1.0], random_state=0).fit(X, y)
    >>> classifier.scores_.shape
    (3, 2)
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        **{name: rule for name, rule in parameters.CONSTRAINTS.items() if name not in _LEFT_OUT},
        "alphas": ["array-like", StrOptions({"auto"})],
        "cv": ["cv_object"],
        "refit": ["boolean"],
    }
    alpha = "auto"
    C = None
    warm_start = False

    def __init__(
        self,
        hidden_layer_sizes: Any = (400,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alphas: Any = "auto",
        cv: Any = None,
        refit: bool = True,
        batch_size: int | str = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 0.005,
        power_t: float = 0.5,
        max_iter: int | None = None,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: Any = "log_loss",
        dropout: float = 0.0,
        class_weight: Any = None,
        categorical_features: Any = "from_dtype",
        numeric_encoding: str | None = "auto",
        standardize: bool = True,
        init: str = "he_uniform",
        hidden_bias: bool = True,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        scoring: Any = "loss",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alphas = alphas
        self.cv = cv
        self.refit = refit
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.loss = loss
        self.dropout = dropout
        self.class_weight = class_weight
        self.categorical_features = categorical_features
        self.numeric_encoding = numeric_encoding
        self.standardize = standardize
        self.init = init
        self.hidden_bias = hidden_bias
        self.device = device
        self.dtype = dtype
        self.scoring = scoring

    @with_callbacks  # type: ignore[untyped-decorator]
    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, **params: Any
    ) -> "ScratchNNClassifierCV":
        """Choose the penalty, and train the network with it.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Training data, as for `ScratchNNClassifier.fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or zeros and ones for each of several labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row, not negative, in training and in the scores.
        **params : dict
            What ``cv`` needs, such as ``groups``: with scikit-learn's ``enable_metadata_routing=True`` only.

        Returns
        -------
        self : ScratchNNClassifierCV

        Raises
        ------
        ValueError
            If a parameter or the data are not as described, or if training diverges.
        """
        with self._use_threads(X), keep_on_error(self):
            check_alone("ScratchNNClassifierCV")
            alphas = check_alphas(self.alphas)
            table, labels = validate_table(self, X, y, sample_weight, resume=False)
            folds = make_splits(self, X, table.y, params)
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            reported = {"X": X, "y": y, "metadata": metadata}
            call = Call(self, labels, False, array_library=find_array_library(X), reported=reported)
            with open_session(call, Tables(table)) as session:
                self._choose_and_train(replace(call, session=session), table, folds, alphas)
        return self

    def _choose_and_train(
        self, call: Call, table: Table, folds: list[tuple[Array, Array]], alphas: Array | None
    ) -> None:
        scores = score_alphas(call, table, folds, alphas)
        fit = prepare_fit(call, Tables(table))
        assert fit is not None  # it starts anew
        candidates = list_alphas(alphas, fit.run.settings.alpha)
        self.alpha_ = float(candidates[choose_alpha(scores, alphas)])
        self.scores_, self.alphas_ = (
            each if call.array_library is None else call.array_library.convert(each) for each in (scores, candidates)
        )
        if self.refit:
            fit.set_alpha(self.alpha_)
            finish_fit(fit)

    def get_metadata_routing(self) -> Any:
        """Return what `fit` does with metadata, as scikit-learn's routing wants to know it.

        Returns
        -------
        routing : MetadataRouter
            The router: ``cv`` gets what it asks for.
        """
        return make_router(self)

    @property
    def partial_fit(self) -> Any:
        """There is none: cross-validation needs all rows."""
        raise AttributeError(
            "ScratchNNClassifierCV has no partial_fit, as cross-validation needs all rows. Use fit, or "
            "ScratchNNClassifier(alpha=alpha_), which has."
        )
