"""Two files of benchmark results, side by side.

``python tests/benchmarks/compare.py OLD.json NEW.json`` prints each figure of both and how many times as large the
second is. Compare ratios between machines, and times only on one machine.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from common import print_table


def read_number(cell: str) -> float | None:
    """Return the number that a cell begins with, such as that of '29 ms', or None."""
    found = re.match(r"-?[\d,]*\.?\d+", cell)
    return float(found.group().replace(",", "")) if found else None


def compare_tables(old: list[dict[str, str]], new: list[dict[str, str]]) -> list[list[str]]:
    """Return a row for each figure that both tables have, by the first column and the header."""
    old_rows = {next(iter(row.values())): row for row in old}
    compared = []
    for row in new:
        label, *names = row
        before = old_rows.get(row[label], {})
        for name in names:
            first, second = read_number(before.get(name, "")), read_number(row[name])
            if first and second is not None:
                compared.append([row[label], name, before[name], row[name], f"{second / first:.2f}"])
    return compared


def main(old_path: str, new_path: str) -> None:
    """Print all figures of both files."""
    old, new = (json.loads(Path(path).read_text()) for path in (old_path, new_path))
    differences: dict[str, Any] = {
        name: (old["machine"].get(name), value)
        for name, value in new["machine"].items()
        if old["machine"].get(name) != value
    }
    print(f"{old['date']} and {new['date']}; differences: {differences or 'none'}")
    for title, rows in new["tables"].items():
        if compared := compare_tables(old["tables"].get(title, []), rows):
            print_table(title, ["what", "figure", "old", "new", "new / old"], compared)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
