"""Published settings by name: the flags that give them, the data set that they were measured on, and where that stands.

[1] Hidasi et al., ICLR 2016, tables 2 and 3 (the rows of 1000 units have the settings of those of 100); [2] Hidasi &
Karatzoglou, CIKM 2018; [A] the authors' PyTorch code, the best settings in its repository. The figures that were
published stand with the data sets, in :mod:`clicks.datasets`. [W] "Who is the Winner in the Race of New Proposals?",
submitted to RecSys 2025, whose figures are of a part of YooChoose. [ours] is no reproduction but a better model of the
same kind, chosen and measured by this suite (docs/results.md).
"""

from dataclasses import dataclass
from pathlib import Path

from clicks.datasets import DATASETS, YOOCHOOSE
from clicks.prepared import read_record


@dataclass(frozen=True)
class Preset:
    """A published row, or one of ours.

    Attributes:
        flags: what ``main.py`` is called with; whatever is not named has its default.
        recall, mrr: Recall@20 and MRR@20 as published; where they are ours, as this suite measured them.
        dataset: what they were measured on, see :mod:`clicks.datasets`; None for a part of one that has no name there.
        source: see the top of this file.
        part: what such a part is called.
    """

    flags: str
    recall: float
    mrr: float
    dataset: str | None
    source: str
    part: str = ""

    @property
    def data(self) -> str:
        """What the data set is called where the figures were published."""
        return DATASETS[self.dataset].called if self.dataset else self.part


_TOP1 = "--loss_type TOP1 --batch_size 50 --dropout_hidden 0.5 --lr 0.01"
_BPR = "--loss_type BPR --batch_size 50 --dropout_hidden 0.2 --lr 0.05 --momentum 0.2"
_XE = "--loss_type CrossEntropy --batch_size 500 --dropout_hidden 0 --lr 0.01"
_BPR_MAX = (
    "--loss_type BPR-max --hidden_size 100 --batch_size 32 --dropout_hidden 0 --lr 0.2 --n_sample 2048 "
    "--sample_alpha 0 --final_act elu-0.5"
)
_SHARED_XE = "--loss_type CrossEntropy --constrained_embedding --logq 1 --n_sample 2048"
_SHARED_BPR_MAX = "--loss_type BPR-max --constrained_embedding --n_sample 2048"

_RSC15_64 = "rsc15-64, the last 1/64 of YooChoose"

