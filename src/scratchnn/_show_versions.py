"""The versions, threads and devices of a machine, for bug reports."""

import importlib.metadata
import platform
import sys

import joblib
import torch
from threadpoolctl import threadpool_info

from ._version import __version__

PACKAGES = ("torch", "scikit-learn", "joblib", "numpy", "scipy", "greenlet", "narwhals")
OPTIONAL = ("pandas", "polars", "pyarrow", "skl2onnx", "onnxruntime", "dask", "ray", "optuna")


def show_versions() -> None:
    """Print the versions of Python and packages, the threads and the devices, for bug reports."""
    n_devices = torch.cuda.device_count()
    sections = {
        "System": {
            "python": sys.version.replace("\n", " "),
            "executable": sys.executable,
            "machine": platform.platform(),
        },
        "Packages": {"scratchnn": __version__}
        | {name: version for name in (*PACKAGES, *OPTIONAL) if (version := _find_version(name))},
        "Threads": {
            "cores that may be used": joblib.cpu_count(),
            "torch": torch.get_num_threads(),
            **{f"{each['user_api']}, {each['prefix']}": each["num_threads"] for each in threadpool_info()},
        },
        "Devices": {"cpu": platform.processor() or platform.machine()}
        | {f"cuda:{number}": torch.cuda.get_device_name(number) for number in range(n_devices)},
    }
    for title, facts in sections.items():
        print(f"\n{title}:")
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:>{width + 2}}: {value}")


def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed" if name in PACKAGES else None
