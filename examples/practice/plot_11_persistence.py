"""
Saving and loading models
=========================

A fitted model consists of NumPy arrays. This example saves one with joblib,
loads it, continues its training, converts it to ONNX, and compares the sizes
of the files.
"""

import tempfile
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from scratchnn import ScratchNNClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, random_state=0, stratify=y
)

# %%
# Saving and loading
# ------------------
# A pipeline is saved as a whole. Load only files that you trust:
# ``joblib.load`` can run any code that a file contains.


def save_and_load(model):
    """Save and load a model. Return the loaded model and the file's size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.joblib"
        joblib.dump(model, path)
        return joblib.load(path), path.stat().st_size


network = ScratchNNClassifier((50,), random_state=0)
pipeline = make_pipeline(MinMaxScaler(), network).fit(X_train, y_train)
loaded, size = save_and_load(pipeline)
np.testing.assert_array_equal(
    loaded.predict_proba(X_test), pipeline.predict_proba(X_test)
)
print(f"the same predictions from a file of {size:,} bytes")

# %%
# Training that continues after loading
# -------------------------------------
# With ``warm_start``, the file also contains the state of the solver. With a
# constant learning rate, ten epochs before saving and ten epochs after loading
# equal twenty epochs, bit for bit.

settings = {"hidden_layer_sizes": (50,), "learning_rate": "constant"}
settings |= {"tol": 0, "n_iter_no_change": np.inf, "random_state": 0}
twenty = ScratchNNClassifier(max_iter=20, **settings).fit(X_train, y_train)
ten = ScratchNNClassifier(max_iter=10, warm_start=True, **settings)
resumed, _ = save_and_load(ten.fit(X_train, y_train))
resumed.fit(X_train, y_train)
for one, other in zip(twenty.coefs_, resumed.coefs_, strict=True):
    np.testing.assert_array_equal(one, other)

# %%
# A file for programs without Python
# ----------------------------------
# After ``import scratchnn.onnx``, skl2onnx can convert the pipeline.
# onnxruntime runs the ONNX model in many languages. Both packages are
# optional.

try:
    import onnxruntime
    import skl2onnx

    import scratchnn.onnx  # noqa: F401
except ImportError:
    print("no ONNX: pip install skl2onnx onnxruntime")
else:
    inputs = X_test.astype(np.float32)
    converted = skl2onnx.to_onnx(
        pipeline, inputs[:1], options={"zipmap": False}
    )
    session = onnxruntime.InferenceSession(converted.SerializeToString())
    _, probabilities = session.run(None, {"X": inputs})
    np.testing.assert_allclose(
        probabilities, pipeline.predict_proba(inputs), atol=1e-5
    )
    print("ONNX: the same probabilities within 1e-5")

# %%
# The sizes of files
# ------------------
# After ``fit``, a file needs 4 bytes for each parameter, in float32. After
# ``partial_fit``, it also contains the state of Adam, two more values for each
# parameter, so that training can continue. MLPClassifier keeps this state
# after ``fit`` as well, and stores all values in float64 for a float64 table.

X_few, y_few = X[:300], y[:300]  # more samples make no larger files
widths = [10, 30, 100, 300, 1000]
sizes = {"MLPClassifier": [], "after partial_fit": [], "after fit": []}
n_parameters = []
classes = np.arange(10)
for width in widths:
    small = {"hidden_layer_sizes": (width,), "random_state": 0}
    network = ScratchNNClassifier(**small, max_iter=10, numeric_encoding=None)
    fitted = {
        "MLPClassifier": MLPClassifier(**small).partial_fit(
            X_few, y_few, classes=classes
        ),
        "after fit": clone(network).fit(X_few, y_few),
        "after partial_fit": network.partial_fit(
            X_few, y_few, classes=classes
        ),
    }
    for name, model in fitted.items():
        sizes[name].append(save_and_load(model)[1])
    n_parameters.append((64 + 1) * width + (width + 1) * 10)

figure, axes = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
colours = ["#D55E00", "#009E73", "#0072B2"]
for colour, (name, values) in zip(colours, sizes.items(), strict=True):
    axes.loglog(n_parameters, values, "o-", color=colour, label=name)
axes.set(xlabel="parameters", ylabel="bytes of the file")
axes.legend(frameon=False)
bytes_each = sizes["after fit"][-1] / n_parameters[-1]
print(f"after fit: {bytes_each:.1f} bytes for each parameter")
plt.show()
