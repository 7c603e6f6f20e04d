"""Figures of the benchmarks: a directive for tables, and a role for numbers in a sentence.

``.. measured:: fit Memory`` shows the tables of ``docs/_figures/fit.json`` whose titles begin with "Memory"; without a
title, all of them. ``:measured:`fit; Fit; MLPClassifier / ours``` is the range of a column, such as "2.43 to 4.23".
"""

import csv
import io

from _figures.refresh import HERE, describe_machine, find_range, find_tables, read_results
from docutils import nodes
from sphinx.util.docutils import SphinxDirective, SphinxRole


class MeasuredTables(SphinxDirective):
    """The tables of a file of results, each with the machine and the date in its caption."""

    required_arguments, optional_arguments, final_argument_whitespace = 1, 1, True

    def run(self):
        """Return the tables, and the note of the file if there is one."""
        name, *beginning = self.arguments
        self.env.note_dependency(str(HERE / f"{name}.json"))
        results = read_results(name)
        tables = find_tables(results, *beginning)
        if not tables:
            raise self.error(f"{name}.json has no such table: {beginning}")
        machine = describe_machine(results)
        texts = [write_table(f"{title}. {machine}", rows) for title, rows in tables.items()]
        return self.parse_text_to_nodes("\n".join([*texts, results.get("note", "")]))


def write_table(caption, rows):
    """Return a table as reStructuredText."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([list(rows[0]), *(row.values() for row in rows)])
    lines = [
        f".. csv-table:: {caption}",
        "    :header-rows: 1",
        "",
        *(f"    {line}" for line in file.getvalue().split("\n")),
    ]
    return "\n".join([*lines, ""])


class MeasuredRange(SphinxRole):
    """The range of a column, named by the file, the beginning of the table's title, and the column."""

    def run(self):
        """Return the text."""
        name, title, column = self.text.split("; ")
        self.env.note_dependency(str(HERE / f"{name}.json"))
        return [nodes.Text(find_range(name, title, column))], []


def setup(app):
    """Offer the directive and the role."""
    app.add_directive("measured", MeasuredTables)
    app.add_role("measured", MeasuredRange())
    return {"parallel_read_safe": True}
