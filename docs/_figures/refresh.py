"""Bring benchmark results into the documentation.

``python docs/_figures/refresh.py [RESULT.json ...]`` copies each file that a benchmark has written to this folder,
under the name of the benchmark. Then it makes anew what repeats their figures outside the guide: the bars
``docs/_static/speed-light.svg`` and ``speed-dark.svg``, and the table of ``README.md``. The pages of the guide read
this folder when Sphinx builds them (``docs/measured.py``).
"""

import json
import re
import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEER = "MLPClassifier"
GROUPS = [  # file, heading, beginning of the table's title, column
    ("defaults", "One fit, both with all their defaults", "Fit with all defaults", f"{PEER} / ours"),
    ("fit", "One fit of the same network", "Fit", f"{PEER} / ours"),
    ("search", "A search of 100 fits, n_jobs=2", "GridSearchCV / fused", f"{PEER}, n_jobs=2 / fused, n_jobs=2"),
]
COLORS = {  # text, bar, line
    "light": ("#1f2937", "#60a5fa", "#1e3a8a"),
    "dark": ("#e5e7eb", "#2563eb", "#e5e7eb"),
}
WIDTH, TOP, HEADING, ROW = 420, 48, 46, 38  # pixels
NUMBER = 50  # pixels for the number after a bar
BLOCK = re.compile(r"(<!-- made by docs/_figures/refresh.py -->\n).*(<!-- end -->)", re.DOTALL)


def read_results(name):
    """Return a file of results."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def find_tables(results, beginning=""):
    """Return the tables whose titles begin with a text, by title."""
    return {title: rows for title, rows in results["tables"].items() if title.startswith(beginning)}


def find_range(name, beginning, column):
    """Return the smallest and the largest figure of a column, such as '2.43 to 4.23'."""
    (rows,) = find_tables(read_results(name), beginning).values()
    figures = sorted((row[column] for row in rows), key=lambda figure: float(figure.split()[0]))
    return f"{figures[0]} to {figures[-1]}"


def describe_machine(results, packages=("torch", "scikit-learn")):
    """Return where and when the results were measured, as far as it is known."""
    machine = results["machine"]
    parts = [machine[key] for key in ("GPU", "processor") if key in machine]
    parts += [f"{machine['cores']} cores"] if "cores" in machine else []
    parts += [f"{key} {machine[key]}" for key in packages if key in machine]
    return ", ".join([*parts, results["date"][:10]])


def list_lost(old, new):
    """Return the tables and the columns that results have and newer ones lack."""
    lost = []
    for title, rows in old["tables"].items():
        columns = set(rows[0]) - set(new["tables"].get(title, [{}])[0])
        lost += [f"{title}: {', '.join(sorted(columns))}"] if columns else []
    return lost


def copy_results(path):
    """Copy a file of results to this folder, unless it lacks what pages may show."""
    new = json.loads(Path(path).read_text(encoding="utf-8"))
    target = HERE / f"{new['benchmark']}.json"
    lost = list_lost(json.loads(target.read_text(encoding="utf-8")), new) if target.exists() else []
    if lost or "smoke" in new:
        reason = "is of a smoke run" if "smoke" in new else f"lacks {'; '.join(lost)}"
        sys.exit(f"{path} is not copied, as it {reason}")
    target.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")


def read_groups():
    """Return the groups of bars: heading, machine, and each bar's label and how many times as long the peer takes."""
    groups = []
    for name, heading, title, column in GROUPS:
        results = read_results(name)
        (rows,) = find_tables(results, title).values()
        bars = [(describe_workload(row["workload"]), row[column]) for row in rows]
        groups.append((heading, describe_machine(results, packages=()), bars))
    return groups


def describe_workload(workload):
    """Return '1,000 x 20, hidden layers (20,)' of '1,000 x 20, (20,), batch 200, 50 epochs'; '1,000 x 20' stays."""
    shape, has_layers, layers = workload.partition(", (")
    return f"{shape}, hidden layers ({layers.partition(')')[0]})" if has_layers else shape


def draw_bar(label, ratio, y, unit, bar, line):
    """Return a label with its bar below, ``unit`` pixels for a ratio of 1, and a mark at 1: both take the same time."""
    length = float(ratio) * unit
    return (
        f'<text x="0" y="{y + 12}">{escape(label)}</text>'
        f'<rect x="0" y="{y + 17}" width="{length:.0f}" height="13" fill="{bar}"/>'
        f'<line x1="{unit}" x2="{unit}" y1="{y + 15}" y2="{y + 32}" stroke="{line}" stroke-width="2"/>'
        f'<text x="{max(length, unit) + 6:.0f}" y="{y + 28}" font-weight="bold">{escape(ratio)}</text>'
    )


def draw(text, bar, line):
    """Return the bars as an SVG."""
    body, y, groups = [], TOP, read_groups()
    unit = int((WIDTH - NUMBER) / max(float(ratio) for *_, bars in groups for _, ratio in bars))
    for heading, machine, bars in groups:
        body.append(f'<text x="0" y="{y + 18}" font-size="15" font-weight="bold">{escape(heading)}</text>')
        body.append(f'<text x="0" y="{y + 36}">{escape(machine)}</text>')
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
            '<text x="0" y="36">samples x features; longer bars are better for scratchnn</text>',
            *body,
            f'<text x="{unit}" y="{y + 14}" text-anchor="middle">1: equal</text>',
            "</svg>\n",
        ]
    )


def make_quality_table():
    """Return the models, the best first, with their means over all tables, of which the best are bold."""
    (rows,) = find_tables(read_results("quality"), "Log loss on tables that played no part").values()
    columns = {"log loss": "mean", "accuracy": "accuracy", "time of a fit": "fit"}
    best = {"mean": min(row["mean"] for row in rows), "accuracy": max(row["accuracy"] for row in rows)}
    lines = [f"| | {' | '.join(columns)} |", "|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: (row["mean"], row["model"])):
        cells = [f"**{row[key]}**" if row[key] == best.get(key) else row[key] for key in columns.values()]
        lines.append(f"| {row['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def make_files():
    """Return the texts of the files that repeat figures, by path."""
    files = {HERE.parent / "_static" / f"speed-{theme}.svg": draw(*colors) for theme, colors in COLORS.items()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = make_quality_table()
    return files | {ROOT / "README.md": BLOCK.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", readme)}


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        copy_results(argument)
    for path, text in make_files().items():
        path.write_text(text, encoding="utf-8")
