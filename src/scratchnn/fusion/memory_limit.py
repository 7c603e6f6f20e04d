"""The memory that this process may still allocate: the minimum over all limits."""

import os
from collections.abc import Iterator

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

UNKNOWN = 2**33  # bytes, if the system gives no limit


def count_free_memory(root: str = "/") -> int:
    """Return the bytes that this process may still allocate. ``root`` is the directory of ``proc`` and ``sys``."""
    counts = [*_count_available(root), *_count_resources(root), *_count_cgroups(root)]
    return max(0, min(counts, default=UNKNOWN))


def _count_available(root: str) -> Iterator[int]:
    for line in _read(root, "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:") and line.endswith("kB"):
            yield int(line.split()[1]) * 1024


def _count_resources(root: str) -> Iterator[int]:
    """Yield the bytes that RLIMIT_AS and RLIMIT_DATA leave."""
    if resource is None:
        return
    for name, column in (("RLIMIT_AS", 0), ("RLIMIT_DATA", 5)):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            pages = _read(root, "proc/self/statm").split()
            yield limit - (int(pages[column]) * resource.getpagesize() if pages else 0)


def _count_cgroups(root: str) -> Iterator[int]:
    """Yield the bytes that the limits of this process's control group and of its parents leave (version 2)."""
    path = next((line[3:] for line in _read(root, "proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    names = [name for name in path.split("/") if name not in ("", "..")]
    for n_names in range(len(names) + 1):
        folder = "/".join(["sys/fs/cgroup", *names[:n_names]])
        for name in ("memory.max", "memory.high"):  # above the second, the system slows the process down
            limit = _read(root, folder, name).strip()
            if limit.isdecimal():
                yield int(limit) - _count_used(root, folder)


def _count_used(root: str, folder: str) -> int:
    """Return the bytes that a control group uses, without the page cache, which the system frees when asked."""
    stat = dict(line.split() for line in _read(root, folder, "memory.stat").splitlines())
    cached = int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
    return max(0, int(_read(root, folder, "memory.current") or 0) - cached)


def _read(root: str, *path: str) -> str:
    """Return a file's text, or an empty one if it cannot be read."""
    try:
        with open(os.path.join(root, *path), "rb", buffering=0) as file:
            return file.read().decode()
    except OSError:
        return ""
