"""Train GRU4Rec, evaluate a checkpoint, or go on training from one.

python main.py                                              # train; flags: --help
python main.py --is_eval --load_model checkpoint/07240927/model_00009.pt
python main.py --load_model checkpoint/07240927/model_00003.pt
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import optimizer as rules
from dataset import ItemIndex, NegativeSampler, SessionParallelBatches, Sessions, encode_sessions, read_sessions
from errors import UserError, run_script
from evaluation import Metrics, evaluate
from model import GRU4Rec
from optimizer import Optimizer
from parameters import evaluation_parameters, parse_flags, resumed_parameters, training_parameters, warn
from runfolder import RunFolder, read_checkpoint
from training import Diverged, EpochResult, make_loss_function, train_epoch


def main() -> None:
    flags = parse_flags()
    if flags.get("is_eval"):
        if "load_model" not in flags:
            raise UserError("--is_eval needs --load_model FILE, the checkpoint to evaluate")
        evaluate_checkpoint(flags)
    elif "load_model" in flags:
        checkpoint = read_checkpoint(Path(flags["load_model"]))
        train(resumed_parameters(checkpoint["parameters"], flags), checkpoint)
    else:
        train(training_parameters(flags))


def train(parameters: Namespace, checkpoint: dict[str, Any] | None = None) -> None:
    """Train from the start, or from the epoch after a checkpoint's; evaluate and save after every epoch."""
    first_epoch = checkpoint["epoch"] + 1 if checkpoint else 0
    if first_epoch >= parameters.n_epochs:
        print(f"{parameters.load_model} has {first_epoch} epochs already; raise --n_epochs to go on")
        return
    device = choose_device(parameters.device)
    folder = Path(parameters.data_folder)
    clicks = read_sessions(folder / parameters.train_data)
    index = ItemIndex.of(clicks)
    sessions, _ = encode_sessions(clicks, index, parameters.time_sort)
    support = torch.from_numpy(sessions.support(len(index)))
    valid_sessions = read_valid_sessions(folder / parameters.valid_data, index)
    refuse_misfits(parameters, sessions, index)
    print(
        f"{parameters.train_data}: {len(sessions.items):,} clicks, {len(sessions):,} sessions, {len(index):,} items; "
        f"{parameters.valid_data}: {valid_sessions.n_transitions:,} next clicks to evaluate; device: {device}"
    )

    torch.manual_seed(parameters.seed)
    model = make_model(parameters, len(index)).to(device)
    optimizer = make_optimizer(parameters, model)
    loss_function = make_loss_function(
        parameters.loss_type, parameters.bpreg, parameters.logq, parameters.sample_alpha, support.to(device)
    )
    batches = SessionParallelBatches(sessions, parameters.batch_size, min_alive=1 if parameters.n_sample else 2)
    sampler = NegativeSampler(support.numpy(), parameters.sample_alpha, parameters.n_sample, parameters.seed, device)
    history = []
    if checkpoint:
        restore(checkpoint, index, support, model, optimizer)
        history = checkpoint["history"]

    run = RunFolder(Path(parameters.checkpoint_dir))
    run.write_parameters(vars(parameters))
    print(f"run folder: {run.path}")
    for epoch in range(first_epoch, parameters.n_epochs):
        total = sessions.n_transitions
        with tqdm(total=total, unit=" clicks", unit_scale=True, desc=f"epoch {epoch}", mininterval=1) as progress:
            try:
                result = train_epoch(model, optimizer, loss_function, batches, sampler, epoch, progress)
            except Diverged as error:
                raise UserError(
                    f"{error}: lower --lr (now {parameters.lr}) or --momentum (now {parameters.momentum}); "
                    f"the checkpoints of earlier epochs are in {run.path}"
                ) from error
        metrics = evaluate(model, valid_sessions, parameters.k_eval, parameters.tie_breaking)
        history.append(metrics_row(epoch, result, metrics))
        path = run.write_checkpoint(
            {
                "parameters": vars(parameters),
                "item_ids": torch.from_numpy(index.ids),
                "support": support,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch,
                "history": history,
                "random_state": random_state(device),
            }
        )
        run.write_metrics(history)
        figures = " ".join(metrics.line(k) for k in parameters.k_eval)
        print(f"epoch {epoch} loss: {result.loss:.6f} {figures} ({result.seconds:.1f} s) {path}", flush=True)


def evaluate_checkpoint(flags: dict[str, Any]) -> None:
    """Print Recall@K and MRR@K of a checkpoint on the validation file, a line per K."""
    checkpoint = read_checkpoint(Path(flags["load_model"]))
    parameters = evaluation_parameters(checkpoint["parameters"], flags)
    index = ItemIndex(checkpoint["item_ids"].numpy())
    sessions = read_valid_sessions(Path(parameters.data_folder) / parameters.valid_data, index)
    refuse_large_cutoffs(parameters, index)
    model = make_model(parameters, len(index))
    load_weights(model, checkpoint["model"], flags["load_model"])
    model.to(choose_device(parameters.device))
    metrics = evaluate(model, sessions, parameters.k_eval, parameters.tie_breaking)
    for k in parameters.k_eval:
        print(metrics.line(k))


