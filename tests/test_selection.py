"""Candidates, exclusions, the popular fallback, similar items, item vectors: against scores of all items, by hand."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import recommend
from clicks.itemindex import ItemIndex
from model import GRU4Rec
from recommend import Recommender
from serving.itemvectors import write_item_vectors
from serving.selection import COPIED_UP_TO, Selection, read_ids
from terminal.errors import UserError

N_ITEMS = 40
IDS = np.arange(1000, 1000 + N_ITEMS)


def make_recommender(ids=IDS, seed=0, **mode):
    torch.manual_seed(seed)
    model = GRU4Rec(len(ids), **({"hidden_size": 5, "embedding_dim": 4} | mode))
    torch.nn.init.normal_(model.output_bias)
    return Recommender(model, ItemIndex(ids), np.random.default_rng(seed).permutation(len(ids)) + 1)


def scores_by_hand(recommender, session):
    hidden = recommender.model.initial_hidden(1)
    for place in recommender.index.encode(session).tolist():
        if place >= 0:
            scores, hidden = recommender.model.score_all(torch.tensor([place]), hidden, torch.tensor([False]))
    return dict(zip(recommender.index.ids.tolist(), scores[0].tolist(), strict=True))


def best(scores, allowed, k):
    return sorted(filter(allowed, scores), key=scores.get, reverse=True)[:k]


@pytest.mark.parametrize("ids", [IDS, np.array([f"a {i:03d}" for i in range(N_ITEMS)], dtype=object)])
@pytest.mark.parametrize("mode", [{}, {"constrained_embedding": True}, {"embedding_dim": 0, "num_layers": 2}])
def test_candidates_less_exclusions_are_recommended_as_all_items_would_be(ids, mode):
    recommender = make_recommender(ids, **mode)
    rng = np.random.default_rng(1)
    copied = 0
    for n_candidates in (1, 2, int(COPIED_UP_TO * N_ITEMS), int(COPIED_UP_TO * N_ITEMS) + 1, 25, N_ITEMS):
        session = rng.choice(ids, 4).tolist()
        candidates = {*rng.choice(ids, n_candidates, replace=False).tolist(), "unknown"}
        exclude = rng.choice(ids, 3).tolist()
        scores = scores_by_hand(recommender, session)
        for excluded in ([], exclude):
            if not {*candidates} - {*excluded, "unknown"}:
                continue
            for seen in (False, True):
                left_out = {*excluded, *(session if seen else ())}
                expected = best(scores, lambda item, out=left_out, some=candidates: item in some - out, 7)
                got = recommender.recommend(session, 7, seen, candidates=candidates, exclude=excluded)
                assert [item for item, _ in got] == expected
                assert [s for _, s in got] == pytest.approx([scores[item] for item in expected], abs=1e-6)
            restricted = recommender.among(candidates).among(exclude=excluded)
            assert restricted.recommend(session, 7, True) == got
            copied += restricted.ranking.selection.items is not None
    assert 0 < copied < 11
    assert recommender.recommend(session, 7)[0][0] == best(scores, lambda _: True, 1)[0], "itself it stays"


def test_few_candidates_are_scored_by_themselves():
    recommender = make_recommender()
    few = recommender.among(IDS[5:8]).ranking.selection
    assert len(few.output_rows) == 3
    many = recommender.among(exclude=IDS[5:8]).ranking.selection
    assert many.output_rows.data_ptr() == recommender.model.output_embedding.data_ptr(), "no copy of the table"
    assert not Selection.of(recommender.model, many.allowed).allowed[5:8].any()


def test_nothing_that_may_be_recommended_is_refused():
    for restriction in ({"candidates": [1, 2]}, {"candidates": []}, {"exclude": IDS}):
        with pytest.raises(ValueError, match="no item that the model knows may be recommended"):
            make_recommender().recommend([1003], **restriction)


def test_popular_items_where_nothing_is_known_and_this_is_asked_for():
    recommender = make_recommender()
    support = dict(zip(IDS.tolist(), recommender.ranking.support.tolist(), strict=True))
    expected = [(item, support[item]) for item in best(support, lambda _: True, 6)]
    assert recommender.recommend([5, 6], 6, fallback="popular") == expected
    assert recommender.recommend([], 6, fallback="popular") == expected
    gone = expected[0][0]
    assert recommender.recommend([], 5, exclude=[gone], fallback="popular") == expected[1:]
    assert recommender.recommend([], 5, candidates=[gone], fallback="popular") == expected[:1]
    assert recommender.recommend([1003, 5], 6, fallback="popular") == recommender.recommend([1003], 6)
    for arguments, message in (({}, "knows none"), ({"fallback": "pop"}, "expected 'popular'")):
        with pytest.raises(ValueError, match=message):
            recommender.recommend([5], **arguments)
    with pytest.raises(ValueError, match="has no items"):
        recommender.recommend_batch([np.array([3]), np.array([], dtype=np.int32)], 3)
    with pytest.raises(ValueError, match="need the support"):
        Recommender(recommender.model, recommender.index).recommend([], fallback="popular")


def test_a_file_says_whose_recommendations_it_has(tmp_path, monkeypatch, capsys):
    recommender = make_recommender()
    rng = np.random.default_rng(2)
    sessions = {s: rng.choice([1, 2, *IDS[:9]], rng.integers(1, 4)).tolist() for s in range(60)}
    lines = [f"{s},{item}" for s, items in sessions.items() for item in items]
    (tmp_path / "s.csv").write_text("SessionID,ItemID\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(recommend, "rows_at_once", lambda *_: 7)
    recommender = recommender.among(exclude=[1005])
    for fallback in (None, "popular"):
        recommend.write_recommendations(recommender, tmp_path / "s.csv", tmp_path / "r.csv", 3, True, fallback)
        header, *rows = (tmp_path / "r.csv").read_text().splitlines()
        assert header.replace('"', "") == "SessionID,ItemID,Rank,Score" + (",By" if fallback else "")
        got = [row.replace('"', "").split(",") for row in rows]
        expected = []
        for session, items in sessions.items():
            knows = any(item in IDS for item in items)
            if knows or fallback:
                for rank, (item, score) in enumerate(recommender.recommend(items, 3, True, fallback=fallback), 1):
                    expected.append((session, item, rank, score, "model" if knows else "popular"))
        assert [(int(s), int(i), int(r), *by) for s, i, r, _, *by in got] == [
            (s, i, r, *([by] if fallback else [])) for s, i, r, _, by in expected
        ]
        assert [float(row[3]) for row in got] == pytest.approx([row[3] for row in expected], abs=1e-5)
    n_unknown = sum(not any(item in IDS for item in items) for items in sessions.values())
    assert n_unknown > 1
    said = capsys.readouterr().err
    assert f"{n_unknown} sessions have no item that the model knows, and get no recommendations" in said
    assert f"{n_unknown} sessions have no item that the model knows, and get popular items" in said


@pytest.mark.parametrize("candidates", [None, IDS[3:9], IDS[3:35]])
def test_similar_items_have_the_largest_cosine(candidates):
    recommender = make_recommender(constrained_embedding=True).among(candidates)
    vectors = recommender.model.output_embedding.detach().numpy().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = dict(zip(IDS.tolist(), (vectors @ vectors[4]).tolist(), strict=True))
    expected = best(cosines, lambda item: item != 1004 and (candidates is None or item in candidates), 10)
    got = recommender.similar(1004, 10)
    assert [item for item, _ in got] == expected
    assert [s for _, s in got] == pytest.approx([cosines[item] for item in expected], abs=1e-6)
    assert recommender.similar("1004", 10) == got
    with pytest.raises(ValueError, match="does not know the item 7"):
        recommender.similar(7)


def test_an_item_without_a_direction_is_like_none():
    recommender = make_recommender()
    recommender.model.output_embedding.data[2] = 0
    assert dict(recommender.similar(1009, N_ITEMS))[1002] == 0
    assert {s for _, s in recommender.similar(1002, N_ITEMS)} == {0}


@pytest.mark.parametrize("ids", [IDS, np.array([f"ä,{i}" for i in range(N_ITEMS)], dtype=object)])
@pytest.mark.parametrize("name", ["items.parquet", "items.npz"])
def test_a_nearest_neighbour_index_of_the_item_vectors_gives_the_models_lists(tmp_path, ids, name):
    recommender = make_recommender(ids, num_layers=2)
    assert write_item_vectors(recommender.among(exclude=ids[:3]), tmp_path / name) == N_ITEMS - 3
    if name.endswith(".npz"):
        items = np.load(tmp_path / name)
        item_ids, vectors, biases = items["ItemID"], items["Vector"], items["Bias"]
    else:
        table = pq.read_table(tmp_path / name)
        item_ids, biases = (table[column].to_numpy() for column in ("ItemID", "Bias"))
        vectors = np.array(table["Vector"].to_pylist(), dtype=np.float32)
    assert vectors.shape == (N_ITEMS - 3, 5)
    index = np.column_stack((vectors, biases))  # as the page has it
    session = recommender.session()
    for item in ids[[5, 9, 5, 30]]:
        session.click(item)
        inner_products = index @ np.append(session.state[-1], 1)
        found = [str(item_ids[row]) for row in np.argsort(-inner_products)[:10]]
        assert found == [str(item) for item, _ in session.recommend(10, exclude=ids[:3])]


def test_item_vectors_of_another_ending_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.csv, expected \.parquet or \.npz"):
        write_item_vectors(make_recommender(), tmp_path / "items.csv")


def test_files_of_ids(tmp_path, capsys):
    numbers, texts = ItemIndex(IDS), ItemIndex(np.array(["007", "a,b", "x"], dtype=object))
    (tmp_path / "ids").write_text("\ufeffItemID\r\n1003\r\n\r\n 1004\n7")
    assert read_ids(tmp_path / "ids", numbers) == ["1003", "1004", "7"]
    assert "the model does not know 1 of 3 items: 7" in capsys.readouterr().err
    (tmp_path / "ids").write_text("007\na,b\n")
    assert read_ids(tmp_path / "ids", texts) == ["007", "a,b"]
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="line 2: 'a,b' is not an item id, expected an integer"):
        read_ids(tmp_path / "ids", numbers)
    with pytest.raises(UserError, match="cannot read"):
        read_ids(tmp_path / "nothing", numbers)
