"""A trained model as an ONNX graph with its ids beside it, for programs without Python or PyTorch."""

import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model import score
from serving.recommender import Recommender
from terminal.atomicfile import write_together
from terminal.errors import UserError, warn

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

INPUTS, OUTPUTS = ("click", "state"), ("new_state", "items", "scores")
MOST_BYTES = 2**31 - 2**20  # of a file in Protocol Buffers, some of it for all but the weights
NOT_INSTALLED = "writing ONNX takes the package onnxscript, which is not installed: pip install onnxscript"


class NextClick(nn.Module):
    """One click of several sessions, and what is recommended after it.

    Args:
        recommender: whose model and selection of items it has.
        k: how many items.

    Raises:
        ValueError: there are not so many items.
    """

    def __init__(self, recommender: Recommender, k: int):
        super().__init__()
        self.selection = recommender.ranking.selection
        self.model, self.k = recommender.model, k
        if not 1 <= k <= len(self.selection.bias):
            raise ValueError(f"k is {k}, expected 1 to {len(self.selection.bias)}, the number of items")

    def forward(self, click: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feed a click to every session.

        Args:
            click: ``[b]`` int64 item indices; below 0 for an unknown item, which leaves the session as it is.
            state: ``[L, b, H]`` the hidden states, zeros where a session begins.

        Returns:
            The next hidden states ``[L, b, H]``, and ``[b, k]`` item indices int64 and scores, best first.
        """
        known = click >= 0
        fed = self.model.feed(click.clamp(min=0), state, torch.zeros_like(known))
        state = torch.where(known[:, None], fed, state)
        selection = self.selection
        # A parameter is in the file once, however often it is used; what shares its memory would be there again.
        rows = self.model.output_embedding if selection.items is None else selection.output_rows
        scores, columns = score(state[-1], rows, selection.bias).topk(self.k, dim=1)
        return state, columns if selection.items is None else selection.items[columns], scores


def ids_path(path: Path) -> Path:
    """Where the ids of an ONNX file's items are: ``model.items.txt`` beside ``model.onnx``."""
    return path.with_suffix(".items.txt")


def write_onnx(recommender: Recommender, path: Path, k: int = 20) -> None:
    """Write a model as ONNX, and the ids of its items, one a line in the order of their indices; both or neither.

    The graph is :class:`NextClick`, for any number of sessions at once. Its metadata say what the ids are
    (``item_ids``: integer or text), how many (``n_items``), the SHA-256 of their file (``items_sha256``), the sizes
    (``num_layers``, ``hidden_size``, ``k``), and the bonus of reminders (``remind``), which the graph does not add: it
    knows of a session's clicks no more than the state.

    Args:
        recommender: on the CPU.
        path: of the ONNX file; see :func:`ids_path` for the other one.
        k: how many items the graph recommends.

    Raises:
        UserError: onnxscript is not installed, the weights do not fit into an ONNX file, or one cannot be written.
        ValueError: there are not k items.
    """
    if importlib.util.find_spec("onnxscript") is None:  # which torch.onnx imports
        raise UserError(NOT_INSTALLED)
    model, ids = recommender.model, recommender.index.ids
    if (n_bytes := sum(weight.nbytes for weight in model.parameters())) > MOST_BYTES:
        raise UserError(f"{path}: the model's weights take {n_bytes / 1e9:.1f} GB, and an ONNX file holds 2.1 GB")
    items = "".join(f"{item}\n" for item in ids).encode()
    if recommender.ranking.bonus:
        warn(f"{path} recommends without the bonus of --remind {recommender.ranking.bonus:g}, unlike recommend.py")
    program = _graph(recommender, k)
    for node in program.model.graph.all_nodes():  # where in which file on this machine each comes from
        node.metadata_props.clear()
    program.model.metadata_props.update(
        item_ids="text" if recommender.index.is_text else "integer",
        n_items=str(len(ids)),
        items_sha256=hashlib.sha256(items).hexdigest(),
        num_layers=str(model.num_layers),
        hidden_size=str(model.hidden_size),
        k=str(k),
        remind=str(recommender.ranking.bonus),
    )
    with write_together() as open_file:
        with open_file(ids_path(path)) as file:
            file.write(items)
        with open_file(path) as file:
            file.write(program.model_proto.SerializeToString())


def _graph(recommender: Recommender, k: int) -> "ONNXProgram":
    n_sessions = torch.export.Dim("batch", max=2**31 - 1)  # PyTorch 2.6 fails without a maximum
    example = torch.zeros(2, dtype=torch.int64), recommender.model.initial_hidden(2)  # two: one would be taken as fixed
    with _without_remarks():
        # Not left to torch.onnx.export: where this fails, that tries other ways, and 2.6 fixes the batch at two.
        program = torch.export.export(
            NextClick(recommender, k).eval(),
            example,
            dynamic_shapes=({0: n_sessions}, {1: n_sessions}),
            strict=False,
        )
        return torch.onnx.export(program, dynamo=True, input_names=INPUTS, output_names=OUTPUTS, verbose=False)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """PyTorch says what it would export with packages that nobody asked for, and what is old in its own code."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
