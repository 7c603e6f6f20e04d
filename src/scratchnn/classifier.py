"""The network as a scikit-learn classifier: its parameters and its public methods."""

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
from .tables.arrays import Array, find_array_library, to_library_of
from .training.threads import one_thread


class ScratchNNClassifier(VersionMixin, CallbackSupportMixin, NotebookMixin, ClassifierMixin, BaseEstimator):
    """A neural network written by hand on PyTorch tensors, as a scikit-learn classifier.

    A drop-in replacement for LogisticRegression and MLPClassifier: all parameters of MLPClassifier have the same names.
    Targets may be binary, multiclass or multilabel, with labels of any type. The parameters are listed by topic:
    network, penalty, training, stopping, columns, computation, and last the tutorial's and MLPClassifier's.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(200,)
        Number of neurons in each hidden layer. ``()`` is logistic regression.
    activation : {'relu', 'tanh', 'logistic', 'identity', 'leaky_relu', 'gelu', 'silu', 'gaussian'}, default='relu'
        Activation of the hidden layers. 'gaussian' is ``exp(-z ** 2)``, see :ref:`activations`.
    dropout : float, default=0.0
        Fraction of the hidden values that each step sets to zero. The other values are scaled up. Not for 'lbfgs'.
    alpha : float or 'auto', default='auto'
        Strength of the L2 penalty: a minibatch of n samples adds ``alpha / (2 * n) * sum(weights ** 2)`` to its loss.

        - float: as in MLPClassifier, and ``1 / C`` of LogisticRegression without a hidden layer and with a full batch.
        - 'auto': estimated from the noise of the data, see :ref:`penalty`, times ``batch_size / n_samples``.
    C : float or None, default=None
        Inverse strength of the penalty, as in LogisticRegression. If it is set, ``alpha`` is ``1 / C``.
    loss : {'log_loss', 'mae', 'brier'} or callable, default='log_loss'
        Mean loss that training minimizes. With the probability ``p`` of the true class, 'log_loss' is ``-log(p)``,
        'mae' is ``1 - p``, and 'brier' is ``(1 - p) ** 2``, or for several classes half the sum of squared errors. The
        losses of several labels are summed. A callable takes logits and targets (zeros and ones), two tensors of shape
        (n_samples, n_outputs), and returns a value for each sample or each output, computed by PyTorch's functions.
    solver : {'adam', 'sgd', 'lbfgs'}, default='adam'
        'adam' and 'sgd' train on minibatches. 'lbfgs' (SciPy's) uses all samples at each step, and suits small tables.
    learning_rate : {'auto', 'cosine', 'one_cycle', 'constant', 'invscaling', 'adaptive'}, default='auto'
        Schedule of the learning rate, where step ``t`` is one of the ``T`` steps of ``max_iter`` epochs:

        - 'cosine': ``learning_rate_init * (1 + cos(pi * t / T)) / 2``. Zero ten epochs after patience runs out.
        - 'auto': 'cosine' over ``max_iter`` epochs or 50, whichever is less.
        - 'one_cycle': rises along a cosine from ``learning_rate_init / 25`` for 30 % of the steps, and then falls along
          a cosine to ``learning_rate_init * 4e-6``.
        - 'constant': ``learning_rate_init``. `partial_fit` uses this in place of the three above.
        - 'invscaling', for 'sgd' only: ``learning_rate_init / (t_ + 1) ** power_t``, updated after each epoch.
        - 'adaptive', for 'sgd' only: divided by 5 whenever ``n_iter_no_change`` epochs bring no improvement.
    learning_rate_init : float, default=0.005
        Learning rate of 'adam' and 'sgd'. It is the largest rate of every schedule.
    batch_size : int, 'auto' or 'full', default='auto'
        Samples per minibatch. 'auto' is a tenth of the samples, from 32 to 100; for more than 10,000 samples, it is a
        hundredth, at most 500. 'full' is all samples.
    max_iter : int or None, default=None
        Maximum number of epochs ('lbfgs': of iterations). None is 50 with 'auto', 'cosine' and 'one_cycle', else 200.
    class_weight : dict, 'balanced', list of dict or None, default=None
        Weights of the classes, which multiply ``sample_weight`` in training and in the validation loss and score.
        Classes that are missing in a dict have weight 1. 'balanced' gives all classes the same total weight in
        training. Multilabel targets take a list with a dict for each label, and a sample's weights are multiplied.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial coefficients, the sample orders, dropout and the validation split. An int makes fits
        repeatable, bit for bit. None takes a new seed from the operating system, not from a global generator.
    warm_start : bool, default=False
        Whether `fit` resumes where the last call ended, with its coefficients, solver state and random generator. The
        means and scales of the columns stay those of the first call. The schedules 'auto', 'cosine' and 'one_cycle'
        restart with each fit; with the others, two fits of 10 epochs equal one of 20.
    tol : float, default=0.0001
        Smallest change of the loss or of the validation score that counts as an improvement. 'lbfgs' stops when no
        entry of the gradient is larger.
    n_iter_no_change : int or inf, default=10
        Patience: number of epochs without an improvement of ``tol`` after which training stops.
    early_stopping : bool, default=False
        Whether to stop when the validation score no longer improves, and to restore the best epoch's coefficients.
    validation_fraction : float, default=0.1
        Fraction of the samples that is held out for early stopping, stratified by class, if `fit` gets no ``X_val``. If
        all weights are whole numbers, a sample of weight k counts as k samples, and a part of them may be held out.
    scoring : str or callable, default='loss'
        Score that early stopping monitors: 'loss' (minus the validation loss), or any scorer of scikit-learn. The
        validation samples may lack a class if the score is defined without it.
    categorical_features : array-like of {bool, int, str} of shape (n_features,) or (n_categorical_features,), \
            'from_dtype' or None, default='from_dtype'
        Columns of X that hold categories: a mask, their indices, or their names in a frame. 'from_dtype' selects the
        columns of a categorical dtype and text columns.
    numeric_encoding : {'auto', 'piecewise'} or None, default='auto'
        'piecewise' clips scaled columns of more than two values smoothly at 3, and adds a feature for each of several
        quantile bins: the fraction of the bin that lies below the value. More samples and fewer columns give more bins.
        'auto' is 'piecewise' for a dense X and a network with a hidden layer, else None, which adds no features.
    standardize : bool, default=True
        Whether to center, scale and clip the columns before training and prediction, in the precision of X. Sparse
        columns that are mostly zeros are not centered.
    device : str or torch.device, default='auto'
        Device of the computation: 'cpu', 'cuda', 'cuda:1', ... 'auto' is the device of a tensor X, and the CPU for
        arrays and frames. The fitted model consists of NumPy arrays and can be used on any machine.
    dtype : {'auto', 'float32', 'float64', 'tf32', 'bfloat16'}, default='auto'
        Precision of training. 'auto' is the precision of X for at most 100 samples and for 'lbfgs', and float32
        otherwise. 'tf32' and 'bfloat16' are float32 with products of rounded factors. On the CPU, 'tf32' is float32.
    verbose : bool or int, default=False
        Whether to print the loss and the validation score of each epoch.
    init : {'he_uniform', 'glorot_uniform', 'scratch'}, default='he_uniform'
        Rule for drawing the coefficients, see `scratchnn.network.init_coeffs`. 'scratch' is the tutorial's.
    hidden_bias : bool, default=True
        Whether hidden layers have intercepts.
    power_t : float, default=0.5
        Exponent of 'invscaling'.
    shuffle : bool, default=True
        Whether to draw a new sample order for each epoch. A minibatch of all samples is not shuffled.
    momentum : float, default=0.9
        Momentum of 'sgd', from 0 to 1.
    nesterovs_momentum : bool, default=True
        Whether 'sgd' uses Nesterov's momentum.
    beta_1 : float, default=0.9
        Decay rate of the running mean of the gradients in 'adam'.
    beta_2 : float, default=0.999
        Decay rate of the running mean of the squared gradients in 'adam'.
    epsilon : float, default=1e-08
        Number that 'adam' adds to the divisor.
    max_fun : int, default=15000
        Maximum number of loss evaluations by 'lbfgs'.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, including those of samples of weight 0. For multilabel targets, the indices of the columns.
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weights of each layer, for the encoded columns, centered and scaled with ``mean_`` and ``scale_``, and for the
        bins. Row i of ``coefs_[0]`` belongs to ``feature_names_encoded_[i]``. It is zero for columns that are constant
        in training, or unused in a sparse X. You may set ``coefs_``, ``intercepts_``, ``mean_`` and ``scale_`` to
        arrays of any float type or to lists: training resumes from these values.
    intercepts_ : list of ndarray of shape (fan_out,)
        Biases of each layer.
    feature_names_encoded_ : ndarray of str
        Names of the network's inputs: "age", "missingindicator_age", "sex_male", "age[20, 28.5]" (a bin). Bins without
        width have no weights and no name: "".
    encoder_ : object or None
        Encoder of categories, dates and missing values. None if the training samples had only numbers.
    bin_edges_ : ndarray of shape (n_columns, n_edges) or None
        Edges of the bins of each encoded column, followed by NaN. None if no column has any.
    mean_ : ndarray of shape (n_columns,) or None
        Means of the encoded columns; 0 for a sparse column that is mostly zeros. None if no column is centered.
    scale_ : ndarray of shape (n_columns,) or None
        Standard deviations of the encoded columns, robust to outliers; for a column of two values, their difference;
        for a sparse column that is mostly zeros, its largest absolute value. None without ``standardize``.
    coef_ : ndarray of shape (1 or n_classes, n_features)
        Coefficients of the features, as in LogisticRegression, if there are no hidden layers, bins or categories. Those
        of missing-value indicators are in ``coefs_[0]`` only.
    intercept_ : ndarray of shape (1 or n_classes,)
        Intercepts that belong to ``coef_``.
    alpha_ : float
        Strength of the penalty in the last call, from ``alpha`` or ``C``.
    loss_ : float
        Loss of the last epoch, with the penalty.
    best_loss_ : float or None
        Smallest loss of an epoch. None with early stopping.
    loss_curve_ : list of float
        Loss of each epoch, with the penalty: a mean over the minibatches, before their updates ('lbfgs': after them).
    training_loss_curve_ : list of float
        Loss of each epoch without the penalty, for comparison with ``validation_loss_curve_``.
    validation_scores_ : list of float or None
        Score of the validation set after each epoch. None without a validation set.
    best_validation_score_ : float or None
        Best of the ``validation_scores_``.
    validation_loss_curve_ : list of float or None
        Loss of the validation set after each epoch, without the penalty and without ``dropout``.
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
    A sample of weight k is equivalent to k equal samples, and one of weight 0 to none: up to rounding with all samples
    in one minibatch (with ``early_stopping``, for whole numbers k), and otherwise in expectation.

    Examples
    --------
    A frame needs no preprocessing: text is encoded, and missing values are filled.

    >>> import pandas as pd
    >>> from scratchnn import ScratchNNClassifier, fused_fits
    >>> X = pd.DataFrame({"age": [22, 38, None, 35, 54, 2] * 20, "sex": ["male", "female", "female"] * 40})
    >>> y = ["died", "lived", "lived"] * 40
    >>> classifier = ScratchNNClassifier((20,), random_state=0).fit(X, y)
    >>> classifier.predict(X[:3])
    array(['died', 'lived', 'lived'], dtype='<U5')

    Inside `fused_fits`, the networks of a search train together:

    >>> from sklearn.model_selection import GridSearchCV
    >>> with fused_fits() as report:
    ...     search = GridSearchCV(classifier, {"alpha": [0.1, 1, 10]}, cv=3).fit(X, y)
    >>> report.n_fits
    9
    """

    _parameter_constraints = parameters.CONSTRAINTS

    def __init__(
        self,
        hidden_layer_sizes: Any = (200,),
        activation: str = "relu",
        *,
        dropout: float = 0.0,
        alpha: float | str = "auto",
        C: float | None = None,
        loss: Any = "log_loss",
        solver: str = "adam",
        learning_rate: str = "auto",
        learning_rate_init: float = 0.005,
        batch_size: int | str = "auto",
        max_iter: int | None = None,
        class_weight: Any = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        tol: float = 1e-4,
        n_iter_no_change: float = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        scoring: Any = "loss",
        categorical_features: Any = "from_dtype",
        numeric_encoding: str | None = "auto",
        standardize: bool = True,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        verbose: bool | int = False,
        init: str = "he_uniform",
        hidden_bias: bool = True,
        power_t: float = 0.5,
        shuffle: bool = True,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        max_fun: int = 15000,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.alpha = alpha
        self.C = C
        self.loss = loss
        self.solver = solver
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.random_state = random_state
        self.warm_start = warm_start
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.scoring = scoring
        self.categorical_features = categorical_features
        self.numeric_encoding = numeric_encoding
        self.standardize = standardize
        self.device = device
        self.dtype = dtype
        self.verbose = verbose
        self.init = init
        self.hidden_bias = hidden_bias
        self.power_t = power_t
        self.shuffle = shuffle
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.max_fun = max_fun

    @classmethod
    def from_recipe(cls, name: str, **changes: Any) -> "ScratchNNClassifier":
        """Return a classifier with a named configuration.

        Parameters
        ----------
        name : {'scratch', 'logistic_regression'}
            'scratch': the method of `scratchnn.network`, with the same losses as `scratchnn.network.train_model` for
            ``random_state=442``. 'logistic_regression': LogisticRegression with the penalty ``C``.
        **changes
            Parameters with other values.

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
            Weight of each sample, not negative: 2 counts as two equal samples, 0 leaves the sample out.
        X_val, y_val : array-like, default=None
            Validation data in the form of X and y, for ``validation_scores_``. With ``early_stopping`` they replace a
            split of the training data.
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
            If training reaches ``max_iter`` before ``tol`` and ``n_iter_no_change`` end it, or 'lbfgs' stops short of
            ``tol``. No warning if a schedule completes, unless ``max_iter`` is below ``n_iter_no_change`` and 50.
        UserWarning
            If Ctrl-C interrupts training. The model so far is kept.
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

    @available_unless(parameters.forbid_partial_fit)
    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> "ScratchNNClassifier":
        """Train for one epoch on the given samples, from where the last call ended.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Training data, as for `fit`. Each call updates the means and scales of ``standardize``, except after a
            `fit`, whose means and scales stay. The first call fixes the categories, missing-value indicators and bins.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or zeros and ones for each of several labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample, not negative.
        classes : array-like of shape (n_classes,), default=None
            All class labels of all calls. The first call needs them, unless `fit` came before.

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
        # scikit-learn reads the signature at each call, ten times per fit in a search.
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
        """Return the logits, from which sigmoid or softmax calculate probabilities.

        Parameters
        ----------
        X : {array-like, frame, sparse matrix} of shape (n_samples, n_features)
            Data.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            For two classes, one value per sample, positive where the second class is more likely.
        """
        with one_thread():
            logits = predict_logits(freeze(self), X, "decision_function")
            return to_library_of(logits[:, 0] if logits.shape[1] == 1 else logits, X)

    def predict(self, X: ArrayLike) -> Array:
        """Return the most likely labels.

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
        """Names of the network's inputs, one for each row of ``coefs_[0]``."""
        return name_encoded_columns(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.array_api_support = HAS_ARRAY_API
        return tags
