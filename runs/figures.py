"""The figures that tables show: at which cutoff, and how several runs become one of them."""

import statistics

K = 20  # of Recall@K and MRR@K, as in all published tables


def spread(values: list[float]) -> str:
    """The mean of some runs, with their standard deviation where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean
