"""Search for the setting with the best validation MRR@20, with Optuna.

    python tune.py --space spaces/bprmax.txt --preset authors-retailrocket --study bprmax.db --n_trials 50 --n_jobs 2
    python tune.py --space spaces/bprmax.txt --preset authors-retailrocket --study bprmax.db --confirm 3 --final
    python tune.py --space spaces/vstan.txt --baseline V-STAN --study vstan.db --n_trials 50 --final

A trial trains on train only and is evaluated on valid after every epoch, until it falls behind the others or behind
itself. Trials are kept in an SQLite file, or where several machines share them: the same line goes on from there.
``--confirm`` trains the best settings again, with several seeds; ``--final`` measures the chosen one on the test file,
which nothing else reads. A baseline is fitted instead, once a trial.
"""

from terminal.errors import UserError, run_script, warn

# isort: split
import argparse
import statistics
import zlib
from argparse import Namespace
from functools import partial
from pathlib import Path

from baselines.registry import BASELINES
from dataset import seed_of
from faster.device import choose_device
from preprocessing import DATA_FOLDER, TEST
from runs.figures import K, spread
from runs.interruption import Interrupted
from runs.jobs import Stopper, add_job_flags, run_jobs
from runs.parameters import PARAMETERS
from runs.presets import PRESETS
from runs.searched import FOR_CHOOSING, FOR_MEASURING, Searched, SearchedBaseline, SearchedModel
from runs.searchspace import OF_THE_MODEL, read_space
from runs.study import ADDRESSES, is_for_several, made_with, open_study, process_name, shown_study
from runs.trainingdata import data_file
from terminal.flags import COUNT, COUNT_OR_ZERO, SEED, FlagParser
from terminal.memory import is_out_of_memory
from training import Diverged

try:
    import optuna
except ImportError:
    optuna = None

PATIENCE = 3  # epochs without a better one after which a trial ends
N_SHOWN, N_CONFIRMED = 10, 5  # how many of the best the table shows, and --confirm trains again
N_EPOCHS = 10  # of a trial of the model, at most
SEARCHABLE = [name for name, baseline in BASELINES.items() if baseline.settings]


def begin_or_go_on(study: "optuna.Study", flags: Namespace) -> None:
    """Tell a new study what it is made with, compare with what an old one was told; have the base tried first.

    Raises:
        UserError: the study was made with something else.
    """
    data = flags.searched.data()
    ours = {
        "clicks": f"{len(data.sessions.items):,} of train only and {data.valid_sessions.n_next_clicks:,} next of valid",
        "checksums": " ".join(data.checksums.values()),
        "base": flags.searched.base,
        "n_epochs": str(flags.n_epochs),
    } | {name: str(values) for name, values in flags.space.searched.items()}
    before = made_with(study)
    if before is None:
        before = ours
    elif "checksums" not in before:
        warn(
            f"{shown_study(flags.study)} was begun by an earlier version, which noted of its clicks how many there "
            f"are: make sure that {flags.data_folder} holds those that it knew; from now on, others are refused"
        )
        before = before | {"checksums": ours["checksums"]}
    for name in before | ours:
        was, now = before.get(name, "absent"), ours.get(name, "absent")
        if was != now:
            raise UserError(
                f"{shown_study(flags.study)} was begun with other settings: {name} was {was}, and is {now} now; "
                "name another file with --study"
            )
    is_first = "made_with" not in study.user_attrs
    if is_first or (not finished(study) and not unfinished(study)):
        try_base_first(study, flags)
    study.set_user_attr("made_with", ours)


def try_base_first(study: "optuna.Study", flags: Namespace) -> None:
    """Let the next trial be the base itself, as far as the space has it."""
    base = flags.searched.values_of_base()
    inside = {name: base[name] for name, values in flags.space.searched.items() if base[name] in values}
    study.enqueue_trial(inside)
    if outside := {name: base[name] for name in flags.space.searched if name not in inside}:
        missing = flags.searched.setting_of(outside)
        warn(f"the space does not have the base's {missing}: the first trial has something else there")


def finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Trials that came to their end, or fell behind; not those that were interrupted."""
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)


def unfinished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Trials that wait, or run in this process or another."""
    states = (optuna.trial.TrialState.WAITING, optuna.trial.TrialState.RUNNING)
    return study.get_trials(deepcopy=False, states=states)


