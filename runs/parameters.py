"""Every parameter of ``main.py``: its flag, meaning, unit and default, and which combinations make sense.

The table below is the one place where they are written down. ``--help``, ``parameter.txt``, the checkpoints and the
README's table follow from it.
"""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluation import DEFAULT_METRICS, METRICS, TIE_BREAKING
from faster.compilation import MODES as COMPILATION_MODES
from lossfunction import LOSSES
from optimizer import OPTIMIZERS
from preprocessing import DATA_FOLDER, TRAIN_ONLY, VALID
from runs.combinations import DEFAULT_FINAL_ACT, WITH_MOMENTUM, refuse_contradictions, warn_of_no_effect
from runs.kinds import (
    BELOW_ONE,
    DEVICE,
    FILE,
    FINAL_ACT,
    FOLDER,
    N_CLICKS,
    NO_FILE,
    SIGMA,
    one_of,
)
from runs.presets import PRESETS
from terminal.errors import UserError, warn
from terminal.flags import COUNT, COUNT_OR_ZERO, NOT_NEGATIVE, POSITIVE, SEED, SWITCH, FlagParser, Kind

RESET_GATES = ("auto", "before", "after")


@dataclass(frozen=True)
class Parameter:
    """A flag: its name, default, meaning, and what its text may be."""

    name: str
    default: Any
    kind: Kind
    help: str
    several: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def shown_default(self) -> str:
        if self.default is None:
            return ""
        return shown(self.default)


P = Parameter
THEMES = {
    "data": (
        P("data_folder", str(DATA_FOLDER), FOLDER, "folder of the prepared click files"),
        P("train_data", TRAIN_ONLY, FILE, "file in it to train on"),
        P("valid_data", VALID, FILE, f"file in it to evaluate on after every epoch; {NO_FILE}: evaluate nothing"),
        P("time_sort", True, SWITCH, "feed the oldest session first; false: in the order of session ids"),
    ),
    "model": (
        P("hidden_size", 100, COUNT, "units of every GRU layer"),
        P("num_layers", 1, COUNT, "GRU layers"),
        P("embedding_dim", 0, COUNT_OR_ZERO, "size of a separate input embedding; 0: one-hot input, as in the paper"),
        P("constrained_embedding", False, SWITCH, "use the output embedding as the input embedding (shared)"),
        P("dropout_input", 0.0, BELOW_ONE, "probability of dropping an input component (one-hot: the whole input)"),
        P("dropout_hidden", 0.5, BELOW_ONE, "probability of dropping a unit of a GRU layer's output"),
        P(
            "reset_gate",
            "auto",
            one_of(RESET_GATES),
            "apply the reset gate before the recurrent product (the paper) or after it (cuDNN); "
            "auto: before with one-hot input, after behind an embedding (as the authors' PyTorch code)",
        ),
        P(
            "final_act",
            None,
            FINAL_ACT,
            "what a loss sees of a score: linear, tanh, relu, elu-A, leaky-A, softmax or softmax_logit "
            "(default: tanh for TOP1 and BPR, softmax for CrossEntropy, elu-0.5 for the -max losses)",
        ),
        P(
            "sigma",
            -1.0,
            SIGMA,
            "initial weights are uniform in ±sigma; -1: in ±sqrt(6 / (rows + columns)); -2: in [0, that]",
            aliases=("-sigma",),
        ),
    ),
    "loss and negative samples": (
        P("loss_type", "TOP1", one_of(LOSSES), f"{', '.join(LOSSES)}"),
        P("n_sample", 0, COUNT_OR_ZERO, "additional negative samples a step, beside the other lanes' targets"),
        P("sample_alpha", 0.75, NOT_NEGATIVE, "samples are drawn by support^alpha: 1 by popularity, 0 uniformly"),
        P("bpreg", 1.0, NOT_NEGATIVE, "weight of BPR-max's score regularization"),
        P("logq", 0.0, NOT_NEGATIVE, "share of the logQ correction of CrossEntropy: 0 none, 1 all of it"),
    ),
    "optimizer": (
        P(
            "optimizer_type",
            "Adagrad",
            one_of(OPTIMIZERS),
            f"{', '.join(OPTIMIZERS)}; item rows are always updated sparsely, so Adam and SparseAdam are the same",
        ),
        P("lr", 0.01, POSITIVE, "learning rate"),
        P("momentum", 0.0, BELOW_ONE, f"momentum of {', '.join(WITH_MOMENTUM)}"),
        P("weight_decay", 0.0, NOT_NEGATIVE, "this times the weight is added to its gradient"),
        P("eps", 1e-6, POSITIVE, "keeps the optimizer from dividing by zero"),
        P(
            "bptt",
            1,
            N_CLICKS,
            "clicks that gradients flow back through in a session; 1: the current one alone, as in the authors' code",
        ),
    ),
    "run": (
        P(
            "preset",
            None,
            one_of(["list", *PRESETS]),
            "all parameters of a published row, except those that other flags name; list: show the rows",
        ),
        P("batch_size", 50, COUNT, "sessions trained side by side (lanes)"),
        P("n_epochs", 10, COUNT, "passes over the training sessions, in all"),
        P("patience", 0, COUNT_OR_ZERO, "end after N epochs without a better MRR@K, K the smallest; 0: never"),
        P("seed", 22, SEED, "of initial weights, dropout and negative samples", aliases=("-seed",)),
        P("checkpoint_dir", "checkpoint", FOLDER, "folder that gets a folder for this run"),
        P(
            "load_model",
            None,
            FILE,
            "checkpoint to go on from, in a new run folder; with --is_eval, the one to evaluate",
        ),
        P(
            "grow",
            False,
            SWITCH,
            "go on from --load_model with other clicks: items that it lacks get rows, and --n_epochs counts passes "
            "over these clicks (if left out: as many as over those before)",
        ),
        P(
            "resume",
            False,
            SWITCH,
            "go on from the newest usable checkpoint of --checkpoint_dir that has these parameters, or start anew",
        ),
        P(
            "save_every",
            0,
            COUNT_OR_ZERO,
            "also save within an epoch, every N steps; 0: about every ten minutes",
        ),
        P("keep_checkpoints", 0, COUNT_OR_ZERO, "keep only the checkpoints of the last N epochs; 0: of all"),
        P(
            "average",
            0,
            COUNT_OR_ZERO,
            "at the end, also write and evaluate the mean of the weights of the last N epochs, model_mean.pt; 0: none",
        ),
        P("tensorboard", False, SWITCH, "also write TensorBoard's event files into the run folder"),
        P(
            "deterministic",
            False,
            SWITCH,
            "on CUDA, repeat to the last bit, at some cost in speed (the CPU always does)",
        ),
        P(
            "compile",
            "auto",
            one_of(COMPILATION_MODES),
            "compile the training step: on, off, or auto (where that saves half a minute); on CUDA, on and auto also "
            "capture it in a CUDA graph",
        ),
        P("device", None, DEVICE, "cpu, cuda or cuda:N (default: cuda where there is one, else cpu)"),
    ),
    "evaluation": (
        P("is_eval", False, SWITCH, "only evaluate --load_model on the validation file"),
        P("eval_every", 1, COUNT, "evaluate after every N epochs, and after the last"),
        P(
            "eval_sessions",
            0,
            COUNT_OR_ZERO,
            "evaluate on a sample of N sessions, the same in every epoch and run; its figures bear its size; 0: on all",
        ),
        P("k_eval", [20], COUNT, "cutoffs K of Recall@K and MRR@K, one or more", several=True),
        P("metrics", list(DEFAULT_METRICS), one_of(METRICS), f"one or more of {', '.join(METRICS)}", several=True),
        P(
            "remind",
            0.0,
            NOT_NEGATIVE,
            "added to the scores of items that the session has clicked, but the current one (reminders); training does "
            "not know of it",
        ),
        P("ranks", None, FILE, "with --is_eval, also write the rank of every next click to this Parquet file"),
        P(
            "tie_breaking",
            "standard",
            one_of(TIE_BREAKING),
            "items that score as high as the target rank below it (standard), above it (conservative), "
            "or half of them (median)",
        ),
    ),
}
PARAMETERS = {parameter.name: parameter for theme in THEMES.values() for parameter in theme}

