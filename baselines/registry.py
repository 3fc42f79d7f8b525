"""The baselines by the names of their rows in a table."""

from baselines.baseline import Baseline
from baselines.published import BPRMF, ItemKNN, MarkovChain, Popularity, SessionPopularity

BASELINES: dict[str, type[Baseline]] = {
    "POP": Popularity,
    "S-POP": SessionPopularity,
    "Item-KNN": ItemKNN,
    "BPR-MF": BPRMF,
    "Markov chain": MarkovChain,
}
