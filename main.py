"""Train GRU4Rec, evaluate a checkpoint, or go on training from one.

python main.py                                              # train; flags: --help
python main.py --is_eval --load_model checkpoint/07240927/model_00009.pt
python main.py --load_model checkpoint/07240927/model_00003.pt
python main.py --load_model checkpoint/07240927/model_00009.pt --train_data new.txt --grow   # with other clicks
python main.py --resume                                     # go on from the newest checkpoint, or start
torchrun --nproc_per_node 2 main.py                         # on two GPUs; pays for large mini-batches and wide layers
"""

from terminal.errors import UserError, run_script, warn

# isort: split
import sys
from pathlib import Path
from typing import Any

import numpy as np

from comparison.ranksfile import RankedClicks, write_ranks
from evaluation import metrics_of_ranks, rank_by_model, top_lists
from faster.ranks import joined_ranks, n_ranks, rank
from runs.averaging import refuse_missing_epochs
from runs.earlystopping import outcome, stopped_early
from runs.epochs import follow, train_epochs
from runs.growing import grown, grown_parameters
from runs.interruption import Interrupted
from runs.kinds import NO_FILE
from runs.parameters import (
    PARAMETERS,
    parse_flags,
    resumed_parameters,
    same_experiment,
    training_parameters,
    what_matters,
    with_preset,
)
from runs.presets import PRESETS, preset_table, why_figures_differ
from runs.restoring import items_of, restored_for_evaluation, saved_parameters
from runs.runfolder import (
    RunFolder,
    checkpoints_newest_first,
    described,
    is_mean,
    read_checkpoint,
    remove_unfinished_checkpoints,
)
from runs.trainingdata import TrainingData, data_file, of_sample, read_valid_sessions, refuse_large_cutoffs, sampled
from runs.trainingrun import EVALUATING, TrainingRun
from terminal.memory import memory_for


def main() -> int:
    with joined_ranks():
        flags = parse_flags()
        with memory_for(what_frees_memory(flags)):
            return run(flags)


def what_frees_memory(flags: dict[str, Any]) -> str:
    """What to do where memory runs out: names flags only that have an effect on what these flags ask for."""
    if flags.get("is_eval"):
        return EVALUATING
    if "load_model" in flags:  # its parameters stay as they are
        return "free some memory, name another --device, or start anew, without --load_model, with a smaller model"
    preset = PRESETS.get(flags.get("preset"))
    named = (parse_flags(preset.flags.split()) if preset else {}) | flags
    least = {"batch_size": 1, "n_sample": 0, "hidden_size": 1, "embedding_dim": 0, "bptt": 1}
    lower = [f"--{name}" for name in least if named.get(name, PARAMETERS[name].default) > least[name]]
    return f"lower {', '.join(lower)}, or name another --device"


def run(flags: dict[str, Any]) -> int:
    """Do what the flags ask for; the exit code."""
    if flags.get("preset") == "list":
        print(preset_table())
        return 0
    if flags.get("is_eval"):
        if n_ranks() > 1:
            raise UserError("--is_eval is the work of one process: leave torchrun out")
        return evaluate_checkpoint(flags)
    if "ranks" in flags:
        raise UserError("--ranks needs --is_eval and --load_model FILE, the checkpoint that ranks")
    if flags.get("grow") and (flags.get("resume") or "load_model" not in flags):
        raise UserError("--grow needs --load_model FILE, the checkpoint that grows, and no --resume")
    if flags.get("resume"):
        if "load_model" in flags:
            raise UserError("--resume finds the checkpoint by itself: leave --load_model out, or --resume")
        return resume(flags)
    if "load_model" in flags:
        path = Path(flags["load_model"])
        checkpoint = read_checkpoint(path)
        if flags.get("preset") != checkpoint["parameters"].get("preset"):
            flags = with_preset(flags)  # its parameters must be the checkpoint's, whatever name they were given by
        return grow(path, checkpoint, flags) if flags.get("grow") else go_on(path, checkpoint, flags)
    return train(TrainingRun(training_parameters(flags)))


def resume(flags: dict[str, Any]) -> int:
    """Go on from the newest checkpoint of the experiment that the flags describe, in its folder, or start it."""
    parameters = training_parameters(flags)
    checkpoint_dir = Path(parameters.checkpoint_dir)
    for path, checkpoint in checkpoints_newest_first(checkpoint_dir, what_matters(parameters)):
        try:
            found = same_experiment(saved_parameters(checkpoint, path), parameters)
        except UserError as error:
            warn(str(error))
            continue
        if found and not is_mean(checkpoint):
            return go_on(path, checkpoint, vars(parameters), RunFolder(path.parent))
    print(f"no checkpoint with these parameters in {checkpoint_dir}: starting anew")
    return train(TrainingRun(parameters))


