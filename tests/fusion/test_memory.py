"""How much memory a process may still take."""

import sys

import numpy as np
import pytest
import torch
from fusion_helpers import allocate_too_much
from helpers import run_python

from scratchnn.fusion import memory
from scratchnn.training import is_out_of_memory


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


MACHINE = {"proc/meminfo": "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n"}
V1 = "sys/fs/cgroup/memory"


CGROUPS = {
    "nothing but the machine": ({}, 1024 * 1024),
    "version 2": ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "5000\n"}, 5000),
    "version 2, less what is used": (
        {
            "proc/self/cgroup": "0::/a",
            "sys/fs/cgroup/a/memory.max": "5000\n",
            "sys/fs/cgroup/a/memory.current": "3000\n",
            "sys/fs/cgroup/a/memory.stat": "anon 7\nactive_file 600\ninactive_file 400\nodd\n",
        },
        3000,
    ),
    "version 2, the group around": (
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/memory.max": "4000\n",
            "sys/fs/cgroup/a/memory.current": "1000\n",
        },
        3000,
    ),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "777"}, 777),
    "version 2, a path from outside": ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "777"}, 777),
    "version 2, the limit that slows down": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "900", "sys/fs/cgroup/memory.high": "800"},
        800,
    ),
    "version 2, all used": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "900", "sys/fs/cgroup/memory.current": "901"},
        0,
    ),
    "no limit": ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "max\n"}, 1024 * 1024),
    "malformed": (
        {
            "proc/self/cgroup": "what\n0:\n",
            "sys/fs/cgroup/memory.max": "12 MB",
            "sys/fs/cgroup/memory.high": "-5",
            f"{V1}/memory.limit_in_bytes": "\x00",
        },
        1024 * 1024,
    ),
    "no file that names the group": ({"sys/fs/cgroup/memory.max": "4321"}, 4321),
    "version 1": ({"proc/self/cgroup": "5:cpu,memory:/a", f"{V1}/a/memory.limit_in_bytes": "6000"}, 6000),
    "version 1, less what is used": (
        {
            "proc/self/cgroup": "0::/a\n5:memory:/a:b",
            f"{V1}/a:b/memory.limit_in_bytes": "6000",
            f"{V1}/a:b/memory.usage_in_bytes": "5000",
            f"{V1}/a:b/memory.stat": "active_file 1\ntotal_active_file 1500\ntotal_inactive_file 500\n",
        },
        3000,
    ),
    "version 1, the group around": (
        {
            "proc/self/cgroup": "5:memory:/a/b",
            f"{V1}/a/b/memory.limit_in_bytes": "9223372036854771712",
            f"{V1}/memory.limit_in_bytes": "2000",
        },
        2000,
    ),
    "version 1, no limit": (
        {"proc/self/cgroup": "5:memory:/", f"{V1}/memory.limit_in_bytes": "9223372036854771712"},
        1024 * 1024,
    ),
    "version 1 in a container": (
        {"proc/self/cgroup": "5:memory:/docker/1234", f"{V1}/memory.limit_in_bytes": "3000"},
        3000,
    ),
    "both versions": (
        {
            "proc/self/cgroup": "5:memory:/a\n0::/b",
            f"{V1}/a/memory.limit_in_bytes": "3000",
            "sys/fs/cgroup/b/memory.max": "2000",
        },
        2000,
    ),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_the_least_that_any_control_group_leaves_counts(case, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    files, expected = CGROUPS[case]
    write(tmp_path, MACHINE | files)
    assert memory.count_memory(str(tmp_path)) == expected


def test_files_that_cannot_be_read_are_no_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    write(tmp_path, MACHINE | {"sys/fs/cgroup/memory.max/a_directory": "", "sys/fs/cgroup/memory.high": "5"})
    (tmp_path / "sys/fs/cgroup/memory.high").write_bytes(b"\xff\xfe")
    assert memory.count_memory(str(tmp_path)) == 1024 * 1024


@pytest.mark.parametrize("meminfo", [None, "MemAvailable: much\n", "MemAvailable:\n", "MemAvailable: x kB\n"])
def test_systems_that_tell_little_get_a_guess(meminfo, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    if meminfo is not None:
        write(tmp_path, {"proc/meminfo": meminfo})
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(memory.os, "sysconf", pages.__getitem__, raising=False)
    assert memory.count_memory(str(tmp_path)) == 4096 * 1000
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.count_memory(str(tmp_path)) == memory.GUESS


def set_limits(monkeypatch, **limits):
    resource = pytest.importorskip("resource")
    infinity = resource.RLIM_INFINITY
    known = {getattr(resource, name): limit for name, limit in limits.items()}
    monkeypatch.setattr(resource, "getrlimit", lambda name: (known.get(name, infinity), infinity))
    return resource.getpagesize()


@pytest.mark.parametrize(("name", "n_pages"), [("RLIMIT_AS", 100), ("RLIMIT_DATA", 20)])
def test_limits_of_the_process_count_less_what_it_has(name, n_pages, tmp_path, monkeypatch):
    size = set_limits(monkeypatch, **{name: 900_000})
    write(tmp_path, MACHINE | {"proc/self/statm": "100 50 30 5 0 20 0\n"})
    assert memory.count_memory(str(tmp_path)) == 900_000 - n_pages * size
    (tmp_path / "proc/self/statm").write_text("100")
    assert memory.count_memory(str(tmp_path)) in (900_000 - 100 * size, 900_000)
    (tmp_path / "proc/self/statm").unlink()
    assert memory.count_memory(str(tmp_path)) == 900_000


def test_a_thread_must_leave_most_of_the_address_space(tmp_path, monkeypatch):
    assert memory.has_space_for_thread(str(tmp_path))
    set_limits(monkeypatch, RLIMIT_AS=4 * memory.THREAD_BYTES)
    assert memory.has_space_for_thread(str(tmp_path))
    set_limits(monkeypatch, RLIMIT_AS=4 * memory.THREAD_BYTES - 1)
    assert not memory.has_space_for_thread(str(tmp_path))


def test_errors_that_say_that_memory_ran_out_are_known():
    with pytest.raises(RuntimeError) as error:
        allocate_too_much()
    with pytest.raises(MemoryError) as numpy_error:
        np.empty(2**60, np.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(numpy_error.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


UNDER_A_LIMIT = """
import resource, warnings
import numpy as np, torch
from sklearn.ensemble import BaggingClassifier
from scratchnn import ScratchNNClassifier, fused_fits

warnings.simplefilter("ignore")
torch.set_num_threads(1)
X = np.random.default_rng(0).normal(size=(2000, 500))
y = (X[:, 0] > 0).astype(int)
network = ScratchNNClassifier((2,), max_iter=1, random_state=0)
bagging = BaggingClassifier(network, n_estimators=12, random_state=0)
network.fit(X[:50], y[:50])
for megabytes in [60, 400]:  # the samples of all 12 networks, in both precisions, are 140; each thread takes 72
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, resource.RLIM_INFINITY))
    plain = bagging.fit(X, y).predict_proba(X[:200])
    with fused_fits() as report:
        fused = bagging.fit(X, y).predict_proba(X[:200])
    print(np.abs(fused - plain).max() < 1e-6, report.n_fits)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
def test_bagging_under_a_limit_of_memory_gives_what_it_gives_in_sequence():
    assert run_python(UNDER_A_LIMIT).split() == ["True", "12"] * 2
