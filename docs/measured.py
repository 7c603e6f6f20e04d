"""Figures of the benchmarks: directives for tables, curves and bars, and a role for numbers in a sentence.

``.. measured:: fit Memory`` shows the tables of ``docs/_figures/fit.json`` whose titles begin with "Memory"; without a
title, all of them. With the option ``:curves:``, it draws the columns of seconds and of megabytes against the first
column, and the tables below can be opened. ``.. bars:: speed`` and ``.. bars:: quality`` are for the landing page.
``:measured:`fit; Fit; MLPClassifier / ours``` is the range of a column, such as "2.43 to 4.23".
"""

import csv
import io
import re
from html import escape

from _figures.refresh import HERE, describe_machine, find_range, find_tables, read_groups, read_results
from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogFormatter
from sphinx.util.docutils import SphinxDirective, SphinxRole

UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "MB": 1}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]  # can be told apart on light and on dark


class MeasuredTables(SphinxDirective):
    """The tables of a file of results, each with the machine and the date in its caption."""

    required_arguments, optional_arguments, final_argument_whitespace = 1, 1, True
    option_spec = {"curves": directives.flag}  # noqa: RUF012 (docutils reads it from the class)

    def run(self):
        """Return the tables, and the note of the file if there is one."""
        name, *beginning = self.arguments
        self.env.note_dependency(str(HERE / f"{name}.json"))
        results = read_results(name)
        tables = find_tables(results, *beginning)
        if not tables:
            raise self.error(f"{name}.json has no such table: {beginning}")
        machine = describe_machine(results)
        made = []
        for title, rows in tables.items():
            text = write_table(f"{title}. {machine}", rows)
            if "curves" in self.options:
                made.append(nodes.raw("", draw_curves(title, rows), format="html"))
                text = ".. dropdown:: The figures as a table\n\n" + re.sub("(?m)^(?=.)", "    ", text)
            made += self.parse_text_to_nodes(text)
        return [*made, *self.parse_text_to_nodes(results.get("note", ""))]


def write_table(caption, rows):
    """Return a table as reStructuredText."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([list(rows[0]), *(row.values() for row in rows)])
    lines = [
        f".. csv-table:: {caption}",
        "    :header-rows: 1",
        "    :class: measured",
        "",
        *(f"    {line}" for line in file.getvalue().split("\n")),
    ]
    return "\n".join([*lines, ""])


def read_quantity(text):
    """Return the value and the unit, "s" or "MB", of a figure such as "1,031 ns", or None for anything else."""
    found = re.fullmatch(r"([\d,.]+) (\w+)", text)
    if not found or found[2] not in UNITS:
        return None
    return float(found[1].replace(",", "")) * UNITS[found[2]], "MB" if found[2] == "MB" else "s"


def draw_curves(title, rows):
    """Return an SVG: seconds on the left and megabytes on the right against the first column, all axes logarithmic."""
    axis, *columns = rows[0]
    rows = [row for row in rows if row[axis].replace(",", "").isdigit()]  # others are exponents
    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2), ("s", "MB"), strict=True):
        colours = iter(COLOURS)
        for column in columns:
            points = [(float(row[axis].replace(",", "")), read_quantity(row[column])) for row in rows]
            if all(quantity and quantity[1] == unit for _, quantity in points):
                xs, ys = [x for x, _ in points], [quantity[0] for _, quantity in points]
                axes.loglog(xs, ys, "o-", color=next(colours), markersize=4, label=column)
        axes.set(xlabel=axis, title={"s": "Time", "MB": "Memory"}[unit])
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_formatter(EngFormatter("s") if unit == "s" else "{x:,g} MB")
        axes.yaxis.set_minor_formatter(LogFormatter())  # the default writes formulas, which stay black in the dark
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
        axes.spines[["top", "right"]].set_visible(False)
    file = io.StringIO()
    # Text and axes take the colour of the page's text, so they suit light and dark.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{escape(title)}"', svg, count=1)
    svg = svg.replace("#000000", "currentColor").replace('<text style="', '<text style="fill: currentColor; ')
    return f'<div class="curves">{svg}</div>'


class Bars(SphinxDirective):
    """The bars of the landing page, in the font and the colours of the page."""

    required_arguments = 1

    def run(self):
        """Return the bars."""
        make = {"speed": make_speed_bars, "quality": make_quality_bars}[self.arguments[0]]
        for path in HERE.glob("*.json"):
            self.env.note_dependency(str(path))
        return [nodes.raw("", make(), format="html")]


def make_bar(label, figure, share, is_ours=True):
    """Return a bar of a share of the width, with its label and its figure."""
    return (
        f'<div class="bar{" ours" if is_ours else ""}"><span>{escape(label)}</span><span class="track">'
        f'<span class="value" style="width: {share:.1%}"></span><b>{escape(figure)}</b></span></div>'
    )


def make_group(heading, note, bars):
    """Return bars under a heading."""
    return f'<div class="bars-group"><p><b>{escape(heading)}</b> <small>{escape(note)}</small></p>{"".join(bars)}</div>'


def make_speed_bars():
    """Return how many times as long the peer takes, for fits and searches."""
    groups = read_groups()
    longest = max(float(ratio) for *_, bars in groups for _, ratio in bars)
    return "".join(
        make_group(heading, machine, [make_bar(label, ratio, float(ratio) / longest) for label, ratio in bars])
        for heading, machine, bars in groups
    )


def make_quality_bars():
    """Return the mean log loss of each model, the best first."""
    (rows,) = find_tables(read_results("quality"), "Log loss on tables that played no part").values()
    longest = max(float(row["mean"]) for row in rows)
    rows = sorted(rows, key=lambda row: (row["mean"], row["model"]))
    bars = [
        make_bar(row["model"], row["mean"], float(row["mean"]) / longest, row["model"] == "ScratchNNClassifier")
        for row in rows
    ]
    return make_group("Mean log loss on five tables", "shorter bars are better", bars)


class MeasuredRange(SphinxRole):
    """The range of a column, named by the file, the beginning of the table's title, and the column."""

    def run(self):
        """Return the text."""
        name, title, column = self.text.split("; ")
        self.env.note_dependency(str(HERE / f"{name}.json"))
        return [nodes.Text(find_range(name, title, column))], []


def setup(app):
    """Offer the directives and the role."""
    app.add_directive("measured", MeasuredTables)
    app.add_directive("bars", Bars)
    app.add_role("measured", MeasuredRange())
    return {"parallel_read_safe": True}