def search(study: "optuna.Study", flags: Namespace) -> None:
    """Run trials until the study has as many finished ones as asked for."""
    n_finished = len(finished(study))
    print(f"{shown_study(flags.study)}: {n_finished} of {flags.n_trials} trials are done", flush=True)
    trials = list(range(n_finished, flags.n_trials))
    for _, line in run_jobs(partial(run_trial, flags=flags), trials, flags.n_jobs, flags.n_threads):
        if line:
            print(line, flush=True)


def run_trial(_: int, stopper: Stopper, flags: Namespace) -> str | None:
    """Run the study's next trial: what became of it, in a line; None where others have run enough by now."""
    study = open_study(flags.study)
    n_finished = len(finished(study))
    if n_finished >= flags.n_trials:
        return None
    # After a stop, a study suggests what it would have suggested without one. But two trials that begin together must
    # not be the same.
    n_running = len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)))
    is_alone = flags.n_jobs == 1 and not is_for_several(flags.study)
    process = 0 if is_alone else zlib.crc32(process_name().encode())
    seed = seed_of(flags.seed, n_finished, n_running, process) % 2**32  # NumPy's generators take no more
    study.sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    ended: list[optuna.trial.FrozenTrial] = []
    study.optimize(
        lambda trial: validation_mrr(trial, stopper, flags),
        n_trials=1,
        gc_after_trial=True,  # of a trial that failed, Optuna's error keeps the model
        callbacks=[lambda _, trial: ended.append(trial)],
    )
    return outcome(ended[0])


