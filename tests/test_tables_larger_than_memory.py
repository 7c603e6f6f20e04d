"""The examples of docs/guide/larger_than_memory.rst that read tables larger than memory: they run, and learn."""

import dask.array
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, find_code_blocks
from sklearn.datasets import load_breast_cancer

PAGE = ROOT / "docs" / "guide" / "larger_than_memory.rst"
SOURCES = ["mmap_mode", "pyarrow.dataset", "dask.compute", "dask.dataframe", "Incremental"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the same table in all forms that the examples read. The parts have classes in equal shares."""
    folder = tmp_path_factory.mktemp("tables")
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", y)
    frame = pd.DataFrame(X, columns=[f"column_{number}" for number in range(X.shape[1])]).assign(label=y)
    frame.to_parquet(folder / "rows.parquet")
    for name, values in (("X_stack", X), ("y_stack", y)):
        blocks = dask.array.from_array(values, chunks=(200, *values.shape[1:]))
        dask.array.to_npy_stack(str(folder / name), blocks)
    return folder, X, y


@pytest.mark.parametrize("source", SOURCES)
def test_example_learns_from_a_table_in_parts(source, folder, monkeypatch):
    if source == "Incremental":
        pytest.importorskip("dask_ml")
    section = PAGE.read_text(encoding="utf-8")
    (example,) = (code for _, code in find_code_blocks(section) if source in code)
    path, X, y = folder
    monkeypatch.chdir(path)
    namespace = {}
    exec(compile(example, PAGE.name, "exec"), namespace)
    model = namespace["model"]
    table = pd.DataFrame(X, columns=model.feature_names_in_) if hasattr(model, "feature_names_in_") else X
    assert model.score(table, y) > 0.95
    assert model.t_ in (3 * len(y), 50 * len(y))
