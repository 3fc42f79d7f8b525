"""Item vectors in a file, for an index of nearest neighbours: ids, rows of the output embedding, biases."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from serving.recommender import Recommender
from terminal.atomicfile import atomic_write
from terminal.errors import UserError

COLUMNS = ("ItemID", "Vector", "Bias")


def write_item_vectors(recommender: Recommender, path: Path) -> int:
    """Write the items that may be recommended, whole or not at all; how many these are.

    The score of an item after a session is the inner product of the session's hidden state (the top layer's) with the
    item's vector, plus the item's bias.

    Args:
        path: ending in ``.parquet``: columns ItemID, Vector (a list of H float32), Bias; in ``.npz``: arrays of these
            names, ``[C]``, ``[C, H]``, ``[C]``.

    Raises:
        UserError: the path ends otherwise, or cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"--export_items {path} ends in {path.suffix or 'nothing'}, expected {' or '.join(FORMATS)}")
    model, allowed = recommender.model, np.flatnonzero(recommender.ranking.selection.allowed)
    vectors, biases = (table.detach().cpu().numpy()[allowed] for table in (model.output_embedding, model.output_bias))
    with atomic_write(path) as file:
        FORMATS[path.suffix](file, recommender.index.ids[allowed], vectors, biases)
    return len(allowed)


def _write_parquet(file: BinaryIO, ids: np.ndarray, vectors: np.ndarray, biases: np.ndarray) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pa.parquet.write_table(pa.table(dict(zip(COLUMNS, (pa.array(ids), lists, biases), strict=True))), file)


def _write_npz(file: BinaryIO, ids: np.ndarray, vectors: np.ndarray, biases: np.ndarray) -> None:
    texts_or_integers = ids.astype(str) if ids.dtype == object else ids  # objects would be a pickle
    np.savez(file, **dict(zip(COLUMNS, (texts_or_integers, vectors, biases), strict=True)))


FORMATS: dict[str, Callable[[BinaryIO, np.ndarray, np.ndarray, np.ndarray], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
}
