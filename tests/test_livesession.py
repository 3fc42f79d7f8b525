"""A session as it happens gets what the whole session would, in every input mode, one by one and side by side."""

import numpy as np
import pytest
import torch

from clicks.itemindex import ItemIndex
from model import GRU4Rec
from recommend import Recommender

N_ITEMS = 30
NUMBERS = np.arange(500, 500 + N_ITEMS)
TEXTS = np.array([f"item {i}" for i in range(N_ITEMS)], dtype=object)
MODES = {
    "one-hot": {"embedding_dim": 0},
    "one-hot, three layers": {"num_layers": 3},
    "separate, after": {"embedding_dim": 4, "num_layers": 2},
    "separate, before": {"embedding_dim": 4, "reset_gate": "before"},
    "shared": {"constrained_embedding": True},
    "shared, two layers": {"constrained_embedding": True, "num_layers": 2, "dropout_hidden": 0.5, "dropout_input": 0.5},
}


def make_recommender(ids=NUMBERS, bonus=0.3, **mode):
    torch.manual_seed(1)
    model = GRU4Rec(N_ITEMS, hidden_size=6, **mode)
    torch.nn.init.normal_(model.output_bias)
    return Recommender(model, ItemIndex(ids), np.arange(N_ITEMS) + 1, bonus)


@pytest.mark.parametrize("ids", [NUMBERS, TEXTS], ids=["numbers", "texts"])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_one_session_gets_what_the_whole_session_gets_to_the_last_bit(ids, mode):
    recommender = make_recommender(ids, **mode)
    rng = np.random.default_rng(0)
    unknown = [7, 8] if ids is NUMBERS else ["None", ""]
    for _ in range(5):
        session, clicked, state = recommender.session(), [], None
        for item in rng.choice([*ids.tolist(), *unknown, *unknown], rng.integers(2, 9)).tolist():
            if rng.random() < 0.5:  # the state goes through a cache
                state = session.state
                session = recommender.session(state, session.clicked)
            clicked.append(item)
            assert session.click(item) == (item in ids)
            if set(clicked) <= set(unknown):
                with pytest.raises(ValueError, match="no item that the model knows"):
                    session.recommend(5)
                assert session.recommend(5, fallback="popular") == recommender.recommend(clicked, 5, fallback="popular")
            else:
                assert session.recommend(5) == recommender.recommend(clicked, 5)
                assert session.recommend(9, exclude=clicked) == recommender.recommend(clicked, 9, exclude_seen=True)
        if state is not None:
            assert state.shape == (mode.get("num_layers", 1), 6)
            assert recommender.session(state).state.tobytes() == state.tobytes()


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_sessions_side_by_side_do_not_touch_each_other(mode):
    recommender = make_recommender(**mode).among(exclude=[503])
    rng = np.random.default_rng(3)
    n = 8
    sessions, clicked = recommender.sessions(n), [[] for _ in range(n)]
    for moment in range(9):
        ids = [None if rng.random() < 0.3 or row == 4 else int(rng.choice([7, *NUMBERS])) for row in range(n)]
        went_on = sessions.click(ids)
        assert went_on.tolist() == [item is not None and item != 7 for item in ids]
        for row, item in enumerate(ids):
            clicked[row] += [] if item is None else [item]
        if moment == 4:
            state, so_far, sessions = sessions.state, sessions.clicked, recommender.sessions(n)
            sessions.state, sessions.clicked = state, so_far
            state[:] = 9  # of no use to anyone
        found, scores = sessions.recommend(6)
        left, _ = sessions.recommend(6, exclude=clicked)
        popular, _ = sessions.recommend(6, fallback="popular")
        for row in range(n):
            if not set(clicked[row]) - {7}:
                assert not np.isfinite(scores[row]).any()
                assert popular[row].tolist() == [529, 528, 527, 526, 525, 524]
                continue
            expected = recommender.recommend(clicked[row], 6)
            assert found[row].tolist() == popular[row].tolist() == [item for item, _ in expected]
            assert scores[row].tolist() == pytest.approx([s for _, s in expected], abs=1e-6)
            assert left[row].tolist() == [item for item, _ in recommender.recommend(clicked[row], 6, exclude_seen=True)]


