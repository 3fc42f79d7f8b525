"""Ranks and metrics against a loop over events, with ties, whatever the batch size."""

import math

import numpy as np
import pytest
import torch
from conftest import make_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import (
    METRICS,
    Metrics,
    evaluate,
    metrics_of_ranks,
    rank_by_every_tie_breaking,
    rank_by_model,
    rank_next_clicks,
    ranks_of_targets,
    tie_breaking_to_report,
)
from model import GRU4Rec


def rank_by_hand(scores: list[float], target: int, tie_breaking: str) -> float:
    others = [score for item, score in enumerate(scores) if item != target]
    better = sum(score > scores[target] for score in others)
    equal = sum(score == scores[target] for score in others)
    return 1 + better + {"standard": 0, "conservative": equal, "median": equal / 2}[tie_breaking]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1)),
    st.randoms(use_true_random=False),
    st.sampled_from(["standard", "conservative", "median"]),
)
def test_ranks_with_ties(rows, random, tie_breaking):
    targets = [random.randrange(len(row)) for row in rows]
    ranks = ranks_of_targets(torch.tensor(rows).float(), torch.tensor(targets), tie_breaking)
    assert ranks.tolist() == [rank_by_hand(row, t, tie_breaking) for row, t in zip(rows, targets, strict=True)]


@pytest.mark.parametrize("tie_breaking", ["standard", "conservative", "median"])
def test_a_target_without_a_score_is_a_miss(tie_breaking):
    none = -torch.inf
    scores = torch.tensor([[none, none, 1.0], [none, none, none], [none, -5.0, none]])
    ranks = ranks_of_targets(scores, torch.tensor([0, 2, 1]), tie_breaking)
    assert ranks.tolist() == [torch.inf, torch.inf, 1]
    assert metrics_of_ranks(ranks, (10**6,)).recall[10**6] == metrics_of_ranks(ranks, (10**6,)).mrr[10**6] == 1 / 3


def test_every_tie_breaking_at_once_is_each_of_them():
    sessions, _ = make_sessions(random_sessions())
    generator = torch.Generator()

    def score_step(step):
        scores = torch.randint(0, 4, (len(step.inputs), 15), generator=generator).double()
        return torch.where(scores == 0, -torch.inf, scores)

    def ranks(of, *tie_breaking):
        generator.manual_seed(0)
        return of(score_step, sessions, *tie_breaking, torch.device("cpu"), 4)

    together = ranks(rank_by_every_tie_breaking)
    assert set(together) == {"standard", "conservative", "median"}
    assert together["standard"].isinf().any()
    for tie_breaking, each in together.items():
        assert torch.equal(each, ranks(rank_next_clicks, tie_breaking))
    assert not torch.equal(together["standard"], together["median"])


@pytest.mark.parametrize(
    ("recalls", "mrrs", "expected"),
    [
        ((0.7, 0.6, 0.5), (0.3, 0.3, 0.3), "median"),
        ((0.5, 0.5, 0.5), (0.3, 0.2995, 0.298), "median"),
        ((0.5, 0.4995, 0.4991), (0.3, 0.2996, 0.2991), "standard"),
    ],
)
def test_where_ties_matter_the_median_is_reported(recalls, mrrs, expected):
    ways = ("standard", "median", "conservative")
    figures = {
        way: Metrics({"recall": {20: recall}, "mrr": {20: mrr}}, 9)
        for way, recall, mrr in zip(ways, recalls, mrrs, strict=True)
    }
    assert tie_breaking_to_report(figures) == expected


def test_unknown_tie_breaking_is_refused():
    with pytest.raises(ValueError, match="conservative"):
        ranks_of_targets(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), "random")


def test_metrics_of_ranks():
    metrics = metrics_of_ranks(torch.tensor([1.0, 2.0, 20.0, 20.5, 400.0]), (1, 20))
    assert metrics.recall == {1: 1 / 5, 20: 3 / 5}
    assert metrics.mrr == {1: pytest.approx(1 / 5), 20: pytest.approx((1 + 1 / 2 + 1 / 20) / 5)}
    assert metrics.n_next_clicks == 5
    assert metrics.line(20) == "Recall@20: 0.600000 MRR@20: 0.310000"


def random_sessions(seed=0, n_sessions=23, n_items=15):
    rng = np.random.default_rng(seed)
    known = [list(range(n_items))]  # a session with every item
    return known + [rng.integers(0, n_items, rng.integers(2, 12)).tolist() for _ in range(n_sessions - 1)]


def ranks_event_by_event(model, sessions, tie_breaking, bonus=0.0):
    """One session at a time, one click at a time, from a zero state; what was clicked before gains a bonus."""
    ranks = []
    for session in sessions:
        hidden = torch.zeros(model.num_layers, 1, model.hidden_size)
        for place, (click, next_click) in enumerate(zip(session[:-1], session[1:], strict=True)):
            scores, hidden = model.score_all(torch.tensor([click]), hidden, torch.tensor([False]))
            for item in set(session[:place]) - {click}:
                scores[0, item] += bonus
            ranks.append(rank_by_hand(scores[0].tolist(), next_click, tie_breaking))
    return np.array(ranks)