def choose_device(name: str | None) -> torch.device:
    """The named device, or CUDA where there is one, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is no device; expected cpu, cuda or cuda:N") from error
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported; expected cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise UserError(f"--device {name} is not here: PyTorch sees {n_gpus} CUDA devices; use --device cpu")
    return device


def read_valid_sessions(path: Path, index: ItemIndex) -> Sessions:
    """The sessions to evaluate on; clicks on items that training never saw are dropped, with a warning.

    Raises:
        UserError: the file is unusable, or nothing is left of it.
    """
    sessions, n_dropped = encode_sessions(read_sessions(path), index)
    if n_dropped:
        warn(f"{path}: dropped {n_dropped:,} clicks on items that training never saw, or alone in a session after that")
    if len(sessions) == 0:
        raise UserError(f"{path} has no items in common with the training data")
    return sessions


def refuse_misfits(parameters: Namespace, sessions: Sessions, index: ItemIndex) -> None:
    """Refuse parameters that the data does not allow."""
    if parameters.batch_size > len(sessions):
        raise UserError(
            f"--batch_size {parameters.batch_size} is more than the {len(sessions):,} sessions "
            f"of {parameters.train_data}"
        )
    refuse_large_cutoffs(parameters, index)


def refuse_large_cutoffs(parameters: Namespace, index: ItemIndex) -> None:
    if (k := max(parameters.k_eval)) > len(index):
        raise UserError(f"--k_eval {k} is more than the {len(index):,} items: every next click would be a hit")


def make_model(parameters: Namespace, n_items: int) -> GRU4Rec:
    return GRU4Rec(
        n_items,
        hidden_size=parameters.hidden_size,
        num_layers=parameters.num_layers,
        embedding_dim=parameters.embedding_dim,
        constrained_embedding=parameters.constrained_embedding,
        dropout_input=parameters.dropout_input,
        dropout_hidden=parameters.dropout_hidden,
        reset_gate=parameters.reset_gate,
        final_act=parameters.final_act,
        sigma=parameters.sigma,
    )


def make_optimizer(parameters: Namespace, model: GRU4Rec) -> Optimizer:
    lr, momentum, eps = parameters.lr, parameters.momentum, parameters.eps
    rule = {
        "Adagrad": lambda: rules.adagrad(lr, momentum, eps),
        "RMSProp": lambda: rules.rmsprop(lr, momentum, eps),
        "Adadelta": lambda: rules.adadelta(lr, eps),
        "Adam": lambda: rules.adam(lr, eps),
        "SparseAdam": lambda: rules.adam(lr, eps),
        "SGD": lambda: rules.sgd(lr, momentum),
    }[parameters.optimizer_type]()
    tables = {name: getattr(model, name) for name in model.item_tables}
    return Optimizer(model.network_parameters(), tables, rule, parameters.weight_decay)


def restore(
    checkpoint: dict[str, Any], index: ItemIndex, support: torch.Tensor, model: GRU4Rec, optimizer: Optimizer
) -> None:
    """Put everything back as it was when the checkpoint was written.

    Raises:
        UserError: the training file is not the one that the checkpoint was trained on, or parts of it do not fit.
    """
    path = checkpoint["parameters"]["load_model"]
    if not torch.equal(checkpoint["item_ids"], torch.from_numpy(index.ids)) or not torch.equal(
        checkpoint["support"], support
    ):
        raise UserError(f"{path} was trained on other clicks than --train_data names: point it at the same file")
    load_weights(model, checkpoint["model"], path)
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} does not fit together: {error}") from error
    torch.set_rng_state(checkpoint["random_state"]["cpu"])
    if "cuda" in checkpoint["random_state"] and support.is_cuda:
        torch.cuda.set_rng_state(checkpoint["random_state"]["cuda"], support.device)


def load_weights(model: GRU4Rec, weights: dict[str, Any], path: str) -> None:
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not fit together: its weights are not those of its parameters") from error


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def metrics_row(epoch: int, result: EpochResult, metrics: Metrics) -> dict[str, Any]:
    """A row of ``metrics.csv``."""
    row = {"epoch": epoch, "train_loss": result.loss}
    for k in metrics.recall:
        row |= {f"recall@{k}": metrics.recall[k], f"mrr@{k}": metrics.mrr[k]}
    return row | {"seconds": round(result.seconds, 3), "clicks_per_second": round(result.n_clicks / result.seconds)}


if __name__ == "__main__":
    run_script(main)
