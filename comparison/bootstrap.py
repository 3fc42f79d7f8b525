"""The bootstrap over sessions, and what follows from its draws: intervals, p values, Holm's correction.

The clicks of a session are not independent, sessions are as good as that: so a draw takes as many sessions as there
are, with replacement, and all next clicks of each (Efron & Tibshirani, An Introduction to the Bootstrap, 1993). Two
recommenders are resampled by the same draws: what is easy or hard for both of them cancels in their difference.
"""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95  # of all intervals
ROUNDING = 1e-12  # a difference below it is none
NUMBERS_AT_ONCE = 2**21  # in the matrix of how often each session is drawn


def resampled_sums(sums: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    """Sums over the sessions of every draw.

    Args:
        sums: ``[n_sessions, n_columns]`` float64, of the next clicks of each session.
        n_draws: how many draws.
        seed: of the draws; they depend on it and the number of sessions alone.

    Returns:
        ``[n_draws, n_columns]`` float64.
    """
    rng = np.random.default_rng(seed)
    n_sessions = len(sums)
    result = np.empty((n_draws, sums.shape[1]))
    n_at_once = max(1, NUMBERS_AT_ONCE // n_sessions)
    for first in range(0, n_draws, n_at_once):
        draws = result[first : first + n_at_once]
        times_drawn = np.empty((len(draws), n_sessions))
        for row in times_drawn:
            row[:] = np.bincount(rng.integers(n_sessions, size=n_sessions), minlength=n_sessions)
        np.matmul(times_drawn, sums, out=draws)
    return result


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of figures ``[n_draws, …]``: its two ends, ``[…]`` each."""
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    return low, high


def p_value(differences: np.ndarray) -> np.ndarray:
    """How likely differences ``[n_draws, …]`` are none: twice the share of the draws on the rarer side of zero.

    A draw without a difference is on both sides, and one more draw is on the rarer one: no p value is 0 for lack of
    draws. Up to that draw it agrees with :func:`interval`, which has zero at its end where p is 0.05.
    """
    n_draws = len(differences)
    rarer = np.minimum((differences < ROUNDING).sum(axis=0), (differences > -ROUNDING).sum(axis=0))
    return np.minimum(1, 2 * (rarer + 1) / (n_draws + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number: any of them below x by chance is no more likely than x.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none becomes smaller than one before it (Holm, A
    Simple Sequentially Rejective Multiple Test Procedure, 1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected.tolist()
