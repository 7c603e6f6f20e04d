"""Data, networks, checks and processes that tests of several folders share."""

import ast
import contextlib
import doctest
import functools
import importlib.util
import io
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from scratchnn import ScratchNNClassifier

ROOT = Path(__file__).parents[1]
# The functions of `scratchnn.network`, in the order of the method.
METHOD = [
    "init_coeffs",
    "calc_preds",
    "calc_loss",
    "store_grads",
    "update_coeffs",
    "execute_epoch",
    "train_model",
    "model_accuracy",
]
TARGETS = ["binary", "multiclass", "multilabel"]
# Settings under which a fit trains for max_iter epochs, whatever becomes of its loss.
ALL_EPOCHS = {"tol": 0, "n_iter_no_change": np.inf}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, needs_cuda])]


def load_script(path):
    """Return a script of the repository that belongs to no package, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_code_blocks(text):
    """Return the caption, or None, and the code of each Python block of a page."""
    pattern = r"^( *)\.\. code-block:: python\n((?:\1 +:.*\n)*)\n((?:\1 +.*\n|\n)+)"
    return [
        (options.partition(":caption: ")[2].strip() or None, textwrap.dedent(code))
        for _, options, code in re.findall(pattern, text + "\n", re.MULTILINE)
    ]


def run_block(code, page, names):
    """Run a block, and compare the comments below a statement with its value, or with what it prints."""
    for statement in ast.parse(code).body:
        below = "\n".join(code.split("\n")[statement.end_lineno :]) + "\n"
        expected = re.match(r"(?:#.*\n)+", below) if isinstance(statement, ast.Expr) else None
        if expected is None:
            exec(compile(ast.Module([statement], []), page, "exec"), names)
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            value = eval(compile(ast.Expression(statement.value), page, "eval"), names)
        got = printed.getvalue() if value is None else repr(value)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        wanted = re.sub("(?m)^# ?", "", expected[0])
        assert doctest.OutputChecker().check_output(wanted, got.rstrip() + "\n", flags), (wanted, got)


def spoil(runs):
    """Leave runs as if their training had failed in the middle."""
    for run in runs:
        run.buffer.flat.zero_()
        run.generator.manual_seed(1)
        run.history.losses.append(0.0)


def make_table(n_rows, n_features, n_informative=1):
    """Return normal columns, and whether the first of them add up to more than zero."""
    X = np.random.default_rng(0).normal(size=(n_rows, n_features))
    return X, (X[:, :n_informative].sum(1) > 0).astype(int)


def make_read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def make_network(**params):
    """Return a small network of three epochs, always the same, where the parameters do not say otherwise."""
    return ScratchNNClassifier(**({"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0} | params))


def get_coeffs(classifier):
    return [*classifier.coefs_, *classifier.intercepts_]


def assert_same_fit(first, second, rtol=0.0, atol=0.0):
    """Check that two classifiers have the same coefficients, to the bit unless a tolerance is given."""
    for left, right in zip(get_coeffs(first), get_coeffs(second), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)


def call_in_thread(call, seconds=60):
    """Return what a call returns in a new thread, which must end within the time."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0]


def within(seconds):
    """Fail a test that takes longer, instead of waiting forever."""

    def decorate(test):
        @functools.wraps(test)
        def run(*args, **kwargs):
            outcomes = []

            def work():
                try:
                    outcomes.append((test(*args, **kwargs), None))
                except BaseException as error:
                    outcomes.append((None, error))

            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            thread.join(seconds)
            assert outcomes, f"still not done after {seconds} s"
            result, error = outcomes[0]
            if error is not None:
                raise error
            return result

        return run

    return decorate


def run_python(code, cwd=None, seconds=300):
    """Run code in a new process, which must succeed within the time, and return what it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        start_new_session=True,  # so that the processes that it starts can be ended with it
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        pytest.fail(f"the process still has not ended after {seconds} s")
    assert process.returncode == 0, errors
    return output
