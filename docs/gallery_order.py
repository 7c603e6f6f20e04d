"""The order of the sections and of the examples on the page of examples."""

SECTIONS = ["tables", "training", "searches", "practice"]


def sort_sections(folder: str) -> int:
    """Return the sort key of a folder of examples, which is a section of the page."""
    return SECTIONS.index(folder.rsplit("/", 1)[-1])


def quickstart_first(name: str) -> tuple[bool, str]:
    """Return the sort key of an example: the quickstart, then the others by their numbers."""
    return name != "plot_quickstart.py", name
