"""Ranks files: every next click of the click file with its rank, by models and baselines; anything else is refused."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_clicks

import main
from baselines.registry import BASELINES
from clicks.clickfile import Clicks, write_click_files
from clicks.itemindex import ItemIndex
from comparison.ranksfile import COLUMNS, RankedClicks, read_ranks, write_ranks
from dataset import encode_sessions
from preprocessing import TRAIN_ONLY, VALID
from recommend import Recommender
from terminal.errors import UserError

N_ITEMS = 12


def random_clicks(seed, n_sessions, n_items=N_ITEMS):
    rng = np.random.default_rng(seed)
    sessions = [list(range(n_items))] + [
        rng.integers(0, n_items, rng.integers(2, 7)).tolist() for _ in range(n_sessions)
    ]
    return make_clicks(sessions, rng.permutation(5000)[: len(sessions)].tolist())


def as_text(clicks):
    """The same clicks with ids that are text, and look like numbers."""
    session_names = pa.array([f"0{s}" for s in range(clicks.session.max() + 1)], pa.large_string())
    item_names = pa.array([f"{i:03d}" for i in range(clicks.item.max() + 1)], pa.large_string())
    return Clicks(clicks.session, clicks.item, clicks.time, session_names, item_names)


@pytest.fixture(scope="module", params=["integers", "text"])
def run_folder(request, tmp_path_factory):
    """A run with its data, on ids that are integers or text; an item and a session that training never saw."""
    folder = tmp_path_factory.mktemp("ranks")
    convert = as_text if request.param == "text" else lambda clicks: clicks
    valid = random_clicks(1, 40, N_ITEMS + 1)
    write_click_files({folder / TRAIN_ONLY: convert(random_clicks(0, 60)), folder / VALID: convert(valid)})
    line = f"--data_folder {folder} --hidden_size 4 --batch_size 8 --n_epochs 1 --device cpu --k_eval 3 --remind 0.1"
    assert main.run(main.parse_flags(f"{line} --checkpoint_dir {folder}".split())) == 0
    return folder


def test_a_row_per_next_click_whose_rank_is_that_of_the_recommender(run_folder, tmp_path, capsys):
    (model,) = run_folder.glob("*/model_00000.pt")
    path = tmp_path / "ranks.parquet"
    capsys.readouterr()
    flags = {"is_eval": True, "load_model": str(model), "ranks": str(path), "k_eval": [1, 3], "metrics": ["recall"]}
    main.run(flags | {"tie_breaking": "conservative"})
    printed = capsys.readouterr().out
    frame = pd.read_parquet(path)
    assert tuple(frame.columns) == COLUMNS
    for k in (1, 3):
        assert f"Recall@{k}: {(frame.Rank <= k).mean():.6f}\n" in printed

    clicks = pd.read_csv(run_folder / VALID, dtype={"SessionID": str, "ItemID": str})
    support = pd.read_csv(run_folder / TRAIN_ONLY, dtype={"ItemID": str}).ItemID.value_counts()
    clicks = clicks[clicks.ItemID.isin(support.index)].sort_values(["SessionID", "Time"], kind="stable")
    recommender = Recommender.load(model, "cpu")
    expected = {}
    for session, items in clicks.groupby("SessionID").ItemID:
        items = items.tolist()
        for position in range(1, len(items)):
            item, target = items[position - 1 : position + 1]
            best = [str(each) for each, _ in recommender.recommend(items[:position], k=N_ITEMS)]
            expected[session, position] = (item, target, 1 + best.index(target), support[target])
    found = {
        (str(row.SessionID), row.Position): (str(row.ItemID), str(row.TargetID), row.Rank, row.Support)
        for row in frame.itertuples()
    }
    assert found == expected
    assert frame.Rank.dtype == np.int64
    first_clicks = clicks.groupby("SessionID").Time.min().loc[frame.SessionID.astype(str).unique()]
    assert first_clicks.is_monotonic_increasing

    ranked = read_ranks(path)
    assert (ranked.n_items, ranked.tie_breaking, ranked.name, ranked.seed) == (N_ITEMS, "conservative", None, 22)
    write_ranks(tmp_path / "again.parquet", ranked)
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()
    is_text = '"' in (run_folder / VALID).read_text().partition("\n")[2]
    assert ranked.session.dtype == ranked.target.dtype == (object if is_text else np.int64)


def test_ranks_are_only_written_where_something_ranks(run_folder):
    with pytest.raises(UserError, match="--ranks needs --is_eval"):
        main.run({"ranks": "x.parquet", "data_folder": str(run_folder)})
    (model,) = run_folder.glob("*/model_00000.pt")
    with pytest.raises(UserError, match=r"cannot write nowhere.x\.parquet"):
        main.run({"is_eval": True, "load_model": str(model), "ranks": "nowhere/x.parquet"})


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_rank_session_by_session_too(name):
    clicks, test = random_clicks(0, 60), random_clicks(1, 300)
    index = ItemIndex.of(clicks)
    train, _ = encode_sessions(clicks, index, with_times=True)
    sessions, _ = encode_sessions(test, index, with_times=True, with_ids=True)
    baseline = BASELINES[name](train, len(index))
    ranks = baseline.ranks(sessions)["median"]
    ranked = RankedClicks.of(ranks, sessions, index, train.support(len(index)), tie_breaking="median")
    baseline = BASELINES[name](train, len(index))
    one_by_one = []
    for s in range(len(sessions)):
        one_by_one += baseline.ranks(sessions.select(np.array([s])))["median"].tolist()
    assert ranked.rank.tolist() == one_by_one
    assert np.array_equal(np.unique(ranked.session), np.unique(test.session))


def small_table(**changes):
    columns = {
        "SessionID": [7, 7, 9],
        "Position": [1, 2, 1],
        "ItemID": [1, 2, 5],
        "TargetID": [2, 3, 6],
        "Rank": [1.0, 4.5, 2.0],
        "Support": [3, 1, 1],
    }
    return pa.table({name: values for name, values in (columns | changes).items() if values is not None})


def test_a_file_of_others_is_read_if_it_has_the_columns(tmp_path):
    small_table(Rank=[1.0, 4.5, np.inf]).to_pandas().to_parquet(tmp_path / "x.parquet")
    ranked = read_ranks(tmp_path / "x.parquet")
    assert ranked.rank.tolist() == [1.0, 4.5, np.inf]
    write_ranks(tmp_path / "again.parquet", ranked)
    assert read_ranks(tmp_path / "again.parquet").rank.tolist() == [1.0, 4.5, np.inf]
    assert (ranked.name, ranked.seed, ranked.n_items, ranked.tie_breaking) == (None,) * 4
    frame = small_table(SessionID=["a", "a", "b"]).to_pandas().astype({"SessionID": "category", "Position": "int32"})
    frame.to_parquet(tmp_path / "y.parquet")
    assert read_ranks(tmp_path / "y.parquet").session.tolist() == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rank": None, "Support": None}, "it lacks the columns Rank, Support"),
        ({"Rank": [1.0, None, 2.0]}, "its column Rank has empty values"),
        ({"Rank": [1.0, 0.5, 2.0]}, "row 2: its rank is none"),
        ({"Rank": [1.0, -np.inf, 2.0]}, "row 2: its rank is none"),
        ({"Rank": [1.0, 2.0, float("nan")]}, "row 3: its rank is none"),
        ({"Rank": ["1", "2", "3"]}, "its column Rank is of the type"),
        ({"Support": [1, 1, -1]}, "row 3: its support is negative"),
        ({"Support": [1, 1, 0.5]}, "its column Support is of the type double"),
        ({"ItemID": [1.0, 2.0, 5.0]}, "its column ItemID is of the type double"),
        ({"ItemID": ["1", "2", "5"]}, "its ItemID are integers and its TargetID text"),
        ({"SessionID": np.array([7, 7, 2**63], dtype=np.uint64)}, "9223372036854775808"),
        ({"Position": [1, 3, 1]}, "row 2: its position does not follow"),
        ({"Position": [0, 1, 1]}, "row 1: its position does not follow"),
        ({"Position": [1, 2, 2]}, "row 3: its position does not follow"),
        ({"SessionID": [7, 9, 7], "Position": [1, 1, 1]}, "row 3: its session stands in two places"),
        ({"ItemID": [1, 8, 5]}, "row 2: its item is not the target of the row before"),
        (dict.fromkeys(COLUMNS, pa.array([], pa.int64())), "it holds no next clicks"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, changes, reason):
    pq.write_table(small_table(**changes), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=rf"x\.parquet is no ranks file.*{reason}"):
        read_ranks(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"[]", "not of version 1"),
        (json.dumps({"version": 2}).encode(), "not of version 1"),
        (json.dumps({"version": 1, "seed": "x", "name": 3}).encode(), "unknown or unusable seed, name"),
        (json.dumps({"version": 1, "checksums": "x"}).encode(), "unknown or unusable checksums"),
        (json.dumps({"version": 1, "checksum": "x"}).encode(), "its checksum is wrong, so it is damaged"),
        (json.dumps({"version": 1, "n_items": 4}).encode(), "row 2: its rank is none"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path, metadata, reason):
    pq.write_table(small_table().replace_schema_metadata({b"ranks": metadata}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=reason):
        read_ranks(tmp_path / "x.parquet")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read .*nowhere"):
        read_ranks(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_ranks(tmp_path)
    (tmp_path / "x.csv").write_text("SessionID,Rank\n")
    with pytest.raises(UserError, match=r"x\.csv is no Parquet file"):
        read_ranks(tmp_path / "x.csv")
