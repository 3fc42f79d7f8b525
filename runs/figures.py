"""The figures of runs: kept in ``results.csv``, laid out as a table and as bars."""

import csv
import statistics
from pathlib import Path
from typing import Any

from terminal.errors import UserError

K = 20  # of Recall@K and MRR@K, as in all published tables
COLUMNS = {
    "row": str,
    "seed": int,
    "n_epochs": int,
    "files": str,
    "recall": float,
    "mrr": float,
    "seconds": float,
    "ties": str,  # what Recall and MRR are without and with all tied items above the next click, where it matters
}
TIES_BY_HALF = (
    f"† Ties by half: often other items score as high as the next click, and half of them are counted above it. "
    f"Recall@{K} / MRR@{K} with none of them above it, to all of them:"
)
Result = dict[str, Any]  # a row of results.csv: COLUMNS to values


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_results(path: Path) -> list[Result]:
    """The finished runs of ``results.csv``; none where there is no file.

    Raises:
        UserError: the file is another table.
    """
    if not path.exists():
        return []
    try:  # a table of a version that did not look for ties has none
        rows = [{"ties": ""} | row for row in read_rows(path)]
        return [{name: convert(row[name]) for name, convert in COLUMNS.items()} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of this script; name another folder with --output") from error


def spread(values: list[float]) -> str:
    """The mean of some runs, with their standard deviation where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def markdown_table(results: list[Result], protocol: str, published: dict[str, tuple[float, float]] | None) -> str:
    """The results as a Markdown table; where ties matter, a mark and a line behind the table say so.

    Args:
        protocol: a sentence on the files, which stands above it.
        published: Recall and MRR by row, to set beside them; None where no published figures compare.
    """
    published_columns = "" if published is None else " published Recall / MRR | difference |"
    lines = [protocol, "", f"| row | Recall@{K} | MRR@{K} |{published_columns} runs | seconds a run |"]
    lines.append("| --- " * (lines[-1].count("|") - 1) + "|")
    for row in dict.fromkeys(result["row"] for result in results):
        runs = [result for result in results if result["row"] == row]
        recall, mrr, seconds = ([run[name] for run in runs] for name in ("recall", "mrr", "seconds"))
        mark = "†" if any(run["ties"] for run in runs) else ""
        cells = [row, spread(recall) + mark, spread(mrr) + mark]
        if published is not None and row in published:
            published_recall, published_mrr = published[row]
            differences = statistics.mean(recall) - published_recall, statistics.mean(mrr) - published_mrr
            cells += [f"{published_recall:.4f} / {published_mrr:.4f}", "{:+.4f} / {:+.4f}".format(*differences)]
        elif published is not None:
            cells += ["", ""]
        cells += [str(len(runs)), f"{statistics.mean(seconds):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if tied_rows := [f"{result['row']} {result['ties']}" for result in results if result["ties"]]:
        lines += ["", f"{TIES_BY_HALF} {'; '.join(tied_rows)}."]
    return "\n".join(lines) + "\n"


def bar_groups(results: list[Result]) -> dict[str, dict[str, list[float]]]:
    """Recall and MRR of every row, as :func:`runs.plot.bars` takes them."""
    rows = list(dict.fromkeys(result["row"] for result in results))
    return {
        title: {row: [result[column] for result in results if result["row"] == row] for row in rows}
        for title, column in {f"Recall@{K}": "recall", f"MRR@{K}": "mrr"}.items()
    }