# What does not make another experiment; what a flag may change when going on from a checkpoint (the clicks must be the
# same, wherever they are); and what an evaluation takes from its flags.
NO_MATTER = (
    "preset",  # the parameters that it sets do
    "n_epochs",
    "patience",
    "checkpoint_dir",
    "load_model",
    "resume",
    "save_every",
    "eval_every",
    "keep_checkpoints",
    "average",
    "tensorboard",
    "compile",
    "device",
    "deterministic",
)
FREE_ON_RESUME = (*NO_MATTER, "data_folder", "train_data")
FREE_ON_EVALUATION = (
    *("data_folder", "valid_data", "load_model", "is_eval", "device"),
    *("eval_sessions", "k_eval", "metrics", "remind", "ranks", "tie_breaking"),
)


def make_parser() -> FlagParser:
    """The parser of ``main.py``: it gives the parameters that a command line names, and no others."""
    parser = FlagParser(
        usage="%(prog)s [--FLAG VALUE ...]",
        description="Train GRU4Rec, evaluate a checkpoint (--is_eval --load_model FILE), "
        "or go on training from one (--load_model FILE; with other clicks: --grow): then parameters that no flag names "
        "are the checkpoint's. On N GPUs by torchrun --nproc_per_node N main.py …, which pays for thousands of lanes "
        "and wide layers alone; a step of 100 units and 32 lanes gains nothing.",
        argument_default=argparse.SUPPRESS,
    )
    for theme, parameters in THEMES.items():
        group = parser.add_argument_group(theme)
        for parameter in parameters:
            shown = f" (default: {parameter.shown_default})" if parameter.shown_default else ""
            options: dict[str, Any] = {"type": parameter.kind, "metavar": parameter.kind.metavar}
            options["help"] = parameter.help + shown
            if parameter.kind is SWITCH:
                options |= {"nargs": "?", "const": True}
            elif parameter.several:
                options |= {"type": _several(parameter.kind), "nargs": "+"}
            group.add_argument(f"--{parameter.name}", *parameter.aliases, **options)
    return parser


