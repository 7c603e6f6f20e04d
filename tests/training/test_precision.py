"""Products are as exact as training asks for, and the process's setting is left as it was found."""

import threading

import pytest
import torch

from scratchnn.training.precision import use_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def set_all():
    torch.backends.fp32_precision = "tf32"


def set_one():
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


SETTINGS = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "tf32 everywhere": set_all,
    "bf16 on one backend": set_one,
}


def read():
    """Return what the process is set to, in all of PyTorch's ways to say so."""
    try:
        name = torch.get_float32_matmul_precision()
    except RuntimeError:
        name = "mixed"
    backends = torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    return name, *(backend.fp32_precision for backend in backends)


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def found(request):
    before = [torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision]
    request.param()
    yield read()
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before
    torch.backends.mkldnn.matmul.fp32_precision = before[1]


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("float32", CPU, "highest"),
        ("float32", CUDA, "highest"),
        ("tf32", CPU, "highest"),
        ("tf32", CUDA, "high"),
        ("bfloat16", CPU, "highest"),
    ],
)
def test_setting_is_that_of_the_precision_and_restored(precision, device, expected, found):
    with use_precision(precision, device):
        assert torch.get_float32_matmul_precision() == expected
        with use_precision("float32", device):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == expected
    assert read() == found
    with pytest.raises(ZeroDivisionError), use_precision(precision, device):
        1 / 0  # noqa: B018
    assert read() == found


def test_the_last_thread_to_leave_restores(found):
    inside, left = threading.Event(), threading.Event()

    def stay():
        with use_precision("float32", CPU):
            inside.set()
            assert left.wait(60)

    with use_precision("tf32", CUDA):
        thread = threading.Thread(target=stay)
        thread.start()
        assert inside.wait(60)
    left.set()
    thread.join(60)
    assert read() == found


@pytest.mark.parametrize("ambient", [True, False])
def test_only_bfloat16_rounds_products_on_the_cpu(ambient):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 64, 64, generator=generator)
    for precision, dtype in [("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)]:
        with torch.autocast("cpu", enabled=ambient), use_precision(precision, CPU):
            assert (left @ right).dtype == dtype
