"""The order of the examples on their page."""


def quickstart_first(name: str) -> tuple[bool, str]:
    """Return the sort key of an example: the quickstart, then the others by their numbers."""
    return name != "plot_quickstart.py", name