_SETTINGS = {  # flags, data set, source
    "iclr2016-top1-100": (f"{_TOP1} --hidden_size 100", YOOCHOOSE, "[1]"),
    "iclr2016-bpr-100": (f"{_BPR} --hidden_size 100", YOOCHOOSE, "[1]"),
    "iclr2016-xe-100": (f"{_XE} --hidden_size 100", YOOCHOOSE, "[1]"),
    "iclr2016-top1-1000": (f"{_TOP1} --hidden_size 1000", YOOCHOOSE, "[1]"),
    "iclr2016-bpr-1000": (f"{_BPR} --hidden_size 1000", YOOCHOOSE, "[1]"),
    "iclr2016-xe-1000": (f"{_XE} --hidden_size 1000", YOOCHOOSE, "[1]"),
    "cikm2018-bprmax": (f"{_BPR_MAX} --momentum 0.3 --bpreg 1", YOOCHOOSE, "[2]"),
    "cikm2018-bprmax-shared": (f"{_BPR_MAX} --constrained_embedding --momentum 0.1 --bpreg 0.5", YOOCHOOSE, "[2]"),
    "cikm2018-xe": (
        "--loss_type CrossEntropy --hidden_size 100 --batch_size 32 --dropout_hidden 0.3 --lr 0.1 --momentum 0.7 "
        "--n_sample 2048 --sample_alpha 0",
        YOOCHOOSE,
        "[2]",
    ),
    "authors-best": (
        f"{_SHARED_XE} --hidden_size 100 --batch_size 32 --dropout_hidden 0.4 --lr 0.2 --momentum 0.2 "
        "--sample_alpha 0.5",
        YOOCHOOSE,
        "[A]",
    ),
    "authors-retailrocket": (
        f"{_SHARED_BPR_MAX} --hidden_size 224 --batch_size 80 --dropout_input 0.5 --dropout_hidden 0.05 --lr 0.05 "
        "--momentum 0.4 --sample_alpha 0.4 --bpreg 1.95 --final_act elu-0.5",
        "retailrocket",
        "[A]",
    ),
    "authors-diginetica": (
        f"{_SHARED_BPR_MAX} --hidden_size 512 --batch_size 128 --dropout_input 0.5 --dropout_hidden 0.3 --lr 0.05 "
        "--momentum 0.15 --sample_alpha 0.3 --bpreg 0.9 --final_act elu-1",
        "diginetica",
        "[A]",
    ),
    "authors-rees46": (
        f"{_SHARED_XE} --hidden_size 512 --batch_size 240 --dropout_input 0.45 --dropout_hidden 0 --lr 0.065 "
        "--momentum 0 --sample_alpha 0.5",
        "rees46",
        "[A]",
    ),
    "authors-coveo": (
        f"{_SHARED_BPR_MAX} --hidden_size 512 --batch_size 144 --dropout_input 0.35 --dropout_hidden 0 --lr 0.05 "
        "--momentum 0.4 --sample_alpha 0.2 --bpreg 1.85 --final_act elu-1",
        "coveo",
        "[A]",
    ),
    "authors-yoochoose": (
        f"{_SHARED_XE} --hidden_size 480 --batch_size 48 --dropout_input 0 --dropout_hidden 0.2 --lr 0.07 "
        "--momentum 0 --sample_alpha 0.2",
        "yoochoose-2023",
        "[A]",
    ),
}
PRESETS = {
    name: Preset(flags, *DATASETS[dataset].published[name], dataset, source)
    for name, (flags, dataset, source) in _SETTINGS.items()
} | {
    "rsc15-64": Preset(
        f"{_SHARED_BPR_MAX} --hidden_size 64 --batch_size 32 --dropout_input 0.5 --dropout_hidden 0.35 --lr 0.095 "
        "--momentum 0.2 --sample_alpha 0.25 --bpreg 0 --final_act linear",
        0.6503,
        0.3165,
        None,
        "[W]",
        _RSC15_64,
    ),
    "ours-rsc15-64": Preset(
        f"{_SHARED_BPR_MAX} --hidden_size 200 --batch_size 48 --dropout_input 0.5 --dropout_hidden 0.2 --lr 0.05 "
        "--momentum 0.4 --sample_alpha 0.2 --bpreg 1 --final_act elu-0.5 --bptt 8 --average 9 --remind 0.3",
        0.6860,
        0.3255,
        None,
        "[ours]",
        _RSC15_64,
    ),
    "ours-through-time": Preset(
        "--loss_type BPR-max --constrained_embedding --n_sample 16384 --hidden_size 320 --batch_size 48 "
        "--dropout_input 0.5 --dropout_hidden 0.2 --lr 0.05 --momentum 0.4 --sample_alpha 0.2 --bpreg 1 "
        "--final_act elu-0.5 --bptt 8 --n_epochs 8 --average 6",
        0.6053,
        0.2449,
        None,
        "[ours]",
        "80,000 sessions of YooChoose",
    ),
}


def preset_table() -> str:
    """All presets with their published figures, a line each, for a terminal."""
    width = max(map(len, PRESETS))
    lines = [f"{'preset':<{width}}  Recall@20  MRR@20  data, source"]
    lines += [
        f"{name:<{width}}  {preset.recall:9.4f}  {preset.mrr:6.4f}  {preset.data} {preset.source}"
        for name, preset in PRESETS.items()
    ]
    return "\n".join(lines)


def why_figures_differ(preset: str, folder: Path) -> str | None:
    """In a sentence, why the figures published for a preset do not compare with those of a folder's files.

    Returns:
        None if they do, as far as the folder's record can say, or if none were published.

    Raises:
        UserError: the record is damaged.
    """
    dataset, record = PRESETS[preset].dataset, read_record(folder)
    if dataset is None or (record is not None and record.is_of(dataset)):
        return None
    how = "nothing there says how they were made"
    if record is not None:
        changes = f" with {record.changes}" if record.changes else ""
        how = f"they are of --dataset {record.dataset}{changes}" if record.dataset else f"`{record.command}` made them"
    return (
        f"the figures published for {preset} are of the files that preprocessing.py --dataset {dataset} makes; those "
        f"of {folder} may not compare: {how}"
    )