def validation_mrr(trial: "optuna.Trial", stopper: Stopper, flags: Namespace) -> float:
    """Train what a trial suggests: MRR@20 of the best epoch; the trial keeps its number and Recall@20, too.

    Raises:
        optuna.TrialPruned: it falls behind, diverges, needs too much memory or makes no sense.
    """
    setting = flags.searched.setting_of(flags.space.suggest(trial))
    trial.set_user_attr("setting", setting)
    best, best_epoch = -1.0, 0
    try:
        for epoch, run in enumerate(flags.searched.runs(setting, stopper, FOR_CHOOSING, n_epochs=flags.n_epochs)):
            metrics = run.evaluate()
            trial.report(metrics.mrr[K], epoch)
            if metrics.mrr[K] > best:
                best, best_epoch = metrics.mrr[K], epoch
                trial.set_user_attr("n_epochs", epoch + 1)
                trial.set_user_attr("recall", metrics.recall[K])
            if trial.should_prune():
                raise optuna.TrialPruned
            if epoch - best_epoch == PATIENCE:
                break
    except (UserError, Diverged, FloatingPointError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        trial.set_user_attr("problem", str(error).partition("\n")[0] or "out of memory")
        raise optuna.TrialPruned from error
    return best


def outcome(trial: "optuna.trial.FrozenTrial") -> str:
    """What became of a trial, in a line."""
    attributes = trial.user_attrs
    became = attributes.get("problem")
    if became is None:
        became = f"MRR@{K} {max(trial.intermediate_values.values()):.4f} Recall@{K} {attributes['recall']:.4f}"
        n_epochs = len(trial.intermediate_values)
        became += f" after {attributes['n_epochs']} of {n_epochs} epochs" if n_epochs > 1 else ""
        became += ", pruned" if trial.state == optuna.trial.TrialState.PRUNED else ""
    return f"trial {trial.number}: {became} ({trial.duration.total_seconds():.0f} s): {attributes['setting']}"


def best_trials(study: "optuna.Study", n: int) -> list["optuna.trial.FrozenTrial"]:
    """The best of those that came to their end, best first, every setting once."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    trial_of = {trial.user_attrs["setting"]: trial for trial in sorted(complete, key=lambda trial: trial.value)}
    return sorted(trial_of.values(), key=lambda trial: -trial.value)[:n]


def print_best(study: "optuna.Study") -> None:
    """The table of the best trials, and which flags mattered where there are enough to say."""
    best = best_trials(study, N_SHOWN)
    if not best:
        raise UserError("no trial has come to its end: widen the space, or raise --n_trials")
    print(f"\ntrial  MRR@{K}  Recall@{K}  epochs  setting")
    for trial in best:
        recall, n_epochs, setting = (trial.user_attrs[name] for name in ("recall", "n_epochs", "setting"))
        print(f"{trial.number:5}  {trial.value:.4f}  {recall:9.4f}  {n_epochs:6}  {setting}")
    if len(best) == N_SHOWN:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
        print("importance: " + ", ".join(f"{name} {share:.2f}" for name, share in importances.items()))


def confirm(study: "optuna.Study", flags: Namespace) -> None:
    """Train the best settings with several seeds; the study keeps MRR@20 on valid after every epoch."""
    curves = study.user_attrs.get("confirmed", {})
    jobs = [
        (trial.user_attrs["setting"], len(trial.intermediate_values), seed)
        for trial in best_trials(study, N_CONFIRMED)
        for seed in range(1, flags.confirm + 1)
        if str(seed) not in curves.get(trial.user_attrs["setting"], {})
    ]
    for (setting, _, seed), curve in run_jobs(
        partial(validation_curve, flags=flags), jobs, flags.n_jobs, flags.n_threads
    ):
        curves.setdefault(setting, {})[str(seed)] = curve
        study.set_user_attr("confirmed", curves)
        print(f"seed {seed}: MRR@{K} {max(curve, default=0):.4f}: {setting}", flush=True)


def validation_curve(job: tuple[str, int, int], stopper: Stopper, flags: Namespace) -> list[float]:
    """MRR@20 on valid after every epoch of a setting with a seed; up to where it diverges."""
    setting, n_epochs, seed = job
    curve = []
    try:
        for run in flags.searched.runs(setting, stopper, FOR_CHOOSING, n_epochs=n_epochs, seed=seed):
            curve.append(run.evaluate().mrr[K])
    except (Diverged, FloatingPointError) as error:
        warn(f"seed {seed}: {error}: {setting}")
    return curve


def chosen(study: "optuna.Study", n_seeds: int) -> tuple[str, int]:
    """The best setting and its number of epochs: where settings are confirmed, by the mean of their first seeds.

    Args:
        n_seeds: how many; settings with fewer are passed over. 0 for as many as any has.
    """
    confirmed = study.user_attrs.get("confirmed")
    if not confirmed:
        (best,) = best_trials(study, 1)
        return best.user_attrs["setting"], best.user_attrs["n_epochs"]
    print(f"\nMRR@{K} of the seeds  epochs  setting")
    n_seeds = n_seeds or max(map(len, confirmed.values()))
    seeds = [str(seed) for seed in range(1, n_seeds + 1)]
    candidates = []
    for setting, curves in confirmed.items():
        if all(seed in curves for seed in seeds):
            # by epoch; one that diverged has few
            figures_of = list(zip(*(curves[seed] for seed in seeds), strict=False)) or [(0.0,)]
            n_epochs = 1 + max(range(len(figures_of)), key=lambda epoch: statistics.mean(figures_of[epoch]))
            figures = figures_of[n_epochs - 1]
            print(f"{spread(list(figures)):>19}  {n_epochs:6}  {setting}")
            candidates.append((statistics.mean(figures), setting, n_epochs))
    return max(candidates)[1:]


def measure(study: "optuna.Study", flags: Namespace) -> None:
    """Train the chosen setting on train full, with several seeds, and evaluate each run on test once, at its end."""
    searched = flags.searched
    setting = searched.lasting(*chosen(study, flags.confirm))
    print(f"\nchosen: {searched.base} {setting}", flush=True)
    clicks = " ".join(searched.data(FOR_MEASURING).checksums.values())
    measured = study.user_attrs.get("measured", {})
    if measured and study.user_attrs.get("measured_on") != clicks:
        warn(f"what the study has of {TEST} is of other clicks, or of an earlier version: measured anew")
        measured = dict.fromkeys(measured, {})
    jobs = [(setting, seed) for seed in searched.seeds if str(seed) not in measured.get(setting, {})]
    for (_, seed), (recall, mrr) in run_jobs(partial(test_figures, flags=flags), jobs, flags.n_jobs, flags.n_threads):
        measured[setting] = measured.get(setting, {}) | {str(seed): (recall, mrr)}
        study.set_user_attr("measured", measured)
        study.set_user_attr("measured_on", clicks)
        print(f"seed {seed}: Recall@{K} {recall:.4f} MRR@{K} {mrr:.4f}", flush=True)
    if len(measured) > 1:
        warn(f"{len(measured)} settings of this study have been measured on {TEST}: the best of them is no fair figure")
    recall, mrr = (spread(list(values)) for values in zip(*measured[setting].values(), strict=True))
    several, first = (f", {len(searched.seeds)} seeds", "; the first of them") if len(searched.seeds) > 1 else ("", "")
    print(f"{TEST}{several}: Recall@{K} {recall} MRR@{K} {mrr}{first}:\n{searched.command(setting)}")


def test_figures(job: tuple[str, int], stopper: Stopper, flags: Namespace) -> tuple[float, float]:
    """Recall@20 and MRR@20 on the test file of a setting trained on train full with a seed.

    Raises:
        UserError: training diverges.
    """
    setting, seed = job
    try:
        *_, run = flags.searched.runs(setting, stopper, FOR_MEASURING, seed=seed)
        metrics = run.evaluate()
    except (Diverged, FloatingPointError) as error:
        raise UserError(f"seed {seed}: {error}: {setting}") from error
    return metrics.recall[K], metrics.mrr[K]


def make_parser() -> FlagParser:
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_folder", type=Path, default=DATA_FOLDER, help="prepared files (%(default)s)")
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="what to choose from, see spaces/")
    parser.add_argument("--preset", choices=PRESETS, metavar="NAME", help="gives what the space does not name")
    parser.add_argument(
        "--baseline", choices=SEARCHABLE, metavar="NAME", help=f"search its settings: {', '.join(SEARCHABLE)}"
    )
    parser.add_argument(
        "--study",
        default="study.db",
        metavar="ADDRESS",
        help=f"trials (%(default)s): {ADDRESSES}; the last two are for several machines that search together",
    )
    parser.add_argument("--n_trials", type=COUNT, default=50, help="finished trials of the study, in all (%(default)s)")
    parser.add_argument("--n_epochs", type=COUNT, help=f"epochs of a trial, at most ({N_EPOCHS})")
    add_job_flags(parser, "trials")
    parser.add_argument("--seed", type=SEED, default=1, help="of what is suggested (%(default)s)")
    parser.add_argument("--device", help=PARAMETERS["device"].help)
    parser.add_argument(
        "--confirm", type=COUNT_OR_ZERO, default=0, metavar="N", help="then train the best with N seeds"
    )
    parser.add_argument("--final", action="store_true", help="then measure the chosen setting on the test file")
    return parser


def read_flags(argv: list[str] | None = None) -> Namespace:
    flags = make_parser().parse_args(argv)
    flags.searched = searched_baseline(flags) if flags.baseline else searched_model(flags)
    return flags


def searched_model(flags: Namespace) -> Searched:
    """What is searched without ``--baseline``; completes the flags."""
    flags.space = read_space(flags.space, OF_THE_MODEL)
    flags.n_epochs = flags.n_epochs or N_EPOCHS
    preset = {"preset": flags.preset} if flags.preset else {}
    return SearchedModel(preset | flags.space.fixed, flags.data_folder, str(choose_device(flags.device)))


def searched_baseline(flags: Namespace) -> Searched:
    """What is searched with ``--baseline``; completes the flags.

    Raises:
        UserError: flags of the model are there.
    """
    for name in ("preset", "n_epochs", "device", "confirm"):
        if getattr(flags, name):
            raise UserError(f"--{name} is for the model, and a baseline is fitted, once: leave it out with --baseline")
    settings = BASELINES[flags.baseline].settings
    flags.space = read_space(flags.space, {name: setting.kind for name, setting in settings.items()})
    flags.n_epochs = 1
    return SearchedBaseline(flags.baseline, flags.space.fixed, flags.data_folder)


def main(argv: list[str] | None = None) -> int:
    flags = read_flags(argv)
    if optuna is None:
        raise UserError("tune.py needs Optuna: pip install optuna")
    if flags.final:
        for name in FOR_MEASURING:  # missing ones are better known now
            data_file(str(flags.data_folder), name)
    study = open_study(flags.study)
    begin_or_go_on(study, flags)
    try:
        search(study, flags)
        print_best(study)
        if flags.confirm:
            confirm(study, flags)
        if flags.final:
            measure(study, flags)
    except Interrupted as interrupted:
        print(f"stopped by {interrupted}; go on with the same line")
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    run_script(main)
