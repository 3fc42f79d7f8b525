"""The public data sets by name: the flags of preprocessing.py that read a log and give it its protocol, where the log
is, and the figures that were published on it.

[1] Hidasi et al., ICLR 2016; [2] Hidasi & Karatzoglou, CIKM 2018; [3] Hidasi & Czapp, RecSys 2023, whose authors have a
script for each data set but the first; the figures of their best settings are in the repository of their PyTorch code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clicks.prepared import TEST, TRAIN_FULL, Size
from terminal.errors import UserError

LOCAL_PLACES = (Path("data"), Path("data/raw"), Path("data/raw_data"), Path())
KAGGLE_INPUT = Path("/kaggle/input")
PACKED = ("", ".gz", ".zip", ".bz2", ".xz", ".zst")  # what may follow a file's usual name
PUBLISHED = {TRAIN_FULL: Size(31_637_239, 7_966_257, 37_483), TEST: Size(71_222, 15_324, None)}  # [1], "Experiments"


@dataclass(frozen=True)
class DataSet:
    """A row.

    Attributes:
        called: the data set's name where figures were published on it.
        files: the usual names of the log's files, in their order.
        source: where to get them.
        flags: what ``preprocessing.py`` is called with; whatever is not named has its default.
        published: Recall@20 and MRR@20, by the name of a preset or a baseline.
    """

    called: str
    files: tuple[str, ...]
    source: str
    flags: str
    published: dict[str, tuple[float, float]]


_RECSYS_CHALLENGE = "https://www.kaggle.com/datasets/chadgostopp/recsys-challenge-2015"
_AUTHORS_2023 = "--merge_repeats --repeat_filters --split_by beginning --across cut --unknown_items keep"
_USERS = "--session_gap 60"

YOOCHOOSE = "yoochoose"
DATASETS = {
    YOOCHOOSE: DataSet(
        "YooChoose",
        ("yoochoose-clicks.dat",),
        _RECSYS_CHALLENGE,
        "",
        {
            "POP": (0.0050, 0.0012),  # these four: [1], table 1
            "S-POP": (0.2672, 0.1775),
            "Item-KNN": (0.5065, 0.2048),
            "BPR-MF": (0.2574, 0.0618),
            "iclr2016-top1-100": (0.5853, 0.2305),  # these six: [1], tables 2 and 3
            "iclr2016-bpr-100": (0.6069, 0.2407),
            "iclr2016-xe-100": (0.6074, 0.2430),
            "iclr2016-top1-1000": (0.6206, 0.2693),
            "iclr2016-bpr-1000": (0.6322, 0.2467),
            "iclr2016-xe-1000": (0.5777, 0.2153),
            "cikm2018-bprmax": (0.7197, 0.3157),  # these three: [2]
            "cikm2018-bprmax-shared": (0.7261, 0.3124),
            "cikm2018-xe": (0.7180, 0.3087),
            "authors-best": (0.7283, 0.3205),
        },
    ),
    "yoochoose-2023": DataSet(
        "YooChoose without repeated clicks",
        ("yoochoose-clicks.dat", "yoochoose-test.dat"),
        _RECSYS_CHALLENGE,
        f"{_AUTHORS_2023} --order id --whole_seconds --drop_by_line --test_days 1 --last_time latest",
        {"authors-yoochoose": (0.6789, 0.3024)},
    ),
    "retailrocket": DataSet(
        "RetailRocket",
        ("events.csv",),
        "https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset",
        f"--columns visitorid,timestamp,itemid --time_format milliseconds --keep event=view {_USERS} --cut_first "
        f"{_AUTHORS_2023} --order id --test_days 7 --last_time 2015-09-18T03:00",
        {"authors-retailrocket": (0.5186, 0.2175)},
    ),
    "diginetica": DataSet(
        "Diginetica",
        ("train-item-views.csv",),
        "https://competitions.codalab.org/competitions/11161#learn_the_details-data2",
        "--columns sessionId,eventdate+timeframe,itemId --sep ';' --time_format iso --first_date "
        f"{_AUTHORS_2023} --order id --test_days 7 --last_time latest",
        {"authors-diginetica": (0.4995, 0.1542)},
    ),
    "rees46": DataSet(
        "Rees46",
        ("2019-Oct.csv", "2019-Nov.csv"),
        "https://www.kaggle.com/datasets/mkechinov/ecommerce-behavior-data-from-multi-category-store",
        f"--columns user_id,event_time,product_id --time_format iso --keep event_type=view {_USERS} "
        f"{_AUTHORS_2023} --order appearance --whole_seconds --test_days 1 --last_time 2019-12-01",
        {"authors-rees46": (0.5293, 0.2008)},
    ),
    "coveo": DataSet(
        "Coveo",
        ("release_10_23_2020.csv",),
        "https://www.coveo.com/en/ailabs/"
        "shopper-intent-prediction-from-clickstream-e-commerce-data-with-minimal-browsing-information",
        "--columns session_id_hash,server_timestamp_epoch_ms,product_skus_hash --time_format milliseconds "
        f"--keep product_action=detail {_USERS} --cut_first "
        f"{_AUTHORS_2023} --order appearance --test_days 1 --last_time latest",
        {"authors-coveo": (0.3135, 0.1010)},
    ),
}


def equals_published(name: str, size: Size) -> bool:
    """Whether a file holds just as much as [1] reports."""
    published = PUBLISHED.get(name)
    if published is None or (size.clicks, size.sessions) != (published.clicks, published.sessions):
        return False
    return published.items in (None, size.items)


def find_files(dataset: str, kaggle_input: Path = KAGGLE_INPUT) -> list[Path]:
    """The files of a data set's log where the README or Kaggle put them.

    Args:
        dataset: its name.
        kaggle_input: the folder in which Kaggle has the attached data sets, each in a folder of its own.

    Raises:
        UserError: one of them is in none of these places.
    """
    return [_find(name, dataset, kaggle_input) for name in DATASETS[dataset].files]


def _find(usual_name: str, dataset: str, kaggle_input: Path) -> Path:
    places = (Path("data") / dataset, *LOCAL_PLACES)
    for name in (usual_name + packed for packed in PACKED):
        for place in places:
            if (place / name).is_file():
                return place / name
        if found := sorted(kaggle_input.glob(f"**/{name}")):
            return found[0]
    raise UserError(
        f"no {usual_name} in {', '.join(map(str, places))} or {kaggle_input}: download it from "
        f"{DATASETS[dataset].source} into data/ (on Kaggle: attach that data set), or say where it is with --clicks"
    )


def is_usual_name(path: Path, dataset: str) -> bool:
    """Whether a file is called as one of a data set's log."""
    return any(path.name == name + packed for name in DATASETS[dataset].files for packed in PACKED)


def are_its_files(paths: Sequence[Path], dataset: str) -> bool:
    """Whether there are as many files as a data set has, and none of them is called as another one of these."""
    names = DATASETS[dataset].files
    return len(paths) == len(names) and all(
        path.name in [name + packed for packed in PACKED] or not is_usual_name(path, dataset)
        for path, name in zip(paths, names, strict=True)
    )
