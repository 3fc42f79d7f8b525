"""Estimates in words, and how often a bar is drawn where nobody watches."""

import sys

import pytest

from terminal.progress import about, next_click_bar


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "about 0 s"),
        (41.7, "about 42 s"),
        (98.9, "about 99 s"),
        (99, "about 2 min"),
        (5939, "about 99 min"),
        (5940, "about 1.6 h"),
        (200_000, "about 55.6 h"),
    ],
)
def test_estimates_in_words(seconds, words):
    assert about(seconds) == words


def test_a_log_gets_a_line_a_minute_and_a_person_one_a_second(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for watched, seconds in ((False, 60), (True, 1)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched)
        with next_click_bar("epoch 0", 10, 4) as bar:
            assert bar.mininterval == seconds
            assert (bar.total, bar.n) == (10, 4)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with next_click_bar("epoch 0", 10, 4) as bar:
        assert bar.mininterval == 1, "a notebook is watched"
