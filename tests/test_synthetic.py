"""Synthetic clicks have the structure that they promise."""

import numpy as np
import pytest

from clicks.clickfile import DAY, session_offsets
from clicks.synthetic import synthetic_clicks


@pytest.fixture(scope="module")
def clicks():
    return synthetic_clicks(n_sessions=20_000, n_items=500, n_days=10, seed=1)


def test_lengths_are_yoochooses(clicks):
    lengths = np.diff(session_offsets(clicks.session))
    assert len(lengths) == 20_000
    assert lengths.min() == 2
    assert lengths.mean() == pytest.approx(3.97, rel=0.05)
    assert 20 < lengths.max() <= 200


def test_items_lead_to_items(clicks):
    """The best successor of an item is far likelier than the most popular item is."""
    same_session = clicks.session[1:] == clicks.session[:-1]
    codes = np.unique(clicks.item, return_inverse=True)[1]
    counts = np.zeros((codes.max() + 1,) * 2, dtype=int)
    np.add.at(counts, (codes[:-1][same_session], codes[1:][same_session]), 1)
    predictable = counts.max(axis=1).sum() / counts.sum()
    most_popular = counts.sum(axis=0).max() / counts.sum()
    assert predictable > 4 * most_popular


def test_popularity_drifts(clicks):
    day = (clicks.time - clicks.time.min()) // DAY
    first, last = (np.bincount(clicks.item[day == d] - clicks.item.min(), minlength=501) for d in (0, 9))
    top = np.argsort(first)[::-1][:50]
    assert np.corrcoef(first, last)[0, 1] < 0.9
    assert last[top].sum() < first[top].sum()


def test_times_rise_within_a_session_and_the_seed_decides(clicks):
    same_session = clicks.session[1:] == clicks.session[:-1]
    assert (np.diff(clicks.time)[same_session] > 0).all()
    again = synthetic_clicks(n_sessions=20_000, n_items=500, n_days=10, seed=1)
    other = synthetic_clicks(n_sessions=20_000, n_items=500, n_days=10, seed=2)
    np.testing.assert_array_equal(clicks.item, again.item)
    assert len(other) != len(clicks) or (other.item != clicks.item).any()
