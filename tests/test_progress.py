"""Estimates in words, and how often a bar is drawn where nobody watches."""

import io
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


class Log(io.StringIO):
    def isatty(self):
        return False


def test_a_log_has_nothing_of_the_first_minute(monkeypatch):
    """Not even a bar at 0 %, before each epoch's line."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", log := Log())
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with next_click_bar("epoch 0", 200, 0) as bar:
        bar._time = lambda: now[0]
        for seconds, expected in ((59, 0), (2, 1), (58, 1), (3, 2)):
            now[0] += seconds
            bar.update(50)
            assert log.getvalue().count("epoch 0:") == expected


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
