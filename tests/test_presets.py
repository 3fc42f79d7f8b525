"""Every published preset against a table that was copied from the papers and the authors' repository by itself."""

import pytest

from runs.parameters import parse_flags, training_parameters
from runs.presets import PRESETS

# [1], [2] and [W] as in runs/presets.py; [A] is paramfiles/ of the authors' repository. "-": it has no effect there.
PUBLISHED = """
name                   loss         input   units batch drop_in drop_h lr    momentum samples alpha bpreg logq act     recall mrr
iclr2016-top1-100      TOP1         one-hot 100   50    0       0.5    0.01  0        0       -     -     -    tanh    0.5853 0.2305
iclr2016-bpr-100       BPR          one-hot 100   50    0       0.2    0.05  0.2      0       -     -     -    tanh    0.6069 0.2407
iclr2016-xe-100        CrossEntropy one-hot 100   500   0       0      0.01  0        0       -     -     0    softmax 0.6074 0.2430
iclr2016-top1-1000     TOP1         one-hot 1000  50    0       0.5    0.01  0        0       -     -     -    tanh    0.6206 0.2693
iclr2016-bpr-1000      BPR          one-hot 1000  50    0       0.2    0.05  0.2      0       -     -     -    tanh    0.6322 0.2467
iclr2016-xe-1000       CrossEntropy one-hot 1000  500   0       0      0.01  0        0       -     -     0    softmax 0.5777 0.2153
cikm2018-bprmax        BPR-max      one-hot 100   32    0       0      0.2   0.3      2048    0     1     -    elu-0.5 0.7197 0.3157
cikm2018-bprmax-shared BPR-max      shared  100   32    0       0      0.2   0.1      2048    0     0.5   -    elu-0.5 0.7261 0.3124
cikm2018-xe            CrossEntropy one-hot 100   32    0       0.3    0.1   0.7      2048    0     -     0    softmax 0.7180 0.3087
authors-best           CrossEntropy shared  100   32    0       0.4    0.2   0.2      2048    0.5   -     1    softmax 0.7283 0.3205
authors-retailrocket   BPR-max      shared  224   80    0.5     0.05   0.05  0.4      2048    0.4   1.95  -    elu-0.5 0.5186 0.2175
authors-diginetica     BPR-max      shared  512   128   0.5     0.3    0.05  0.15     2048    0.3   0.9   -    elu-1   0.4995 0.1542
authors-rees46         CrossEntropy shared  512   240   0.45    0      0.065 0        2048    0.5   -     1    softmax 0.5293 0.2008
authors-coveo          BPR-max      shared  512   144   0.35    0      0.05  0.4      2048    0.2   1.85  -    elu-1   0.3135 0.1010
authors-yoochoose      CrossEntropy shared  480   48    0       0.2    0.07  0        2048    0.2   -     1    softmax 0.6789 0.3024
rsc15-64               BPR-max      shared  64    32    0.5     0.35   0.095 0.2      2048    0.25  0     -    linear  0.6503 0.3165
"""  # noqa: E501
HEADER, *ROWS = [line.split() for line in PUBLISHED.strip().splitlines()]
FLAG_OF = {
    "units": "hidden_size",
    "batch": "batch_size",
    "drop_in": "dropout_input",
    "drop_h": "dropout_hidden",
    "lr": "lr",
    "momentum": "momentum",
    "samples": "n_sample",
    "alpha": "sample_alpha",
    "bpreg": "bpreg",
    "logq": "logq",
}
THE_SAME_IN_ALL = {
    "num_layers": 1,
    "embedding_dim": 0,
    "reset_gate": "auto",
    "sigma": -1.0,
    "optimizer_type": "Adagrad",
    "weight_decay": 0.0,
    "eps": 1e-6,
    "bptt": 1,
    "time_sort": True,
    "n_epochs": 10,
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_preset_is_what_was_published(row):
    published = dict(zip(HEADER, row, strict=True))
    preset = PRESETS[published["name"]]
    parameters = vars(training_parameters(parse_flags(preset.flags.split())))
    assert (parameters["loss_type"], parameters["final_act"]) == (published["loss"], published["act"])
    assert parameters["constrained_embedding"] == (published["input"] == "shared")
    expected = {flag: float(published[name]) for name, flag in FLAG_OF.items() if published[name] != "-"}
    assert {flag: parameters[flag] for flag in expected} == expected
    assert {flag: parameters[flag] for flag in THE_SAME_IN_ALL} == THE_SAME_IN_ALL
    assert (preset.recall, preset.mrr) == (float(published["recall"]), float(published["mrr"]))


def test_no_published_preset_is_missing_above():
    published = [name for name, preset in PRESETS.items() if preset.source in ("[1]", "[2]", "[A]", "[W]")]
    assert published == [row[0] for row in ROWS]