def test_a_session_is_reminded_of_what_it_clicked_but_the_current_item():
    plain, reminded = make_recommender(bonus=0), make_recommender(bonus=0.8)
    clicked = [503, 503, 510, 7, 505, 510]
    expected = dict(plain.recommend(clicked, N_ITEMS))
    for item in (503, 505):
        expected[item] += 0.8
    assert dict(reminded.recommend(clicked, N_ITEMS)) == pytest.approx(expected)
    few = reminded.among(candidates=[505, 510, 520])
    assert dict(few.recommend(clicked, N_ITEMS)) == pytest.approx({item: expected[item] for item in (505, 510, 520)})


SEVERAL = {
    "list": [503, 7, 504],
    "tuple": (503, "504"),
    "generator": (503, 504),
    "whole floats": [503.0, 504.0],
    "floats": np.array([503.0, 504.0]),
    "small": np.array([503, 504], dtype=np.uint16),
    "tensor": torch.tensor([503, 504]),
    "elements": [np.int64(503), torch.tensor(504)],
    "objects": np.array(["503", 504], dtype=object),
    "broken": ["\udcff", 503, 504],
}


@pytest.mark.parametrize("ids", SEVERAL.values(), ids=SEVERAL)
def test_whatever_has_several_ids_is_a_list_of_them(ids, request):
    lazy = "generator" in request.node.name
    recommender = make_recommender()

    def given():
        return (item for item in ids) if lazy else ids

    expected = recommender.recommend([503, 504])
    assert recommender.recommend(given()) == expected
    assert dict(recommender.recommend([509], candidates=given())).keys() == {503, 504}
    assert not dict(recommender.recommend([509], 30, exclude=given())).keys() & {503, 504}
    session = recommender.session(clicked=given())
    assert session.clicked == [503, 504]
    session.click(509)
    assert len(session.recommend(30, exclude=given())) == 28
    sessions = recommender.sessions(len(list(given())))
    assert sessions.click(given()).sum() == 2
    session = recommender.session()
    for item in ids:
        session.click(item)
    assert session.recommend() == expected
    texts = make_recommender(TEXTS)
    assert texts.recommend(["\udcff", "item 3"]) == texts.recommend(["item 3"])


@pytest.mark.parametrize("lone", ["503", 503, 503.0, np.int64(503), np.array(503), torch.tensor(503), b"503", None])
def test_a_lone_id_is_not_taken_for_a_list(lone):
    recommender = make_recommender()
    session = recommender.session()
    session.click(504)
    refusals = [
        ("items", lambda: recommender.recommend(lone)),
        ("exclude", lambda: session.recommend(5, exclude=lone)),
        ("exclude", lambda: recommender.sessions(1).recommend(5, exclude=[lone])),
        ("clicked", lambda: recommender.session(clicked=lone)),
        ("what is clicked", lambda: recommender.sessions(3).click(lone)),
    ]
    if lone is not None:
        refusals += [
            ("candidates", lambda: recommender.recommend([503], candidates=lone)),
            ("exclude", lambda: recommender.among(exclude=lone)),
        ]
    for what, refused in refusals:
        with pytest.raises(ValueError, match=f"^{what} is .* where a list of ids is expected"):
            refused()
    for lists in ([[503]], np.array([[503]]), [b"503"], [("503",)]):
        with pytest.raises(ValueError, match="in the place of an id"):
            recommender.recommend(lists)
    with pytest.raises(ValueError, match="in the place of an id"):
        session.click([503])


def test_what_does_not_fit_is_refused():
    recommender = make_recommender()
    sessions = recommender.sessions(3)
    with pytest.raises(ValueError, match="2 clicks for 3 sessions"):
        sessions.click([500, 501])
    with pytest.raises(ValueError, match=r"shape is \(1, 2, 6\), expected \(1, 3, 6\)"):
        sessions.state = np.zeros((1, 2, 6))
    with pytest.raises(ValueError, match="NaN or infinite"):
        recommender.session(np.full((1, 6), np.nan))
    with pytest.raises(ValueError, match="clicks of 1 sessions, expected 3"):
        sessions.clicked = [[500]]
    with pytest.raises(ValueError, match="exclude is of 1 sessions, expected 3"):
        sessions.recommend(3, exclude=[[500]])
    with pytest.raises(ValueError, match="expected 1 to 30"):
        sessions.recommend(31)
