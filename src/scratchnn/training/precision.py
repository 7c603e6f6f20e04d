"""The precision of float32 products, independent of the settings of the process."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .threads import SharedContext


def use_precision(precision: str, device: torch.device) -> AbstractContextManager[Any, Any]:
    """Return a context in which products are computed in one precision: "float32", "tf32" (CUDA only), or "bfloat16".

    Products of float64 are not affected. PyTorch has one TF32 setting for the whole process. If several threads are
    inside, the last one to enter sets it for all, and the last one to leave restores the setting that the first found.
    """
    wanted = "high" if precision == "tf32" and device.type != "cpu" else "highest"
    is_cast = precision == "bfloat16"
    casting: AbstractContextManager[Any, Any] = nullcontext()  # entering autocast takes microseconds
    if is_cast or torch.is_autocast_enabled(device.type):
        casting = torch.autocast(device.type, torch.bfloat16, enabled=is_cast)
    return casting if _read() == wanted else _change(wanted, casting)


@contextmanager
def _change(wanted: str, casting: AbstractContextManager[Any, Any]) -> Iterator[None]:
    with _kept, casting:
        found = _read()
        torch.set_float32_matmul_precision(wanted)
        try:
            yield
        finally:
            if found is not None:
                torch.set_float32_matmul_precision(found)


@contextmanager
def _keep() -> Iterator[None]:
    """Restore the process's setting at the end."""
    found = _read()
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    backends = [each for each in backends if hasattr(each, "fp32_precision")]  # since PyTorch 2.9
    precisions = [each.fp32_precision for each in backends]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(found or "highest")  # the default, where only those of backends were set
        for backend, precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = precision


_kept = SharedContext(_keep)


def _read() -> str | None:
    """Return PyTorch's setting for the process; None if it differs between backends."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