@pytest.mark.parametrize("tie_breaking", ["standard", "conservative", "median"])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 23, 100])
def test_evaluation_is_that_of_a_loop_whatever_the_batch_size(batch_size, tie_breaking):
    torch.manual_seed(0)
    model = GRU4Rec(15, hidden_size=4, num_layers=2, dropout_hidden=0.5, final_act="linear")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape) / 2)
        model.output_embedding[3:9] = model.output_embedding[0]  # six items that always tie with item 0
        model.output_bias[3:9] = model.output_bias[0]
    sessions = random_sessions()
    encoded, _ = make_sessions(sessions)
    model.eval()
    ranks = ranks_event_by_event(model, sessions, tie_breaking)
    model.train()
    metrics = evaluate(model, encoded, (1, 3, 15), tie_breaking, batch_size)
    assert metrics.n_next_clicks == len(ranks) == encoded.n_next_clicks
    for k in (1, 3, 15):
        assert metrics.recall[k] == np.mean(ranks <= k)
        assert metrics.mrr[k] == pytest.approx(np.mean(np.where(ranks <= k, 1 / ranks, 0)))
    assert model.training


def random_model(seed=0):
    torch.manual_seed(seed)
    return GRU4Rec(15, hidden_size=4, num_layers=2, final_act="linear", sigma=1.0)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_ranks_are_in_the_order_of_sessions_and_positions(batch_size):
    model, sessions = random_model().eval(), random_sessions(1)
    encoded, _ = make_sessions(sessions)
    ranks = rank_by_model(model, encoded, batch_size=batch_size)
    assert ranks.tolist() == ranks_event_by_event(model, sessions, "standard").tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
def test_reminders_are_those_of_a_loop(batch_size):
    """Clicks that return, also to the current item; lanes that take the next session, and lanes that have died."""
    model, sessions = random_model(3).eval(), random_sessions(3)
    sessions += [[4, 4, 4, 4], [5, 6, 5, 6, 6, 5], [1, 1, 2, 2, 1]]
    encoded, _ = make_sessions(sessions)
    plain = ranks_event_by_event(model, sessions, "standard").tolist()
    for bonus in (0.4, 1.5):
        expected = ranks_event_by_event(model, sessions, "standard", bonus).tolist()
        assert rank_by_model(model, encoded, batch_size=batch_size, bonus=bonus).tolist() == expected != plain
        metrics = evaluate(model, encoded, (3,), batch_size=batch_size, bonus=bonus)
        assert metrics.recall[3] == np.mean(np.array(expected) <= 3)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_all_metrics_are_those_of_a_loop(batch_size):
    """With the definitions of session-rec for what looks at lists: Coverage, and Popularity by the largest support."""
    model, sessions, ks = random_model().eval(), random_sessions(2), (1, 3, 10)
    encoded, index = make_sessions(sessions)
    support = torch.randint(1, 50, (len(index),), generator=torch.Generator().manual_seed(1))
    lists, ranks = [], []
    for session in sessions:
        hidden = torch.zeros(model.num_layers, 1, model.hidden_size)
        for click, next_click in zip(session[:-1], session[1:], strict=True):
            scores, hidden = model.score_all(torch.tensor([click]), hidden, torch.tensor([False]))
            order = sorted(range(15), key=lambda item: -scores[0, item].item())
            lists.append(order)
            ranks.append(1 + order.index(next_click))
    popularity = [n / max(support.tolist()) for n in support.tolist()]
    expected = {
        "recall": {k: sum(rank <= k for rank in ranks) / len(ranks) for k in ks},
        "mrr": {k: sum(1 / rank for rank in ranks if rank <= k) / len(ranks) for k in ks},
        "ndcg": {k: sum(1 / math.log2(1 + rank) for rank in ranks if rank <= k) / len(ranks) for k in ks},
        "coverage": {k: len({item for order in lists for item in order[:k]}) / 15 for k in ks},
        "popularity": {k: np.mean([np.mean([popularity[i] for i in order[:k]]) for order in lists]) for k in ks},
    }
    metrics = evaluate(model, encoded, ks, batch_size=batch_size, metrics=list(METRICS), support=support)
    assert list(metrics.figures) == list(expected)
    for name, by_k in expected.items():
        assert metrics.figures[name] == pytest.approx(by_k)
    few = evaluate(model, encoded, ks, batch_size=batch_size, metrics=["ndcg", "popularity"], support=support)
    assert few.figures == {name: metrics.figures[name] for name in ("ndcg", "popularity")}
    assert few.line(3).startswith("NDCG@3: 0.")


def test_lists_without_support_are_refused():
    with pytest.raises(ValueError, match="coverage need the support"):
        evaluate(random_model(), make_sessions(random_sessions())[0], metrics=["coverage"])


def test_a_broken_model_is_not_called_perfect():
    model = GRU4Rec(15, hidden_size=4)
    with torch.no_grad():
        model.output_bias[3] = float("nan")
    with pytest.raises(FloatingPointError, match="output_bias"):
        evaluate(model, make_sessions(random_sessions())[0])
