"""How much memory this process may still take: the least that any of the limits leaves."""

import os
from collections.abc import Iterator

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

GUESS = 2**33  # bytes, where the system does not even tell how much memory the machine has
# Of address space, which is what `ulimit -v` limits: the usual stack, and what the C library sets aside for malloc.
THREAD_BYTES = 2**23 + 2**26


def count_memory(root: str = "/") -> int:
    """Return the bytes that this process may still take, or a guess where the system does not tell.

    ``root`` is the directory in which ``proc`` and ``sys`` lie.
    """
    return max(0, min([_count_machine(root), *_count_resources(root), *_count_cgroups(root)]))


def has_space_for_thread(root: str = "/") -> bool:
    """Return whether another thread leaves most of the address space to the data."""
    return min(_count_resources(root), default=4 * THREAD_BYTES) >= 4 * THREAD_BYTES


def _count_machine(root: str) -> int:
    for line in _read(root, "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[1:] == ["kB"]:
            n_kilobytes = _parse(value.split()[0])
            if n_kilobytes is not None:
                return n_kilobytes * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return GUESS


def _count_resources(root: str) -> Iterator[int]:
    """Yield what the limits of `ulimit` leave of address space and of data."""
    if resource is None:
        return
    for name, column in (("RLIMIT_AS", 0), ("RLIMIT_DATA", 5)):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            sizes = [_parse(size) or 0 for size in _read(root, "proc/self/statm").split()]
            yield limit - (sizes[column] * resource.getpagesize() if len(sizes) > column else 0)


def _count_cgroups(root: str) -> Iterator[int]:
    """Yield what the limits of control groups leave, those of the groups around this process's included."""
    base = "sys/fs/cgroup"
    for directory in _walk(base, _find_cgroup(root, "")):
        for name in ("memory.max", "memory.high"):  # above the second, the system slows down to a standstill
            limit = _parse(_read(root, directory, name))
            if limit is not None:
                yield limit - _count_used(root, directory, "memory.current", "")
    for directory in _walk(f"{base}/memory", _find_cgroup(root, "memory")):
        limit = _parse(_read(root, directory, "memory.limit_in_bytes"))
        if limit is not None:
            yield limit - _count_used(root, directory, "memory.usage_in_bytes", "total_")


def _count_used(root: str, directory: str, name: str, prefix: str) -> int:
    # Files in the page cache are counted as used, but make way: without this, whoever has read a large file would seem
    # to have no memory left.
    stat = dict(line.split()[:2] for line in _read(root, directory, "memory.stat").splitlines() if " " in line)
    cached = sum(_parse(stat.get(f"{prefix}{kind}_file", "")) or 0 for kind in ("active", "inactive"))
    return max(0, (_parse(_read(root, directory, name)) or 0) - cached)


def _find_cgroup(root: str, controller: str) -> str:
    """Return the path of this process's control group: of version 2, or of the controller of version 1."""
    for line in _read(root, "proc/self/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and controller in fields[1].split(","):
            return fields[2]
    return "/"


def _walk(base: str, path: str) -> Iterator[str]:
    """Yield the directories from a control group's up to the base. In a container, only the base may be there."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for n_parts in range(len(parts), -1, -1):
        yield "/".join([base, *parts[:n_parts]])


def _read(root: str, *path: str) -> str:
    """Return a file's text, or none if it cannot be read."""
    try:
        with open(os.path.join(root, *path), "rb", buffering=0) as file:
            return file.read().decode()
    except (OSError, ValueError):
        return ""


def _parse(text: str) -> int | None:
    """Return the number of bytes that a text is. None is for "max", the huge number of version 1, and all else."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if 0 <= number < 2**60 else None
