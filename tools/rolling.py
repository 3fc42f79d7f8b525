"""Day after day: a model that grows, beside one that stays and one that is made anew, on the clicks of the next day.

python -m tools.rolling --files recSys15TrainFull.txt recSys15Test.txt --days 10 --preset authors-best
python -m tools.rolling --days 10 --flags "--hidden_size 64 --n_epochs 5" --grow_flags "--n_epochs 1"
"""

from terminal.errors import UserError, run_script

# isort: split
import shlex
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from comparison.bootstrap import interval, p_value, resampled_sums
from evaluation import gains_of_ranks
from preprocessing import DATA_FOLDER, TEST, TRAIN_FULL
from runs.figures import K, spread
from runs.kinds import NO_FILE
from runs.parameters import PARAMETERS, parse_flags, training_parameters
from runs.presets import PRESETS
from runs.rolling import ANEW, GROWS, STAYS, Ranked, read_days, roll
from runs.trainingdata import data_file
from terminal.atomicfile import make_folder, write_csv
from terminal.flags import COUNT, POSITIVE, FlagParser

FIGURES = {"recall": f"Recall@{K}", "mrr": f"MRR@{K}"}
N_DRAWS = 2000


def row_of(ranked: Ranked) -> dict[str, Any]:
    """A row of ``rolling.csv``."""
    figures = {name: gains_of_ranks(name, ranked.ranks, K).mean().item() for name in FIGURES}
    return {
        "day": ranked.day,
        "model": ranked.model,
        "n_items": ranked.n_items,
        "n_next_clicks": len(ranked.ranks),
        **figures,
        "seconds": round(ranked.seconds, 3),
    }


def line_of(row: dict[str, Any]) -> str:
    """A row as it is printed when it is there."""
    figures = " ".join(f"{title}: {row[name]:.4f}" for name, title in FIGURES.items())
    return f"day {row['day']} {row['model']:5} {figures} ({row['n_next_clicks']:,} next clicks, {row['seconds']:.1f} s)"


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the days, and how long a day's training takes, as a Markdown table."""
    by_model = {name: [row for row in rows if row["model"] == name] for name in (STAYS, GROWS, ANEW)}
    anew = sum(row["seconds"] for row in by_model[ANEW])
    lines = [f"| model | {' | '.join(FIGURES.values())} | training, to anew |", "| --- | --- | --- | --- |"]
    for name, of_model in by_model.items():
        figures = [spread([row[each] for row in of_model]) for each in FIGURES]
        seconds = "once" if name == STAYS else f"{sum(row['seconds'] for row in of_model) / anew:.3f}"
        lines.append(f"| {name} | {' | '.join(figures)} | {seconds} |")
    return "\n".join(lines)


def differences(days: list[dict[str, Ranked]], seed: int) -> list[str]:
    """What growing gains over the two others, on the sessions of all days, paired, with intervals by the bootstrap."""
    lines = []
    for other in (STAYS, ANEW):
        for name, title in FIGURES.items():
            sums, won = [], 0
            for models in days:
                gain = [gains_of_ranks(name, models[each].ranks, K).numpy() for each in (GROWS, other)]
                won += gain[0].mean() > gain[1].mean()
                n_next = np.diff(models[GROWS].sessions.offsets) - 1
                starts = np.cumsum(n_next) - n_next
                sums.append(np.column_stack((n_next, np.add.reduceat(gain[0] - gain[1], starts))))
            per_session = np.concatenate(sums).astype(np.float64)
            drawn = resampled_sums(per_session, N_DRAWS, seed)
            drawn = drawn[:, 1] / drawn[:, 0]
            (low, high), p = interval(drawn), float(p_value(drawn))
            total = per_session.sum(axis=0)
            lines.append(
                f"{GROWS} - {other}, {title}: {total[1] / total[0]:+.4f} ({low:+.4f} to {high:+.4f}, p = {p:.3g}), "
                f"better on {won} of {len(days)} days"
            )
    return lines


def models_parameters(flags: Namespace) -> tuple[Namespace, dict[str, Any]]:
    """The parameters of all models, and the flags of the one that grows.

    Raises:
        UserError: they make no sense, or name what this command does not do.
    """
    named = parse_flags(shlex.split(flags.flags)) | ({"preset": flags.preset} if flags.preset else {})
    growing = parse_flags(shlex.split(flags.grow_flags))
    for each in (named, growing):
        if other := each.keys() & {"load_model", "grow", "resume", "is_eval", "valid_data", "train_data", "ranks"}:
            raise UserError(f"--{min(other)} is not for models that nothing is kept of: leave it out")
    p = training_parameters(named | {"valid_data": NO_FILE} | ({"device": flags.device} if flags.device else {}))
    if p.average:
        raise UserError("--average has no place here, for every model is its last epoch: --flags '--average 0'")
    return p, growing | {"device": p.device, "valid_data": NO_FILE}


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument("--data_folder", type=Path, default=DATA_FOLDER, help="prepared files (%(default)s)")
    parser.add_argument(
        "--files", nargs="+", default=[TRAIN_FULL, TEST], metavar="FILE", help=f"files in it ({TRAIN_FULL} {TEST})"
    )
    parser.add_argument("--days", type=COUNT, default=10, help="days on which a model grows (%(default)s)")
    parser.add_argument("--hours", type=POSITIVE, default=24.0, help="length of a day (%(default)s)")
    parser.add_argument("--preset", choices=PRESETS, metavar="NAME", help="a setting of main.py for all models")
    parser.add_argument("--flags", default="", help="flags of main.py for all models, in quotes")
    parser.add_argument("--grow_flags", default="--n_epochs 1", help="more, for the one that grows (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("rolling"), help="folder for results (%(default)s)")
    parser.add_argument("--device", help=PARAMETERS["device"].help)
    return parser


def main(argv: list[str] | None = None) -> None:
    flags = make_parser().parse_args(argv)
    parameters, growing = models_parameters(flags)
    paths = [data_file(str(flags.data_folder), name) for name in flags.files]
    days = read_days(paths, flags.days, flags.hours)
    make_folder(flags.output)
    rows, ranked_by_day = [], defaultdict(dict)
    for ranked in roll(days, parameters, growing):
        ranked_by_day[ranked.day][ranked.model] = ranked
        rows.append(row_of(ranked))
        print(line_of(rows[-1]), flush=True)
        write_csv(flags.output / "rolling.csv", rows)
    print("", table(rows), "", *differences(list(ranked_by_day.values()), parameters.seed), sep="\n")


if __name__ == "__main__":
    run_script(main)
