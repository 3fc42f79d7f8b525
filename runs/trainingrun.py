"""A training run: put together from parameters, trained an epoch at a time, and taken up again from a checkpoint."""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset import NegativeSampler, SessionParallelBatches, seed_of
from evaluation import Metrics, evaluate
from faster.compilation import choose_step
from faster.device import choose_device, keep_freed_memory, random_state, set_random_state, use_deterministic_algorithms
from faster.minibatch import MiniBatches
from faster.ranks import dealt_training_step, device_of_rank, n_ranks
from lossfunction import make_loss_function
from model import GRU4Rec
from optimizer import Optimizer, make_rule
from runs.growing import first_epoch
from runs.kinds import NO_FILE
from runs.restoring import items_of, make_model, misfit, restored
from runs.runfolder import metrics_columns
from runs.trainingdata import TrainingData, data_file, of_sample, refuse_large_cutoffs, sampled
from terminal.errors import UserError, warn
from terminal.memory import memory_for
from training import EpochProgress, Keeper, train_epoch

EVALUATING = "evaluating takes the model and some rows of scores of all items: free some, or name another --device"
SMALL_SHARE = 0.01  # of the next clicks may be left out of an epoch without a warning


class TrainingRun:
    """Everything that a training run holds. Making one readies the process, too: device, seed, allocator.

    Args:
        parameters: all of them, see :mod:`runs.parameters`.
        checkpoint: what :func:`runs.runfolder.read_checkpoint` gave, to go on from there; None starts anew.
        data: what the parameters' files hold, where that has been read before.

    Raises:
        UserError: parameters, data and checkpoint do not fit together.
    """

    def __init__(
        self, parameters: Namespace, checkpoint: dict[str, Any] | None = None, data: TrainingData | None = None
    ):
        self.parameters = p = parameters
        self.device = choose_device(device_of_rank(p.device))
        p.device = str(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        use_deterministic_algorithms(p.deterministic, self.device)
        self.grown_from: list[dict[str, Any]] = checkpoint.get("grown_from", []) if checkpoint else []
        self.data = data = data or self._read_data(checkpoint)
        self.index, self.sessions, self.support = data.index, data.sessions, data.support
        self.valid_sessions = data.valid_sessions and sampled(data.valid_sessions, p.eval_sessions)
        self._refuse_impossible_sizes()

        torch.manual_seed(p.seed if p.seed < 2**32 else seed_of(p.seed))  # of which PyTorch heeds 32 bits on a CPU
        self.model = self._restored_model(checkpoint) if checkpoint else make_model(p, len(self.index))
        self.model.to(self.device)
        self.optimizer = Optimizer(
            self.model.network_parameters(),
            self.model.item_tables(),
            make_rule(p.optimizer_type, p.lr, p.momentum, p.eps),
            p.weight_decay,
        )
        self.loss_function = make_loss_function(
            p.loss_type, p.bpreg, p.logq, p.sample_alpha, self.support.to(self.device)
        )
        batches = SessionParallelBatches(self.sessions, p.batch_size, min_alive=1 if p.n_sample else 2, bptt=p.bptt)
        self.n_next_clicks = batches.n_next_clicks
        self._warn_of_clicks_left_out()
        self.feed = MiniBatches(
            batches,
            NegativeSampler(self.support.numpy(), p.sample_alpha, p.n_sample, p.seed, self.device),
            len(self.index),
            self.model.shared,
            self.device,
        )
        self.first_epoch = first_epoch(checkpoint, p.load_model) if checkpoint else 0
        n_steps = (p.n_epochs - self.first_epoch) * self.n_next_clicks // p.batch_size
        n_scores = p.batch_size * (p.batch_size + p.n_sample)
        is_alone = n_ranks() == 1
        self.step = choose_step(p.compile, self.device, n_steps, n_scores) if is_alone else dealt_training_step
        self.progress = EpochProgress(epoch=0)
        self.history: list[dict[str, Any]] = []
        if checkpoint:
            self._go_on_from(checkpoint)

    def describe(self) -> str:
        """What is trained on what, in a line."""
        p = self.parameters
        return (
            f"{p.train_data}: {len(self.sessions.items):,} clicks in {len(self.sessions):,} sessions on "
            f"{len(self.index):,} items, {self.n_next_clicks:,} next clicks to train on; "
            f"{self._what_is_evaluated()}; device: {self.device}"
        )

    @property
    def sample(self) -> str:
        """What to say behind figures that are not of all sessions of the validation file; else nothing."""
        return of_sample(self.valid_sessions, self.data.valid_sessions) if self.valid_sessions else ""

    def _what_is_evaluated(self) -> str:
        if not self.valid_sessions:
            return "nothing to evaluate"
        return f"{self.parameters.valid_data}: {self.valid_sessions.n_next_clicks:,} to evaluate{self.sample}"

    @property
    def columns(self) -> list[str]:
        """The columns of the run's history."""
        p = self.parameters
        return metrics_columns(p.k_eval if self.valid_sessions else (), p.metrics, p.eval_sessions)

    def is_evaluated(self, epoch: int) -> bool:
        """Whether an epoch is evaluated when it ends."""
        p, n_ended = self.parameters, epoch + 1 - self.first_epoch
        return self.valid_sessions is not None and (n_ended % p.eval_every == 0 or epoch == p.n_epochs - 1)

    def train_epoch(self, keeper: Keeper | None = None, bar: tqdm | None = None) -> None:
        """Train to the end of the epoch of ``progress``; nothing is saved but by the keeper.

        Raises:
            Diverged: a step's loss is NaN or infinite.
        """
        train_epoch(
            self.model,
            self.optimizer,
            self.loss_function,
            self.feed,
            self.progress,
            keeper,
            bar,
            self.step,
        )

    @memory_for(EVALUATING)
    def evaluate(self, model: GRU4Rec | None = None) -> Metrics:
        """The metrics that are asked for, on the validation sessions, of the run's model or of another one.

        Raises:
            FloatingPointError: a weight is NaN or infinite.
        """
        p = self.parameters
        return evaluate(
            model or self.model,
            self.valid_sessions,
            p.k_eval,
            p.tie_breaking,
            metrics=p.metrics,
            support=self.support,
            bonus=p.remind,
        )

    def checkpoint(self, epoch: int, within_epoch: EpochProgress | None) -> dict[str, Any]:
        """All of :data:`runs.runfolder.CONTENT` but the version."""
        return {
            "parameters": vars(self.parameters),
            "item_ids": self.index.state(),
            "support": self.support,
            "checksums": self.data.checksums,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": epoch,
            "within_epoch": asdict(within_epoch) if within_epoch else None,
            "history": self.history,
            "random_state": random_state(self.device),
            "grown_from": self.grown_from,
        }

    def _read_data(self, checkpoint: dict[str, Any] | None) -> TrainingData:
        """What the parameters' files hold; a model that has grown knows more items than are clicked in them."""
        p = self.parameters
        known = items_of(checkpoint, p.load_model) if self.grown_from else None
        return TrainingData.read(p.data_folder, p.train_data, p.valid_data, p.time_sort, known=known)

    def _refuse_impossible_sizes(self) -> None:
        p = self.parameters
        if p.batch_size > len(self.sessions):
            raise UserError(
                f"--batch_size {p.batch_size} is more than the {len(self.sessions):,} sessions of {p.train_data}"
            )
        if self.valid_sessions:
            refuse_large_cutoffs(p.k_eval, len(self.index))

    def _restored_model(self, checkpoint: dict[str, Any]) -> GRU4Rec:
        p = self.parameters
        model, index = restored(checkpoint, p, p.load_model)
        same_items = np.array_equal(index.ids, self.index.ids) and torch.equal(checkpoint["support"], self.support)
        ours, theirs = self.data.checksums, checkpoint.get("checksums", self.data.checksums)
        if not same_items or theirs.get("train") != ours["train"]:
            raise self._other_clicks("trained", p.train_data, "name its file with --data_folder and --train_data")
        if theirs.get("valid") != ours["valid"]:
            raise self._other_clicks("evaluated", p.valid_data, "name the folder of its files with --data_folder")
        if "checksums" not in checkpoint:
            warn(
                f"{p.load_model} is of an earlier version, which noted of its clicks the items alone: make sure that "
                f"the sessions of {p.train_data} and {p.valid_data} are those that it knew"
            )
        return model

    def _other_clicks(self, what: str, name: str, what_to_do: str) -> UserError:
        """The error of a checkpoint that was trained, or evaluated, on other clicks than a file has."""
        p = self.parameters
        file = name if name == NO_FILE else data_file(p.data_folder, name)
        if p.resume:
            what_to_do = "put these back, or start anew in another --checkpoint_dir"
        else:
            what_to_do += ", go on with others by --grow, or start anew without --load_model"
        return UserError(f"{p.load_model} was {what} on other clicks than those of {file}: {what_to_do}")

    def _warn_of_clicks_left_out(self) -> None:
        n_all = self.sessions.n_next_clicks
        n_left_out = n_all - self.n_next_clicks
        if n_left_out > SMALL_SHARE * n_all:
            warn(
                f"{n_left_out:,} of {n_all:,} next clicks are not trained on: when they come, one session is left, and "
                "none beside it to give it negatives; --n_sample 1, or more, trains on all of them"
            )

    def _go_on_from(self, checkpoint: dict[str, Any]) -> None:
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.history = checkpoint["history"]
            if any(list(row) != self.columns for row in self.history):
                raise ValueError("its history has other columns")
            if checkpoint["within_epoch"] is None:
                self.progress = EpochProgress(checkpoint["epoch"] + 1)
            else:
                self.progress = EpochProgress(**checkpoint["within_epoch"])
                if self.progress.epoch != checkpoint["epoch"] or self.progress.step < 0:
                    raise ValueError("it is nowhere within its epoch")
                states = self.progress.hidden
                if isinstance(states, Tensor):  # of a version before --bptt
                    states = [states]
                if len(states) != self.parameters.bptt:
                    raise ValueError(f"it has {len(states)} hidden states for --bptt {self.parameters.bptt}")
                self.progress.hidden = [
                    self.model.initial_hidden(self.parameters.batch_size).copy_(state) for state in states
                ]
            set_random_state(checkpoint["random_state"], self.device)
        except (ValueError, KeyError, AttributeError, TypeError, RuntimeError, OverflowError) as error:
            raise misfit(self.parameters.load_model, error) from error
