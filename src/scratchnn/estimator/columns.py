"""The description of the columns that a fit needs. Fits on equal tables, as in a search, share one description."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..checkpoints import describe_table
from ..tables.arrays import Array, is_mapped_file
from ..tables.categories import CodedRows
from ..tables.statistics import (
    ColumnStatistics,
    Moments,
    find_bin_edges,
    find_moments,
    find_read_columns,
    find_statistics,
)
from ..tables.summary import SampleCounts, get_exchange
from ..tables.table import Table
from . import parameters, warm_start
from .call import Call
from .penalty import calc_penalty, suits_penalty_rule
from .warm_start import InitialState, WarmStartState

MAX_DESCRIPTIONS = 32  # kept: a search has as many tables as folds


@dataclass(frozen=True)
class Description:
    """How the network reads the columns, the strength of alpha="auto", and what replaces missing numbers."""

    statistics: ColumnStatistics
    penalty: float  # for a batch of all samples; 0 if alpha is a number
    fill: list[Array | float] | None  # None: the mean. A list, as an array would have to be of X's library
    keeps_scales: bool  # of an earlier call


_descriptions: dict[Any, Description] = {}  # by what they follow from, the last one used at the end


def describe_columns(
    call: Call, table: Table, counts: SampleCounts, state: WarmStartState, start: InitialState
) -> tuple[ColumnStatistics, float]:
    """Return how the network reads the columns, and the strength of alpha="auto" per sample of a minibatch, or 0."""
    estimator = call.estimator
    if call.incremental and not call.resume:
        parameters.warn_of_few_samples(estimator, counts)
    has_new_bins = not call.resume and parameters.has_bins(estimator, table)
    rule = "number" if parameters.resolve_alpha(estimator) != "auto" else "length"
    if rule == "length" and not call.incremental and suits_penalty_rule(estimator):
        rule = "evidence"

    def describe() -> Description:
        return _describe(call, table, counts, state, start, has_new_bins, rule)

    # The digest of a table in memory costs little, compared with its description. Processes describe a table together.
    is_costly = has_new_bins or rule == "evidence"
    is_in_memory = isinstance(table.X, np.ndarray | CodedRows) and not is_mapped_file(table.X)
    if call.resume or call.incremental or not is_costly or not is_in_memory or get_exchange() is not None:
        found = describe()
    else:
        indicators = None if estimator.encoder_ is None else estimator.encoder_.indicators.tobytes()
        data = describe_table(table, call.labels).values()
        key = (has_new_bins, rule, estimator.standardize, call.leaves_out_columns, indicators, *data)
        found = copy.deepcopy(_recall(key, describe))  # users may write to ``mean_``
    if not found.keeps_scales:
        estimator._fill = found.fill
    n_seen = counts.n_samples + (state.history.n_samples_seen if call.incremental else 0)
    return found.statistics, parameters.calc_alpha_per_row(found.penalty, n_seen, counts.weight_mean)


def _recall(key: tuple[Any, ...], describe: Callable[[], Description]) -> Description:
    """Return the description that is kept under ``key``; if there is none, make and keep it."""
    found = _descriptions.pop(key, None) or describe()
    _descriptions[key] = found
    for oldest in list(_descriptions)[:-MAX_DESCRIPTIONS]:
        _descriptions.pop(oldest, None)
    return found


def _describe(
    call: Call,
    table: Table,
    counts: SampleCounts,
    state: WarmStartState,
    start: InitialState,
    has_new_bins: bool,
    rule: str,
) -> Description:
    estimator = call.estimator
    moments, keeps_scales = _find_moments(call, table, state, start)
    statistics = ColumnStatistics(None, None)
    if estimator.standardize:
        statistics = find_statistics(moments, table.X.shape[1], start.scales if keeps_scales else None)
    is_in_mean = statistics.mean is not None and moments.is_centered.all()
    fill = None if is_in_mean else [moments.mean]
    edges = start.edges
    if has_new_bins:
        indicators = None if estimator.encoder_ is None else estimator.encoder_.indicators
        n_samples = max(counts.n_samples, counts.weight)  # a sample of weight k counts as k; weights may sum up to 1
        edges = find_bin_edges(table, moments, n_samples, indicators)
    statistics = replace(statistics, edges=edges)
    if call.leaves_out_columns:
        statistics = find_read_columns(statistics, moments, table, start.find_trained_columns(state))
    penalty = 0.0 if rule == "number" else moments.calc_row_length(statistics.scale)
    if rule == "evidence":
        penalty = calc_penalty(table, call.labels, statistics, penalty)
    return Description(statistics, penalty, fill, keeps_scales)


def _find_moments(call: Call, table: Table, state: WarmStartState, start: InitialState) -> tuple[Moments, bool]:
    """Return the moments of the columns, and whether earlier scales are kept.

    `fit` keeps the scales of an earlier call. `partial_fit` keeps the scales of a `fit`, which saw all the data, and
    scales that the user has set. Otherwise it adds the samples to the moments of all calls, in ``state``, in place.
    """
    moments = state.moments
    keeps_scales = call.resume and (not call.incremental or moments is None or not _are_scales_of(call, moments, start))
    if keeps_scales or moments is None:
        moments = Moments()
    if len(table):
        moments = find_moments(table, moments)
    if call.incremental and not keeps_scales:
        state.moments = moments
    return moments, keeps_scales


def _are_scales_of(call: Call, moments: Moments, start: InitialState) -> bool:
    """Return whether ``mean_`` and ``scale_`` follow from the moments, so that the user has not set others."""
    if not call.estimator.standardize or moments.n_samples == 0:
        return True
    mean, scale = start.scales
    return warm_start.are_equal(mean, moments.calc_mean()) and warm_start.are_equal(scale, moments.calc_scale())