def go_on(path: Path, checkpoint: dict[str, Any], flags: dict[str, Any], folder: RunFolder | None = None) -> int:
    """Go on training from a checkpoint, in its own folder or, without one, in a new one."""
    if is_mean(checkpoint):
        raise UserError(
            f"{path} is the mean of several epochs: go on from one of them (or, with --is_eval, evaluate it)"
        )
    parameters = resumed_parameters(saved_parameters(checkpoint, path), flags)
    parameters.load_model = str(path)
    n_ended = checkpoint["epoch"] + (checkpoint["within_epoch"] is None)
    is_done = n_ended >= parameters.n_epochs or stopped_early(checkpoint, parameters, path)
    if not is_done:
        print(f"going on from {path}", flush=True)
    training = TrainingRun(parameters, checkpoint)  # also where nothing is left to do: the clicks must be the same
    if not is_done:
        return train(training, folder)
    more = "n_epochs" if n_ended >= parameters.n_epochs else "patience"
    print(f"{path}: {n_ended} of {parameters.n_epochs} epochs are done; raise --{more} to go on")
    if folder:
        folder.write_metrics(checkpoint["history"])
    if parameters.patience:
        print(outcome(training.history, parameters, folder))
    return train(training, folder) if parameters.average else 0


def grow(path: Path, checkpoint: dict[str, Any], flags: dict[str, Any]) -> int:
    """Go on from a checkpoint with other clicks and perhaps other items, in a new folder."""
    parameters = grown_parameters(checkpoint, saved_parameters(checkpoint, path), flags, path)
    known, p = items_of(checkpoint, path), parameters
    data = TrainingData.read(p.data_folder, p.train_data, p.valid_data, p.time_sort, known=known)
    n_items = len(data.index)
    n_gone = n_items - np.count_nonzero(data.sessions.support(n_items))
    print(
        f"growing {path}: {n_items - len(known):,} new items, {len(known):,} known, {n_gone:,} of them gone", flush=True
    )
    return train(TrainingRun(parameters, grown(checkpoint, parameters, data, path), data))


def train(training: TrainingRun, folder: RunFolder | None = None) -> int:
    """Train to the end, or until a signal; the exit code says which."""
    p = training.parameters
    refuse_missing_epochs(training, folder)
    if rank() > 0:
        return follow(training)
    if p.preset and (why := why_figures_differ(p.preset, Path(p.data_folder))):
        print(why)
    remove_unfinished_checkpoints(Path(p.checkpoint_dir))
    folder = folder or RunFolder.create(Path(p.checkpoint_dir))
    print(f"{training.describe()}\nrun folder: {folder.path}", flush=True)
    try:
        train_epochs(training, folder)
    except Interrupted as interrupted:
        newest = max(folder.path.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
        how = "the same line again" if p.resume else f"python main.py --load_model {newest}"
        print(f"stopped by {interrupted}, everything is saved; go on with: {how}")
        return interrupted.exit_code
    return 0


def evaluate_checkpoint(flags: dict[str, Any]) -> int:
    """Print the metrics of a checkpoint on the validation file, a line per K; with --ranks, write the ranks, too."""
    if "load_model" not in flags:
        raise UserError("--is_eval needs --load_model FILE, the checkpoint to evaluate")
    path = Path(flags["load_model"])
    checkpoint = read_checkpoint(path)
    p, model, index = restored_for_evaluation(checkpoint, path, flags)
    if p.valid_data == NO_FILE:
        raise UserError(
            f"--is_eval needs a file to evaluate on, and {path} was trained without: name --valid_data FILE"
        )
    valid_file = data_file(p.data_folder, p.valid_data)
    of_file = read_valid_sessions(valid_file, index)
    sessions = sampled(of_file, p.eval_sessions)
    sample = of_sample(sessions, of_file)
    refuse_large_cutoffs(p.k_eval, len(index))
    what = f"{path} ({described(checkpoint)}) on {valid_file}: {sessions.n_next_clicks:,} next clicks{sample}"
    print(what, file=sys.stderr)
    support = checkpoint["support"]
    del checkpoint  # the optimizer's state is larger than the model
    lists = top_lists(p.metrics, p.k_eval, support, model.output_bias.device)
    try:
        ranks = rank_by_model(model, sessions, p.tie_breaking, lists=lists, bonus=p.remind)
    except FloatingPointError as error:
        raise UserError(f"{path} cannot be evaluated: {error}") from error
    metrics = metrics_of_ranks(ranks, p.k_eval, p.metrics, lists)
    for k in p.k_eval:
        print(f"{metrics.line(k)}{sample}")
    if p.ranks:
        about = {"tie_breaking": p.tie_breaking, "seed": p.seed}
        write_ranks(Path(p.ranks), RankedClicks.of(ranks, sessions, index, support.numpy(), **about))
    return 0


if __name__ == "__main__":
    run_script(main)
