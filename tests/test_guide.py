"""The code of every page works on a small table, and where a comment shows a result, it is the result."""

import sys
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import sklearn
import torch
from helpers import ROOT, find_code_blocks, make_table, run_block
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import scratchnn
from scratchnn import ScratchNNClassifier, fused_fits

MADE = {"_build", "auto_examples", "changes", "generated"}  # folders with pages that are made from something else
OWN_TESTS = {
    "guide/beyond_one_machine.rst": "distributed",
    "guide/clusters.rst": "fusion/test_guide_code.py and fusion/test_workers.py",
    "guide/larger_than_memory.rst": "test_tables_larger_than_memory.py",
    "guide/onnx.rst": "test_onnx.py",
    "guide/recipes.rst": "test_recipes.py",
    "more/security.rst": "test_files.py",
}
# Pages that train the networks they show, to compare scores, too.
AS_PRINTED = ["api.rst", "get_started.rst", "guide/serving.rst", "guide/validation.rst", "index.rst"]
# What is only compiled.
NOT_RUN = {
    ".cuda()": "needs a GPU",
    'parallel_config("dask")': "starts a cluster, see tests/fusion/test_workers.py",
    "from skorch": "needs skorch",
    "n_jobs=2": "starts processes, see tests/fusion/test_workers.py",
}


def find_pages():
    """Return the names of the pages that have Python blocks."""
    folder = ROOT / "docs"
    pages = {path.relative_to(folder): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.rst"))}
    return [
        str(path)
        for path, text in pages.items()
        if path.parts[0] not in MADE and str(path) not in OWN_TESTS and find_code_blocks(text)
    ]


def make_names():
    """Return what the blocks take for granted."""
    X, y = make_table(120, 4, 2)
    X_train, X_val, y_train, y_val = X[:90], X[90:], y[:90], y[90:]
    model = ScratchNNClassifier((5,), max_iter=3, random_state=0).fit(X, y)
    names = {"X": X, "y": y, "X_train": X_train, "y_train": y_train, "X_val": X_val, "y_val": y_val, "X_test": X_val}
    names |= {"model": model, "pipeline": make_pipeline(StandardScaler(), ScratchNNClassifier((5,), max_iter=3))}
    names |= {"grid": {"scratchnnclassifier__alpha": [0.1, 1.0]}, "C": 1.0, "n_samples": len(X)}
    names["search"] = GridSearchCV(names["pipeline"], names["grid"], cv=3)
    names |= {"weights": np.ones(len(X)), "parts": [(X[:60], y[:60]), (X[60:], y[60:])]}
    modules = {"joblib": joblib, "np": np, "sklearn": sklearn, "torch": torch}
    functions = [GridSearchCV, Pipeline, StandardScaler, fused_fits, make_pipeline]
    names |= modules | {function.__name__: function for function in functions}
    return names | {"ScratchNNClassifier": make_small(ScratchNNClassifier)}


def make_small(cls):
    """Return what makes a small network of few epochs, where a block does not say otherwise."""

    def make(*sizes, **settings):
        small = {"max_iter": 3} if sizes else {"max_iter": 3, "hidden_layer_sizes": (5,)}
        return cls(*sizes, **(small | settings))

    make.from_recipe = cls.from_recipe
    return make


@pytest.mark.parametrize("page", find_pages())
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_code_of_the_page_runs(page, tmp_path, monkeypatch):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for needed in ("sklearn.callback", "tqdm"):
        if needed in text:
            pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    app = SimpleNamespace(post=lambda path: lambda function: function)  # FastAPI returns the function, too
    monkeypatch.setitem(sys.modules, "fastapi", SimpleNamespace(FastAPI=lambda: app))
    if page not in AS_PRINTED:
        monkeypatch.setattr(scratchnn, "ScratchNNClassifier", make_small(ScratchNNClassifier))
    names = make_names()
    with sklearn.config_context(), threadpool_limits(1):  # a block may set something; boosted trees wait for free cores
        for _, code in find_code_blocks(text):
            compile(code, page, "exec")
            if not any(sign in code for sign in NOT_RUN):
                run_block(code, page, names)


@pytest.mark.parametrize("result", ["2", "[1, ...]", "two"])
def test_a_wrong_result_is_found(result):
    with pytest.raises(AssertionError):
        run_block(f"1\n# {result}\n", "page", {})


def test_blocks_are_found_and_run():
    assert len(find_pages()) >= 6
    assert find_code_blocks("A\n\n.. code-block:: python\n    :caption: a.py\n\n    x = 1\n\n    y = 2\n\nB\n") == [
        ("a.py", "x = 1\n\ny = 2\n\n")
    ]
