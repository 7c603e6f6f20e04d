"""The network as a scikit-learn classifier: parameters, validation, and who does what."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin

from ._compat import (
    HAS_ARRAY_API,
    CallbackSupportMixin,
    NotebookMixin,
    VersionMixin,
    available_unless,
    fit_context,
    with_callbacks,
)
from .estimator import parameters
from .estimator.atomic import fitted_at_once, freeze
from .estimator.attributes import get_linear_weights, name_encoded_columns, read_labels
from .estimator.call import Call, Tables
from .estimator.fitting import fit_network
from .estimator.predicting import predict_log_probabilities, predict_logits, predict_probabilities
from .estimator.validation import validate_part, validate_table, validate_validation_table
from .tables.array_api import find_array_library, to_library_of
from .tables.arrays import Array
from .training.threads import one_thread


def _forbid_partial_fit(classifier: "ScratchNNClassifier") -> str | None:
    if classifier.early_stopping:
        return "partial_fit does not support early_stopping=True, as it sees data in parts. Use fit, or set it False."
    if classifier.solver == "lbfgs":
        return "partial_fit does not support solver='lbfgs', which needs all data. Use fit, or set solver='adam'."
    return None


class ScratchNNClassifier(VersionMixin, CallbackSupportMixin, NotebookMixin, ClassifierMixin, BaseEstimator):
    """A neural network written by hand on PyTorch tensors, as a scikit-learn classifier.

    A drop-in replacement for LogisticRegression and MLPClassifier: MLPClassifier's parameters keep their names and
    meanings. Targets may be binary, multiclass or multilabel, with labels of any type.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(200,)
        Number of neurons in each hidden layer. ``()`` is logistic regression.
    activation : {'relu', 'tanh', 'logistic', 'identity', 'leaky_relu', 'gelu', 'silu'}, default='relu'
        Activation of the hidden layers.
    solver : {'adam', 'sgd', 'lbfgs'}, default='adam'
        'adam' and 'sgd' train on minibatches. 'lbfgs' (scipy's) uses all rows at each step, and suits small tables.
    alpha : float or 'auto', default='auto'
        Strength of the L2 penalty on the weights, divided by the number of samples in a minibatch, as in MLPClassifier.
        Without a hidden layer, and with all samples in a minibatch, ``alpha`` is LogisticRegression's ``1 / C``. 'auto'
        estimates it from the noise of the data, see :ref:`penalty`, and multiplies it by ``batch_size / n_samples``.
    C : float or None, default=None
        LogisticRegression's inverse strength of the penalty. If it is set, ``alpha`` is ``1 / C``.
    batch_size : int, 'auto' or 'full', default='auto'
        Samples per minibatch. 'auto' is a tenth of the samples, from 32 to 100, and a hundredth of more than 10,000, up to
        500. 'full' is all samples.
    learning_rate : {'auto', 'cosine', 'one_cycle', 'constant', 'invscaling', 'adaptive'}, default='auto'
        Schedule of the learning rate:

        - 'cosine': it falls to zero along a cosine over the ``max_iter`` epochs of a call of `fit`. When patience runs
          out, it falls to zero within ten more epochs.
        - 'auto': 'cosine' over ``max_iter`` epochs or 50, whichever is less.
        - 'one_cycle': it rises for 30 % of the steps and then falls.
        - 'constant': it does not change. `partial_fit` uses this in place of the three above.
        - 'invscaling', for 'sgd' only: ``learning_rate_init / (t_ + 1) ** power_t`` after each epoch.
        - 'adaptive', for 'sgd' only: it is divided by 5 if ``n_iter_no_change`` epochs brought no improvement.
    learning_rate_init : float, default=0.005
        Learning rate of 'adam' and 'sgd'. It is the largest rate of every schedule.
    power_t : float, default=0.5
        Exponent of 'invscaling'.
    max_iter : int or None, default=None
        Maximum number of epochs (with 'lbfgs', of iterations). None is 50 with 'auto', 'cosine' and 'one_cycle', and
        200 otherwise.
    shuffle : bool, default=True
        Whether to draw a new row order for each epoch. A batch of all rows is not shuffled.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial coefficients, the sample orders, dropout and the validation split. An int makes fits
        repeatable, bit for bit. None takes a new seed from the operating system, not from a global generator.
    tol : float, default=0.0001
        Smallest change of the loss or of the validation score that counts as an improvement. 'lbfgs' stops when no
        entry of the gradient is larger.
    verbose : bool or int, default=False
        Whether to print loss and validation score of each epoch.
    warm_start : bool, default=False
        Whether `fit` continues from the end of the last call, with its coefficients, solver state and random generator.
        The means and scales of the columns stay those of the first call. The schedules 'auto', 'cosine' and 'one_cycle'
        start anew with each fit; with the others, two fits of 10 epochs equal one of 20.
    momentum : float, default=0.9
        Momentum of 'sgd', from 0 to 1.
    nesterovs_momentum : bool, default=True
        Whether 'sgd' uses Nesterov's momentum.
    early_stopping : bool, default=False
        Whether to stop when the validation score no longer improves, and to restore the best epoch's coefficients.
    validation_fraction : float, default=0.1
        Fraction of the samples that is held out for early stopping, stratified by class, if `fit` gets no ``X_val``. A
        sample of whole weight k counts as k samples, so a part of its weight may be held out. If some weights are not
        whole numbers, each sample counts as one.
    beta_1 : float, default=0.9
        Decay rate of the running mean of the gradients in 'adam'.
    beta_2 : float, default=0.999
        Decay rate of the running mean of the squared gradients in 'adam'.
    epsilon : float, default=1e-08
        Number that 'adam' adds to the divisor.
    n_iter_no_change : int or inf, default=10
        Number of epochs without an improvement of ``tol`` after which training stops.
    max_fun : int, default=15000
        Largest number of evaluations of the loss by 'lbfgs'.
    loss : {'log_loss', 'mae', 'brier'} or callable, default='log_loss'
        Loss that training minimizes, as a mean over rows: ``-log`` of the probability of the true class ('log_loss'),
        the distance of this probability to 1 ('mae'), or the square of this distance ('brier'). The losses of several
        labels are summed. A function takes logits and targets (zeros and ones), two tensors of shape (n_samples,
        n_outputs), and returns a value for each sample or each output, computed by PyTorch's functions.
    dropout : float, default=0.0
        Fraction of the hidden values that each step sets to zero, except with 'lbfgs'. Others are scaled up instead.
    class_weight : dict, 'balanced', list of dict or None, default=None
        Weight of each class. It multiplies the ``sample_weight`` of the rows, in training and in the validation loss
        and score. Classes that are missing in a dict have weight 1. 'balanced' gives all classes of the training data
        the same total weight. Multilabel targets take a list with a dict for each label; a row's weight is the product.
    categorical_features : array-like of {bool, int, str} of shape (n_features,) or (n_categorical_features,), \
            'from_dtype' or None, default='from_dtype'
        Columns of X that hold categories: a mask, their numbers, or their names in a frame. With 'from_dtype' they are
        those of a categorical type, and those that hold text.
    numeric_encoding : {'auto', 'piecewise'} or None, default='auto'
        'piecewise' clips scaled columns of more than two values smoothly at 3, and adds how far a value is through each
        of several quantile bins, from 0 below the bin to 1 above it: the more bins, the more samples and the fewer
        columns there are. 'auto' does so with a hidden layer, for a dense X. None keeps columns as they are.
    standardize : bool, default=True
        Whether to center, scale and clip the columns before training and prediction, in the precision of X. Sparse
        columns that are mostly zeros are not centered.
    init : {'he_uniform', 'glorot_uniform', 'scratch'}, default='he_uniform'
        Rule for drawing the coefficients, see `scratchnn.network.init_coeffs`.
    hidden_bias : bool, default=True
        Whether hidden layers have intercepts.
    device : str or torch.device, default='auto'
        Device of the computation: 'cpu', 'cuda', 'cuda:1', ... 'auto' is where X is: the CPU for arrays and frames, its
        own device for a tensor. The fitted model consists of NumPy arrays and can be used on any machine.
    dtype : {'auto', 'float32', 'float64', 'tf32', 'bfloat16'}, default='auto'
        Precision of training. 'auto' is the precision of X up to 100 rows, and with 'lbfgs'. Otherwise it is float32.
        'tf32' and 'bfloat16' are float32 with products of rounded factors. On the CPU, 'tf32' is float32.
    scoring : str or callable, default='loss'
        Score that early stopping watches: 'loss' (minus the validation loss), or any scorer of scikit-learn. The
        validation rows may lack a class if the score is defined without it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, including those of rows of weight 0. For multilabel targets, the column numbers.
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weights of each layer. The first weights have a row for each of ``feature_names_encoded_``. They apply to the
        encoded columns after centring and scaling with ``mean_`` and ``scale_``, and to the bins. They are zero for
        columns that `fit` found constant, or unused in a sparse X. ``coefs_``, ``intercepts_``, ``mean_`` and
        ``scale_`` may be set, to arrays of any float type or to lists: training continues from these values.
    intercepts_ : list of ndarray of shape (fan_out,)
        Biases of each layer.
    feature_names_encoded_ : ndarray of str
        What the rows of ``coefs_[0]`` stand for: "age", "missingindicator_age", "sex_male", "age[20, 28.5]" (a bin).
        Bins without width have no weights and no name: "".
    encoder_ : object or None
        Encoder of categories, dates and missing values. None if the training rows had only numbers.
    bin_edges_ : ndarray of shape (n_columns, n_edges) or None
        Edges of the bins of each encoded column, followed by NaN. None if no column has any.
    mean_ : ndarray of shape (n_columns,) or None
        Means of the encoded columns; 0 for a sparse column that is mostly zeros. None if no column is centered.
    scale_ : ndarray of shape (n_columns,) or None
        Standard deviations of the encoded columns, in which far values hardly count; for a column of two values, their
        difference; for a sparse column that is mostly zeros, its largest absolute value. None without ``standardize``.
    coef_ : ndarray of shape (1 or n_classes, n_features)
        Coefficients of the features, as LogisticRegression has them, if there are no hidden layer, bins or categories.
        Those of missing-value indicators are in ``coefs_[0]`` only.
    intercept_ : ndarray of shape (1 or n_classes,)
        Intercepts that belong to ``coef_``.
    alpha_ : float
        Strength of the penalty in the last call: ``alpha``, or what 'auto' or ``C`` meant.
    loss_ : float
        Loss of the last epoch, with the penalty.
    best_loss_ : float or None
        Smallest loss of an epoch. None with early stopping.
    loss_curve_ : list of float
        Loss of each epoch, with the penalty: the mean over the batches, each before its update ('lbfgs': after it).
    training_loss_curve_ : list of float
        Loss of each epoch without the penalty, to be compared with ``validation_loss_curve_``, which is computed after
        the epoch and without ``dropout``.
    validation_scores_ : list of float or None
        Score of the validation set after each epoch. None without a validation set.
    best_validation_score_ : float or None
        Best of the ``validation_scores_``.
    validation_loss_curve_ : list of float or None
        Loss of the validation set after each epoch, without the penalty.
    n_iter_ : int
        Number of epochs of the last call.
    t_ : int
        Number of training samples seen in all calls.
    n_layers_ : int
        Number of layers, including input and output.
    n_outputs_ : int
        Number of outputs: 1 for two classes.
    out_activation_ : {'logistic', 'softmax'}
        Activation of the output.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, if X has names and all of them are strings.

    Notes
    -----
    A row of weight 0 is equivalent to leaving the row out, and a row of weight k to repeating it k times. With all rows
    in one batch this holds up to rounding, with ``early_stopping`` for whole numbers k. With minibatches it holds in
    expectation, because the minibatches differ.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from scratchnn import ScratchNNClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> classifier = ScratchNNClassifier(max_iter=50, tol=1e-2, random_state=0).fit(X, y)
    >>> classifier.predict(X[:3])
    array([0, 0, 0])
    """

    _parameter_constraints = parameters.CONSTRAINTS

    def __init__(
        self,
        hidden_layer_sizes: Any = (200,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float | str = "auto",
        C: float | None = None,
        batch_size: int | str = "auto",
        learning_rate: str = "auto",
        learning_rate_init: float = 0.005,
        power_t: float = 0.5,
        max_iter: int | None = None,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
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
        self.alpha = alpha
        self.C = C
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
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

    @classmethod
    def from_recipe(cls, name: str, **changes: Any) -> "ScratchNNClassifier":
        """Return a classifier with a named configuration.

        Parameters
        ----------
        name : {'scratch', 'logistic_regression'}
            'scratch': the plain method (20 hidden neurons without bias, mean absolute error, gradient descent on all
            rows, its own initialisation, no early end). With ``random_state=442`` it has the same losses as
            `scratchnn.network.train_model`. 'logistic_regression': LogisticRegression with the penalty ``C``.
        **changes
            Parameters to set otherwise.

        Returns
        -------
        ScratchNNClassifier

        Raises
        ------
        ValueError
            If there is no such recipe.
        """
        if name not in parameters.RECIPES:
            raise ValueError(f"name must be one of the recipes {sorted(parameters.RECIPES)}, got {name!r}.")
        return cls(**(parameters.RECIPES[name] | changes))

    @with_callbacks  # type: ignore[untyped-decorator]
    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> "ScratchNNClassifier":
        """Train the network.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Training data. It may have missing values if it is dense, and text, categories and dates in a frame.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or zeros and ones for each of several labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row, not negative: 2 counts as two equal rows, 0 leaves the row out.
        X_val, y_val : array-like, default=None
            Validation data in the form of X and y: ``validation_scores_`` follows them, and with ``early_stopping``
            they take the place of a split of the training data.
        sample_weight_val : array-like of shape (n_samples_val,), default=None
            Weights of the validation data.

        Returns
        -------
        self : ScratchNNClassifier

        Raises
        ------
        ValueError
            If a parameter or the data are not as described, or if training diverges.

        Warns
        -----
        ConvergenceWarning
            If ``max_iter`` ended the training before its own rule did (``tol`` and ``n_iter_no_change``), or 'lbfgs'
            stopped short of ``tol``. No warning if a schedule completes, unless ``max_iter`` is less than
            ``n_iter_no_change`` (and 50) epochs.
        UserWarning
            If Ctrl-C ended it; the model so far is kept.
        """
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        reported = {"estimator": self, "X": X, "y": y, "metadata": metadata}
        with one_thread(), fitted_at_once(self, "fit") as fitted:
            resume = self.warm_start and hasattr(fitted, "coefs_")
            table, labels = validate_table(fitted, X, y, sample_weight, resume=resume)
            validation = validate_validation_table(fitted, X_val, y_val, sample_weight_val, labels, table)
            call = Call(fitted, labels, resume, array_library=find_array_library(X), reported=reported)
            fit_network(call, Tables(table, validation))
        return self

    @available_unless(_forbid_partial_fit)
    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> "ScratchNNClassifier":
        """Go over the given rows once, from where the last call ended.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Training data, as for `fit`. Each call updates the means and scales of ``standardize``, except after a
            `fit`, whose means and scales stay. The first call fixes the categories, missing-value indicators and bins.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or zeros and ones for each of several labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row, not negative.
        classes : array-like of shape (n_classes,), default=None
            All class labels that will come. The first call needs them, unless `fit` came before.

        Returns
        -------
        self : ScratchNNClassifier

        Raises
        ------
        ValueError
            If a parameter or the data are not as described, or if training diverges.
        AttributeError
            With ``early_stopping`` or solver 'lbfgs', which need all the data.
        """
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight must be a dict or None for partial_fit, which sees one part of the data at a time, got "
                f"{self.class_weight!r}. Pass a dict of compute_class_weight('balanced', classes=..., y=...)."
            )
        with one_thread(), fitted_at_once(self, "partial_fit") as fitted:
            resume = getattr(fitted, "t_", 0) > 0  # ignore earlier calls in which all sample weights were zero
            table, labels = validate_part(fitted, X, y, sample_weight, classes, resume=resume)
            call = Call(fitted, labels, resume, incremental=True, array_library=find_array_library(X))
            fit_network(call, Tables(table))
        return self

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        # scikit-learn reads the signature anew each time, ten times a fit in a search.
        return list(super()._get_param_names())

    def _validate_params(self) -> None:
        try:
            super()._validate_params()
        except ValueError as error:
            hint = parameters.find_hint(self.get_params(deep=False), str(error))
            raise type(error)(f"{error}{hint}") from None

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coefs_")

    @property
    def _first_coef(self) -> Any:
        return self.coefs_[0]

    def decision_function(self, X: ArrayLike) -> Array:
        """Return the logits: what sigmoid or softmax turn into probabilities.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            For two classes, one value a row: positive where the second class is likelier.
        """
        with one_thread():
            logits = predict_logits(freeze(self), X, "decision_function")
            return to_library_of(logits[:, 0] if logits.shape[1] == 1 else logits, X)

    def predict(self, X: ArrayLike) -> Array:
        """Return the likeliest labels.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or zeros and ones for each of several labels.
        """
        with one_thread():
            fitted = freeze(self)
            logits = predict_logits(fitted, X, "predict")
            return to_library_of(read_labels(fitted).decode(logits), X)

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities between 0 and 1, in the order of ``classes_``. Multilabel columns do not sum to one.
        """
        with one_thread():
            return to_library_of(predict_probabilities(freeze(self), X, "predict_proba"), X)

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Return the logarithm of the probability of each class: exact where `predict_proba` rounds to 0 or 1.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Log-probabilities, finite, in the order of ``classes_``.
        """
        with one_thread():
            return to_library_of(predict_log_probabilities(freeze(self), X, "predict_log_proba"), X)

    @property
    def coef_(self) -> Array:
        """Weights of the original columns, (1, n_features) for two classes, else (n_outputs, n_features)."""
        weights = get_linear_weights(self, "coef_").T
        return (weights if self.scale_ is None else weights / self.scale_)[:, : self.n_features_in_]

    @property
    def intercept_(self) -> Array:
        """Intercepts for the original columns, (1,) for two classes, else (n_outputs,)."""
        weights, intercept = get_linear_weights(self, "intercept_").T, self.intercepts_[0]
        shifted: Array = intercept if self.mean_ is None else intercept - (weights / self.scale_) @ self.mean_
        return shifted

    @property
    def feature_names_encoded_(self) -> Array:
        """Names of what the rows of ``coefs_[0]`` stand for, (n_rows,)."""
        return name_encoded_columns(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.array_api_support = HAS_ARRAY_API
        return tags
