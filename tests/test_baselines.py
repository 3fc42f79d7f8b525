"""The baselines against loops over sessions written from the paper's definitions."""

import inspect
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import make_sessions

from baselines.published import BPRMF, ItemKNN, MarkovChain, Popularity, SessionPopularity
from baselines.registry import BASELINES, OF_THE_PAPER, fit_row, parse_row, row_of
from dataset import Step

N_ITEMS = 14


def random_sessions(seed, n_sessions=80):
    rng = np.random.default_rng(seed)
    drawn = [rng.zipf(1.6, rng.integers(2, 9)) % N_ITEMS for _ in range(n_sessions)]
    return [list(range(N_ITEMS))] + [session.tolist() for session in drawn]  # the first one knows every item


TRAIN, TEST = random_sessions(0), random_sessions(1, 25)


def support(item):
    return sum(session.count(item) for session in TRAIN)


def n_sessions_with(*items):
    return sum(all(item in session for item in items) for session in TRAIN)


def pop(so_far, item):
    return (support(item),)


def s_pop(so_far, item):
    return so_far.count(item), support(item)


def item_knn(so_far, item):
    current = so_far[-1]
    if item == current:
        return 0, support(item)
    norm = math.sqrt((n_sessions_with(current) + 20) * (n_sessions_with(item) + 20))
    return round(n_sessions_with(current, item) / norm, 12), support(item)


def markov(so_far, item):
    pairs = Counter(pair for session in TRAIN for pair in zip(session[:-1], session[1:], strict=True))
    return pairs[so_far[-1], item], support(item)


def rank_by_hand(score, so_far, target):
    of_target = score(so_far, target)
    return 1 + sum(score(so_far, item) > of_target for item in range(N_ITEMS) if item != target)


@pytest.mark.parametrize(
    ("baseline", "score"),
    [(Popularity, pop), (SessionPopularity, s_pop), (ItemKNN, item_knn), (MarkovChain, markov)],
)
def test_ranks_are_those_of_the_definition(baseline, score):
    train, index = make_sessions(TRAIN)
    test = make_sessions(random_sessions(1, 25))[0]
    assert index.ids.tolist() == list(range(N_ITEMS))
    metrics = baseline(train, N_ITEMS).evaluate(test, (1, 3, 5))
    ranks = np.array(
        [rank_by_hand(score, session[: i + 1], session[i + 1]) for session in TEST for i in range(len(session) - 1)]
    )
    assert metrics.n_next_clicks == len(ranks)
    for k in (1, 3, 5):
        assert metrics.recall[k] == pytest.approx(np.mean(ranks <= k))
        assert metrics.mrr[k] == pytest.approx(np.mean(np.where(ranks <= k, 1 / ranks, 0)))


@pytest.mark.parametrize("name", BASELINES)
def test_a_second_evaluation_is_the_first(name):
    train, test = make_sessions(TRAIN)[0], make_sessions(TEST)[0]
    baseline = BASELINES[name](train, N_ITEMS)
    assert baseline.evaluate(test) == baseline.evaluate(test)


def test_item_knn_keeps_the_nearest_only_and_never_the_item_itself(monkeypatch):
    monkeypatch.setattr(ItemKNN, "n_neighbours", 3)
    monkeypatch.setattr("baselines.published.ITEM_CHUNK", 4)
    knn = ItemKNN(make_sessions(TRAIN)[0], N_ITEMS)
    for item in range(N_ITEMS):
        row = slice(knn.starts[item], knn.starts[item + 1])
        similarity = {other: item_knn([item], other)[0] for other in range(N_ITEMS) if other != item}
        third_nearest = sorted(similarity.values())[-3]
        kept = knn.columns[row].tolist()
        assert len(kept) == 3
        assert all(similarity[other] >= third_nearest for other in kept)
        assert sorted(kept, key=lambda other: similarity[other])[-1] == kept[int(knn.values[row].argmax())]


def one_lane(item, starts):
    return Step(torch.tensor([item]), None, torch.tensor([starts]), slice(None))


def test_bpr_mf_scores_by_the_mean_of_the_sessions_items():
    baseline = BPRMF(make_sessions(TRAIN)[0], N_ITEMS)
    baseline.scores(one_lane(3, starts=True))
    scores = baseline.scores(one_lane(5, starts=False))
    expected = (baseline.factors[3] + baseline.factors[5]) / 2 @ baseline.factors.T
    torch.testing.assert_close(scores[0], expected)


