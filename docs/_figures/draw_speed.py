"""Draw the bars of the landing page and the README from benchmark results.

``python docs/_figures/draw_speed.py`` reads ``fit.json`` and ``search.json`` beside this file, in the form in which
``tests/benchmarks/fit.py`` and ``search.py`` write them, and writes ``docs/_static/speed-light.svg`` and
``speed-dark.svg``.
"""

import json
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
PEER = "MLPClassifier"
TABLES = [  # file, heading, beginning of the table's title, column
    ("fit", "One fit", "fit", f"{PEER} / ours"),
    ("search", "A search of 100 fits, n_jobs=2", "GridSearchCV / fused", f"{PEER}, n_jobs=2 / fused, n_jobs=2"),
]
COLOURS = {  # text, bar, line
    "light": ("#1f2937", "#60a5fa", "#1e3a8a"),
    "dark": ("#e5e7eb", "#2563eb", "#e5e7eb"),
}
WIDTH, TOP, HEADING, ROW = 420, 48, 28, 38  # pixels
NUMBER = 50  # pixels for the number after a bar


def read_groups():
    """Return the headings of the groups, and their bars: a label and how many times as long the peer takes."""
    groups = []
    for name, heading, title, column in TABLES:
        tables = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["tables"]
        rows = next(rows for key, rows in tables.items() if key.startswith(title))
        groups.append((heading, [(describe(row["workload"]), row[column]) for row in rows]))
    return groups


def describe(workload):
    """Return '1,000 x 20, hidden layers (20,)' of '1,000 x 20, (20,), batch 200, 50 epochs'."""
    shape, layers = workload[: workload.index(")") + 1].split(", (")
    return f"{shape}, hidden layers ({layers}"


def draw_bar(label, ratio, y, unit, bar, line):
    """Return a label with its bar below, ``unit`` pixels for a ratio of 1, and a mark at 1: both take the same time."""
    length = float(ratio) * unit
    return (
        f'<text x="0" y="{y + 12}">{escape(label)}</text>'
        f'<rect x="0" y="{y + 17}" width="{length:.0f}" height="13" fill="{bar}"/>'
        f'<line x1="{unit}" x2="{unit}" y1="{y + 15}" y2="{y + 32}" stroke="{line}" stroke-width="2"/>'
        f'<text x="{length + 6:.0f}" y="{y + 28}" font-weight="bold">{escape(ratio)}</text>'
    )


def draw(groups, text, bar, line):
    """Return the bars as an SVG."""
    body, y = [], TOP
    unit = int((WIDTH - NUMBER) / max(float(ratio) for _, bars in groups for _, ratio in bars))
    for heading, bars in groups:
        body.append(f'<text x="0" y="{y + 18}" font-size="15" font-weight="bold">{escape(heading)}</text>')
        y += HEADING
        for label, ratio in bars:
            body.append(draw_bar(label, ratio, y, unit, bar, line))
            y += ROW
    title = f"Time of {PEER} divided by that of scratchnn"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 22}" width="{WIDTH}" height="{y + 22}"'
            f' role="img" aria-label="{title}" font-family="sans-serif" font-size="14" fill="{text}">',
            f'<text x="0" y="16" font-size="16" font-weight="bold">{title}</text>',
            '<text x="0" y="36">rows x columns; longer bars are better for scratchnn</text>',
            *body,
            f'<text x="{unit}" y="{y + 14}" text-anchor="middle">1: equal</text>',
            "</svg>\n",
        ]
    )


def main():
    """Write the figure for both themes."""
    groups = read_groups()
    for theme, colours in COLOURS.items():
        path = HERE.parent / "_static" / f"speed-{theme}.svg"
        path.write_text(draw(groups, *colours), encoding="utf-8")


if __name__ == "__main__":
    main()
