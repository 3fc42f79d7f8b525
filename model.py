"""The GRU4Rec network: input modes, GRU cell, layers, dropout, scores, final activation.

A training step never reads a whole item table. It asks :meth:`GRU4Rec.look_up` for copies of the rows that take part,
computes scores from those, and leaves it to the optimizer to write the rows back.

Papers: [1] Hidasi et al., ICLR 2016; [2] Hidasi & Karatzoglou, CIKM 2018.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import MiniBatch


class Rows(NamedTuple):
    """Copies of some rows of an item table.

    Attributes:
        table: name of the parameter that they are from.
        index: ``[R]`` int64, which rows.
        values: ``[R, ...]`` their values, with respect to which gradients are taken.
        stand_in: ``[R]`` int64, where rows are there several times: which of these stands for each, and has the
            gradient of all of them; None where each is there once.
    """

    table: str
    index: Tensor
    values: Tensor
    stand_in: Tensor | None = None


class GRUCell(nn.Module):
    r"""The gated recurrent unit of [1], equations (2) to (5), for inputs that are already multiplied by their weights.

    .. math::
        r = \sigma(x_r + h U_r), \quad z = \sigma(x_z + h U_z), \quad
        c = \tanh(x_c + (r \circ h) U_c), \quad h' = (1 - z) \circ h + z \circ c

    ``reset_after=True`` is the variant of cuDNN, with :math:`c = \tanh(x_c + r \circ (h U_c + b_c))`.

    Args:
        hidden_size: H.
        reset_after: apply the reset gate to the product of the hidden state, not to the hidden state.

    Parameters: ``weight`` ``[3H, H]`` and ``bias`` ``[3H]``, gates in the order r, z, c. The bias is added to the
    product of the hidden state; where the input's projection has none (``reset_after=False``), it is the only one.
    """

    def __init__(self, hidden_size: int, reset_after: bool):
        super().__init__()
        self.hidden_size = hidden_size
        self.reset_after = reset_after
        self.weight = nn.Parameter(torch.zeros(3 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(3 * hidden_size))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """``x`` [b, 3H] and ``hidden`` [b, H] to the next hidden state [b, H]."""
        size = self.hidden_size
        x_gates, x_candidate = x.split((2 * size, size), dim=1)
        if self.reset_after:
            h_gates, h_candidate = F.linear(hidden, self.weight, self.bias).split((2 * size, size), dim=1)
            r, z = torch.sigmoid(x_gates + h_gates).chunk(2, dim=1)
            candidate = torch.tanh(x_candidate + r * h_candidate)
        else:
            h_gates = F.linear(hidden, self.weight[: 2 * size], self.bias[: 2 * size])
            r, z = torch.sigmoid(x_gates + h_gates).chunk(2, dim=1)
            candidate = torch.tanh(x_candidate + F.linear(r * hidden, self.weight[2 * size :], self.bias[2 * size :]))
        return torch.lerp(hidden, candidate, z)


class GRU4Rec(nn.Module):
    """Scores of the next item from the clicks of a session ([1], section 3).

    Input modes: *one-hot* (``embedding_dim=0``, the paper's: a row of the input weights is looked up), *separate*
    (``embedding_dim>0``, an embedding of its own) and *shared* (``constrained_embedding``, the output embedding is the
    input embedding, as in [2]).

    Args:
        n_items: number of items, rows of the item tables.
        hidden_size: H, units of every GRU layer.
        num_layers: L, GRU layers on top of each other.
        embedding_dim: size of the separate input embedding; 0 for one-hot input.
        constrained_embedding: use the output embedding as the input embedding.
        dropout_input: probability of dropping a component of the embedding; with one-hot input, a lane's whole input.
        dropout_hidden: probability of dropping a unit of a GRU layer's output, as scored and as carried on.
        reset_gate: "before" (the paper's cell), "after" (cuDNN's), or "auto": before with one-hot input, after behind
            an embedding, where the authors' PyTorch code uses cuDNN's.
        final_act: name of the final activation, see :func:`final_activation`.
        sigma: weights start uniform in ±sigma; -1: in ±sqrt(6 / (rows + columns)) of a gate's matrix; -2: in [0, that].

    Hidden states are ``[L, b, H]``. Item tables (rows are items): ``output_embedding`` [n_items, H], ``output_bias``
    [n_items], and ``input_weight`` [n_items, 3H] or ``input_embedding`` [n_items, E] where the mode has one.
    """

    def __init__(
        self,
        n_items: int,
        hidden_size: int = 100,
        num_layers: int = 1,
        embedding_dim: int = 0,
        constrained_embedding: bool = False,
        dropout_input: float = 0.0,
        dropout_hidden: float = 0.0,
        reset_gate: str = "auto",
        final_act: str = "tanh",
        sigma: float = -1.0,
    ):
        super().__init__()
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.dropout_input, self.dropout_hidden = dropout_input, dropout_hidden
        self.shared = constrained_embedding
        self.one_hot = embedding_dim == 0 and not constrained_embedding
        self.activate = final_activation(final_act)
        self.drop = dropout  # where lanes are dealt to processes, one that draws for all of them

        self.output_embedding = nn.Parameter(torch.empty(n_items, hidden_size))
        self.output_bias = nn.Parameter(torch.empty(n_items))
        if self.one_hot:
            self.input_weight = nn.Parameter(torch.empty(n_items, 3 * hidden_size))
            self.input_table = "input_weight"
        elif self.shared:
            self.input_table = "output_embedding"
        else:
            self.input_embedding = nn.Parameter(torch.empty(n_items, embedding_dim))
            self.input_table = "input_embedding"
        self.table_names = ("output_embedding", "output_bias") + (() if self.shared else (self.input_table,))

        # The cell's own bias is all that [1] has. Behind an embedding the projection has a second one, as in cuDNN's
        # cell; under Adagrad two equal biases learn faster than one, so it is not the same model.
        reset_after = reset_gate == "after" or (reset_gate == "auto" and not self.one_hot)
        self.cells = nn.ModuleList(GRUCell(hidden_size, reset_after) for _ in range(num_layers))
        input_size = hidden_size if self.shared else embedding_dim
        projected = (
            [hidden_size] * (num_layers - 1) if self.one_hot else [input_size] + [hidden_size] * (num_layers - 1)
        )
        self.projections = nn.ModuleList(nn.Linear(size, 3 * hidden_size, bias=reset_after) for size in projected)
        self.reset_parameters(sigma)

    @torch.no_grad()
    def reset_parameters(self, sigma: float) -> None:
        """Draw all weights anew, a gate's matrix at a time; biases are zero."""
        for parameter in self.parameters():
            if parameter.dim() == 1:
                parameter.zero_()
        item_rows = len(self.output_bias)
        _init_uniform(self.output_embedding, item_rows, self.hidden_size, sigma)
        if not self.shared:
            table = getattr(self, self.input_table)
            _init_uniform(table, item_rows, self.hidden_size if self.one_hot else table.shape[1], sigma)
        for layer in [*self.projections, *self.cells]:
            _init_uniform(layer.weight, self.hidden_size, layer.weight.shape[1], sigma)

    def network_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that every step uses whole, by name: all but the item tables."""
        return {name: value for name, value in self.named_parameters() if name not in self.table_names}

    def item_tables(self) -> dict[str, nn.Parameter]:
        """The parameters of which a step uses some rows, by name; their rows are items."""
        return {name: getattr(self, name) for name in self.table_names}

    def check_finite(self) -> None:
        """Make sure that scores mean something.

        Raises:
            FloatingPointError: a weight is NaN or infinite.
        """
        for name, parameter in self.named_parameters():
            if not torch.stack(torch.aminmax(parameter.detach())).isfinite().all():  # needs no copy of the table
                raise FloatingPointError(f"{name} holds NaN or infinite values")

    def initial_hidden(self, n_lanes: int) -> Tensor:
        """The hidden state before the first click of a session: zeros ``[L, n_lanes, H]``."""
        return self.output_bias.new_zeros(self.num_layers, n_lanes, self.hidden_size)

    def look_up(self, batch: MiniBatch) -> list[Rows]:
        """Copies of all table rows of a training step, for :meth:`forward` and then for the optimizer."""
        inputs = batch.input_rows, batch.input_stand_in
        scored = batch.scored_rows, batch.scored_stand_in
        rows = {"output_embedding": inputs if self.shared else scored, "output_bias": scored, self.input_table: inputs}
        return [
            Rows(name, index, getattr(self, name).index_select(0, index), stand_in)
            for name, (index, stand_in) in rows.items()
        ]

    def forward(self, rows: list[Rows], input_place: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of a training step, after the final activation.

        Args:
            rows: what :meth:`look_up` gave.
            input_place: ``[T, b]`` int64, where among the input rows each lane's last T items are, the current last.
            hidden: ``[L, b, H]`` the hidden state that the lanes carried before these.
            starts: ``[T, b]``, true or 1 for items that begin a session: they start from a zero state.

        Returns:
            Scores ``[b, C]`` of the C output rows, and the next hidden state ``[L, b, H]``.
        """
        values = {table: row_values for table, _, row_values, _ in rows}
        input_rows = values[self.input_table].index_select(0, input_place.flatten())
        inputs = self.project(input_rows)  # of all T clicks in one product
        for x, is_first in zip(inputs.split(input_place.shape[1]), starts, strict=True):
            hidden = self.advance(x, hidden, is_first)
        output_rows, bias = values["output_embedding"], values["output_bias"]
        bias = F.pad(bias, (len(output_rows) - len(bias), 0))  # items that are inputs alone come first
        return self.activate(score(hidden[-1], output_rows, bias)), hidden

    def project(self, input_rows: Tensor) -> Tensor:
        """Rows of the input table [n, ...], with dropout in training, to inputs of the first layer's gates [n, 3H]."""
        if self.training:
            # A one-hot vector's only component is dropped or it is not, and the looked-up row with it.
            input_rows = self.drop(input_rows, self.dropout_input, by_row=self.one_hot)
        return input_rows if self.one_hot else self.projections[0](input_rows)

    def advance(self, x: Tensor, hidden: Tensor, starts: Tensor) -> Tensor:
        """Feed a click to every lane: ``x`` [b, 3H] from :meth:`project` to the next hidden state [L, b, H].

        ``starts`` is ``[b]``, true or 1 for lanes that begin a session.
        """
        hidden = hidden.masked_fill(starts[:, None].bool(), 0)
        of_upper_layers = list(self.projections)[0 if self.one_hot else 1 :]
        outputs = []
        for project, cell, state in zip([_identity, *of_upper_layers], self.cells, hidden.unbind(), strict=True):
            x = cell(project(x), state)
            if self.training:
                x = self.drop(x, self.dropout_hidden)
            outputs.append(x)
        return torch.stack(outputs)

    def feed(self, inputs: Tensor, hidden: Tensor, starts: Tensor) -> Tensor:
        """As :meth:`advance`, for item indices ``inputs`` [b], looked up in the whole input table."""
        return self.advance(self.project(getattr(self, self.input_table).index_select(0, inputs)), hidden, starts)

    @torch.no_grad()
    def score_all(self, inputs: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Feed a click to every lane and score every item, for evaluation.

        The scores are those before the final activation. No activation reverses the order of two scores, but a
        saturated one makes them equal, so this order is the finer one.

        Args:
            inputs: ``[b]`` int64 item indices. ``hidden`` and ``starts`` as in :meth:`advance`.

        Returns:
            Scores ``[b, n_items]`` and the next hidden state ``[L, b, H]``.
        """
        hidden = self.feed(inputs, hidden, starts)
        return score(hidden[-1], self.output_embedding, self.output_bias), hidden


def score(hidden: Tensor, output_rows: Tensor, bias: Tensor) -> Tensor:
    """Scores ``[b, C]`` of C items: the product of hidden states [b, H] and output rows [C, H], plus biases [C]."""
    return F.linear(hidden, output_rows, bias)


def remind(scores: Tensor, clicked: Tensor, current: Tensor, bonus: float) -> Tensor:
    """Reminders: the scores of items that a session has clicked gain a bonus, except that of its current item.

    A session that looks at one thing after another tends to come back to one of them, which a score of all sessions
    knows too little of (Jannach, Ludewig & Lerche, Session-based item recommendation in e-commerce: on short-term
    intents, reminders, trends and discounts, UMUAI 2017). No part of the GRU4Rec papers.

    Args:
        scores: ``[b, n_items]``, changed in place.
        clicked: ``[b, n_items]`` bool, true for what each lane's session clicked before.
        current: ``[b]`` int64, the item that it clicked last.
        bonus: what is added; 0 for no reminders.

    Returns:
        ``scores``.
    """
    of_current = scores.gather(1, current[:, None])
    return scores.add_(clicked, alpha=bonus).scatter_(1, current[:, None], of_current)


def dropout(x: Tensor, p: float, by_row: bool = False) -> Tensor:
    """Every component of ``x`` [b, E], or every whole row, is zero with probability ``p``; the others are x / (1 - p).

    On a CPU, the random numbers of ``torch.nn.functional.dropout`` cost four times as much (with 224 units, they were a
    tenth of a training step), and TOP1 learns less with them: see docs/experiments.md, "Dropout's random numbers".
    """
    if p == 0:
        return x
    if x.is_cuda and not by_row:
        return F.dropout(x, p)  # a single kernel
    kept = torch.rand(len(x), 1 if by_row else x.shape[1], device=x.device) >= p
    return torch.where(kept, x / (1 - p), 0)


def final_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of a score that a loss sees.

    ``linear``, ``tanh``, ``relu``, ``elu-A`` and ``leaky-A`` (A > 0: the scale, or slope, below zero) act on every
    score by itself. ``softmax`` and ``softmax_logit`` name the activation of cross-entropy; here both leave the scores
    as they are, because the loss takes the logarithm of the softmax in one stable step.

    Raises:
        ValueError: no such activation.
    """
    plain = {"linear": _identity, "softmax": _identity, "softmax_logit": _identity, "tanh": torch.tanh, "relu": F.relu}
    if name in plain:
        return plain[name]
    if match := re.fullmatch(r"(elu|leaky)-(\d+\.?\d*|\.\d+)", name):
        slope = float(match[2])
        if slope > 0:
            return (lambda scores: F.elu(scores, slope)) if match[1] == "elu" else lambda s: F.leaky_relu(s, slope)
    raise ValueError(
        f"{name!r} is not a final activation: {', '.join(plain)}, elu-A or leaky-A with A > 0, as in elu-0.5"
    )


def _identity(x: Tensor) -> Tensor:
    return x


def _init_uniform(weight: Tensor, rows: int, columns: int, sigma: float) -> None:
    limit = sigma if sigma > 0 else math.sqrt(6 / (rows + columns))
    weight.uniform_(0 if sigma == -2 else -limit, limit)