def test_a_step_of_bpr_mf_by_hand(monkeypatch):
    r"""Of :math:`\ln \sigma(u (v_i - v_j))`, upwards: towards the click, away from the negative."""
    sessions, _ = make_sessions([[0, 1], [2, 3]])
    monkeypatch.setattr(BPRMF, "n_factors", 2)
    monkeypatch.setattr(BPRMF, "n_epochs", 1)
    monkeypatch.setattr(BPRMF, "learning_rate", 0.5)
    initial, drawn = {}, {}
    uniform, randint = torch.Tensor.uniform_, torch.randint

    def noted(tensor, *limits, generator):
        initial[len(initial)] = uniform(tensor, *limits, generator=generator).clone()
        return tensor

    def known(n, shape, generator):
        drawn["negatives"] = randint(n, shape, generator=generator)
        return drawn["negatives"]

    monkeypatch.setattr(torch.Tensor, "uniform_", noted)
    monkeypatch.setattr("torch.randint", known)
    monkeypatch.setattr("torch.randperm", lambda n, generator: torch.arange(n))
    factors = BPRMF(sessions, 4, seed=3).factors
    users, items = (initial[place].double().numpy() for place in (0, 1))
    assert (users.shape, items.shape) == ((2, 2), (4, 2))
    expected = items.copy()
    for click, negative in enumerate(drawn["negatives"].tolist()):
        user = users[click // 2]
        step = 0.5 / (1 + math.exp(user @ (items[click] - items[negative])))
        expected[click] += step * user
        expected[negative] -= step * user
    np.testing.assert_allclose(factors.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert np.abs(expected - items).max() > 1e-3


def test_bpr_mf_starts_as_the_authors_code_does():
    """Uniform in ±0.05: no factor beyond, and as wide as that."""
    sessions = make_sessions([[0, 1]] * 300)[0]
    untrained = type("Untrained", (BPRMF,), {"n_epochs": 0})
    factors = untrained(sessions, 2000, seed=1).factors
    assert factors.abs().max() <= 0.05
    assert factors.std().item() == pytest.approx(0.1 / math.sqrt(12), rel=0.01)
    assert torch.equal(factors, untrained(sessions, 2000, seed=1).factors)
    assert not torch.equal(factors, untrained(sessions, 2000, seed=2).factors)


@pytest.mark.parametrize("name", BASELINES)
def test_seeded_baselines_say_so(name):
    assert ("seed" in inspect.signature(BASELINES[name]).parameters) == BASELINES[name].is_seeded == (name == "BPR-MF")


def test_bpr_mf_learns_which_items_go_together(monkeypatch):
    """Two groups of items that never meet in a session: the other group must rank last."""
    monkeypatch.setattr(BPRMF, "learning_rate", 0.2)
    monkeypatch.setattr(BPRMF, "batch_size", 16)
    rng = np.random.default_rng(0)
    sessions = [list(range(14))] + [(rng.integers(0, 7, 5) + 7 * (s % 2)).tolist() for s in range(600)]
    baseline = BPRMF(make_sessions(sessions)[0], N_ITEMS)
    for item in range(N_ITEMS):
        scores = baseline.scores(one_lane(item, starts=True))[0]
        same_group = torch.arange(N_ITEMS) // 7 == item // 7
        assert scores[same_group].min() > scores[~same_group].max()


@pytest.mark.parametrize(
    ("text", "name", "settings", "row"),
    [
        ("VS-KNN", "VS-KNN", {}, "VS-KNN"),
        ("VS-KNN  sample=2000   k=200", "VS-KNN", {"sample": 2000, "k": 200}, "VS-KNN k=200 sample=2000"),
        ("VS-KNN k=100 sample=10000000", "VS-KNN", {"k": 100, "sample": 10**7}, "VS-KNN sample=10000000"),
        ("V-STAN lambda_snh=2e1 lambda_idf=0", "V-STAN", {"lambda_snh": 20.0, "lambda_idf": 0}, "V-STAN lambda_idf=0"),
        (" Markov   chain", "Markov chain", {}, "Markov chain"),
    ],
)
def test_a_row_names_settings_in_one_way(text, name, settings, row):
    assert parse_row(text) == (name, settings)
    assert row_of(name, settings) == row
    assert row_of(*parse_row(row)) == row


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("VS-KN", "'VS-KN' is no baseline (did you mean VS-KNN?)"),
        ("k=3 VS-KNN", "'' is no baseline"),
        ("VS-KNN kk=3", "kk=3: VS-KNN takes k, sample"),
        ("STAN lambda_spv=3", "(did you mean lambda_spw?)"),
        ("POP k=3", "k=3: POP takes no settings"),
        ("SR rules=0", "rules=0: '0' is not a whole number from 1"),
        ("SR rules=2.5", "rules=2.5: '2.5' is not a whole number"),
        ("STAN lambda_spw=0", "lambda_spw=0: '0' is not a number above 0"),
        ("STAN lambda_spw=", "lambda_spw=: '' is not a number above 0"),
        ("STAN k=3 k=4", "k=4: k has a value already"),
        ("STAN k=3 four", "four: STAN takes k, sample"),
    ],
)
def test_a_mistake_in_a_row_is_named(row, problem):
    with pytest.raises(ValueError, match="^.*" + re.escape(problem)):
        parse_row(row)


def test_a_row_is_fitted_with_its_settings_and_the_defaults():
    train = make_sessions(TRAIN)[0]
    stan = fit_row("STAN k=7 lambda_spw=3", train, N_ITEMS)
    assert vars(stan.p) == {"k": 7, "sample": 10_000, "lambda_spw": 3.0, "lambda_snh": 20.0, "lambda_inh": 0.5}
    assert all(not baseline.settings for baseline in OF_THE_PAPER.values())
