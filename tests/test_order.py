"""The order of clicks against numpy's, for ids and times of every kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clicks import order, sidebyside
from clicks.order import gathered, order_by_session


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_order_is_that_of_lexsort(data):
    n = data.draw(st.integers(0, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    low, high = data.draw(st.sampled_from([(0, 5), (0, 200), (-3, 3), (0, 2**31 - 1), (2**40, 2**62), (0, 300)]))
    dtype = np.int32 if high < 2**31 and data.draw(st.booleans()) else np.int64
    session = rng.integers(low, high, n).astype(dtype)
    time = rng.integers(0, data.draw(st.sampled_from([1, 4, 10**12])), n)
    if data.draw(st.booleans()):
        time.sort()
    assert np.array_equal(order_by_session(session, time), np.lexsort((time, session)))


@pytest.mark.parametrize("n_at_once", [1, 7, 100])
def test_gathered_is_indexing(monkeypatch, n_at_once):
    monkeypatch.setattr(order, "GATHERED_AT_ONCE", n_at_once)
    column = np.arange(100)[::-1].copy()
    which = np.random.default_rng(0).permutation(100)
    assert np.array_equal(gathered(column, which), column[which])


def test_side_by_side_keeps_the_order_and_hands_on_what_went_wrong():
    assert list(sidebyside.side_by_side(lambda n: n * n, range(50))) == [n * n for n in range(50)]

    def fail_at_ten(n: int) -> int:
        if n == 10:
            raise ValueError(n)
        return n

    results = sidebyside.side_by_side(fail_at_ten, range(50))
    assert [next(results) for _ in range(10)] == list(range(10))
    with pytest.raises(ValueError, match="10"):
        next(results)