def parse_flags(argv: list[str] | None = None) -> dict[str, Any]:
    """The parameters that the command line names, and no others.

    Raises:
        UserError: a flag is unknown, or its value is out of range.
    """
    flags = vars(make_parser().parse_args(argv))
    if "k_eval" in flags:
        flags["k_eval"] = sorted(set().union(*flags["k_eval"]))
    if "metrics" in flags:
        named = set().union(*flags["metrics"])
        flags["metrics"] = [name for name in METRICS if name in named]
    return flags


def _several(kind: Kind) -> Kind:
    """Values of a kind with commas between them, which may stand beside others with spaces between."""
    return replace(kind, parse=lambda text: [kind.parse(each) for each in text.split(",")])


def training_parameters(flags: dict[str, Any]) -> Namespace:
    """Complete the flags of a new training run with the defaults, warn of flags without effect, refuse nonsense.

    Raises:
        UserError: the parameters contradict each other.
    """
    flags = with_preset(flags)
    parameters = Namespace(**{name: parameter.default for name, parameter in PARAMETERS.items()} | flags)
    if parameters.final_act is None:
        parameters.final_act = DEFAULT_FINAL_ACT[parameters.loss_type]
    refuse_contradictions(parameters)
    warn_of_no_effect(parameters, flags)
    return parameters


def with_preset(flags: dict[str, Any]) -> dict[str, Any]:
    """``flags`` with those of the preset that they name, if they do; tells which of these others replace."""
    if "preset" not in flags:
        return flags
    preset = parse_flags(PRESETS[flags["preset"]].flags.split())
    replaced = [name for name in preset if name in flags and flags[name] != preset[name]]
    changes = [f"--{name} {shown(flags[name])} instead of {shown(preset[name])}" for name in replaced]
    print(f"preset {flags['preset']}" + (f", with {', '.join(changes)}" if changes else ""))
    return preset | flags


def resumed_parameters(saved: dict[str, Any], flags: dict[str, Any]) -> Namespace:
    """The parameters of a checkpoint, with those flags that may differ from it.

    Raises:
        UserError: a flag asks for another value than the one that the checkpoint was trained with, or for nonsense.
    """
    for name, value in flags.items():
        if name not in FREE_ON_RESUME and saved[name] != value:
            raise UserError(
                f"--{name} {shown(value)} differs from the checkpoint's {shown(saved[name])}; training goes on with "
                f"the checkpoint's parameters, so leave the flag out, or start anew without --load_model"
            )
    parameters = _overridden(saved, flags, FREE_ON_RESUME)
    refuse_contradictions(parameters)
    return parameters


def same_experiment(saved: dict[str, Any], parameters: Namespace) -> bool:
    """Whether a checkpoint with these saved parameters is of the experiment that the parameters describe."""
    return all(saved[name] == value for name, value in what_matters(parameters).items())


def what_matters(parameters: Namespace) -> dict[str, Any]:
    """Those parameters, by name, that make another experiment."""
    return {name: value for name, value in vars(parameters).items() if name not in NO_MATTER}


def evaluation_parameters(saved: dict[str, Any], flags: dict[str, Any]) -> Namespace:
    """The parameters of a checkpoint, with those flags that an evaluation heeds; a sample must be named anew."""
    for name in flags:
        if name not in FREE_ON_EVALUATION:
            warn(f"--{name} has no effect with --is_eval")
    return _overridden(saved | {"eval_sessions": 0}, flags, FREE_ON_EVALUATION)


def _overridden(saved: dict[str, Any], flags: dict[str, Any], free: Sequence[str]) -> Namespace:
    """Saved parameters with some flags in their place; the device is a matter of this machine."""
    return Namespace(**saved | {"device": None} | {name: flags[name] for name in free if name in flags})


def shown(value: Any) -> str:
    """A parameter's value as a command line has it."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def checked_parameters(saved: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a checkpoint, completed with the defaults of those that are newer than it.

    Raises:
        ValueError: one is unknown, or has a value that no flag could give it.
    """
    if unknown := [str(name) for name in saved if name not in PARAMETERS]:
        raise ValueError(f"its parameters {', '.join(unknown)} are unknown")
    for name, value in saved.items():
        parameter = PARAMETERS[name]
        if value is None and parameter.default is None:
            continue
        single_values = value if parameter.several and isinstance(value, list) and value else [value]
        for single in single_values:
            parsed = parameter.kind.parse(str(single))
            if parsed != single or type(parsed) is not type(single):
                raise ValueError(f"its parameter {name} has a value that no flag can give it")
        if parameter.several and not isinstance(value, list):
            raise ValueError(f"its parameter {name} is no list")
    return {name: parameter.default for name, parameter in PARAMETERS.items()} | saved
