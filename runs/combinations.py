"""Which parameters of ``main.py`` make sense together, and which change nothing beside others."""

from argparse import Namespace
from typing import Any

from runs.kinds import NO_FILE
from terminal.errors import UserError, warn

OF_EVALUATIONS = ("eval_every", "eval_sessions", "k_eval", "metrics", "tie_breaking")
WITH_MOMENTUM = ("Adagrad", "RMSProp", "SGD")
DEFAULT_FINAL_ACT = {
    "TOP1": "tanh",
    "BPR": "tanh",
    "CrossEntropy": "softmax",
    "TOP1-max": "elu-0.5",
    "BPR-max": "elu-0.5",
}


def refuse_contradictions(parameters: Namespace) -> None:
    """Refuse parameters that make no sense together.

    Raises:
        UserError: two contradict each other.
    """
    if parameters.constrained_embedding and parameters.embedding_dim:
        raise UserError(
            "--constrained_embedding shares the output embedding, which has --hidden_size columns: "
            "leave --embedding_dim out"
        )
    is_softmax = parameters.final_act in ("softmax", "softmax_logit")
    if parameters.loss_type == "CrossEntropy" and not is_softmax and parameters.final_act != "linear":
        raise UserError(
            f"--final_act {parameters.final_act} would squash the scores before CrossEntropy's softmax: "
            "leave it out, or use softmax"
        )
    if parameters.loss_type != "CrossEntropy" and is_softmax:
        raise UserError(
            f"--final_act {parameters.final_act} belongs to CrossEntropy; {parameters.loss_type} compares single "
            f"scores: leave it out for {DEFAULT_FINAL_ACT[parameters.loss_type]}"
        )
    if parameters.batch_size == 1 and parameters.n_sample == 0:
        raise UserError("--batch_size 1 without --n_sample has no negatives: raise one of them")
    if parameters.average == 1 or parameters.average > parameters.n_epochs:
        raise UserError(
            f"--average {parameters.average} is no number of epochs from 2 to --n_epochs {parameters.n_epochs}: "
            "--average 0 averages none"
        )
    if parameters.average and parameters.patience:
        raise UserError(
            "--average takes the last of all epochs, which --patience may not come to: let one of them be 0"
        )
    if parameters.patience and parameters.valid_data == NO_FILE:
        raise UserError(
            f"--patience waits for a better MRR, and --valid_data {NO_FILE} gives none: name a file, or --patience 0"
        )
    if parameters.patience and "mrr" not in parameters.metrics:
        raise UserError("--patience waits for a better MRR: add mrr to --metrics")
    if parameters.optimizer_type == "SparseAdam" and parameters.weight_decay:
        raise UserError("SparseAdam has no weight decay: use --optimizer_type Adam, or leave --weight_decay out")


def warn_of_no_effect(parameters: Namespace, flags: dict[str, Any]) -> None:
    """Name those flags that change nothing beside the other parameters."""
    for name, reason in _without_effect(parameters).items():
        if name in flags:
            warn(f"--{name} has no effect {reason}")


def _without_effect(parameters: Namespace) -> dict[str, str]:
    """Parameters that change nothing in this combination, and why."""
    loss, optimizer = parameters.loss_type, parameters.optimizer_type
    reasons = {
        "sample_alpha": (parameters.n_sample == 0, "without --n_sample"),
        "bpreg": (loss != "BPR-max", f"on {loss}, only on BPR-max"),
        "logq": (loss != "CrossEntropy", f"on {loss}, only on CrossEntropy"),
        "momentum": (optimizer not in WITH_MOMENTUM, f"on {optimizer}, only on {', '.join(WITH_MOMENTUM)}"),
        "eps": (optimizer == "SGD", "on SGD"),
    } | dict.fromkeys(OF_EVALUATIONS, (parameters.valid_data == NO_FILE, f"with --valid_data {NO_FILE}"))
    return {name: reason for name, (applies, reason) in reasons.items() if applies}
