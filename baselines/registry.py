"""The baselines by the names of their rows in a table, and rows that give one other settings than its own."""

from collections.abc import Mapping

from baselines.baseline import Baseline
from baselines.neighbours import STAN, VSKNN, VSTAN
from baselines.published import BPRMF, ItemKNN, MarkovChain, Popularity, SessionPopularity
from baselines.rules import SequentialRules

OF_THE_PAPER: dict[str, type[Baseline]] = {
    "POP": Popularity,
    "S-POP": SessionPopularity,
    "Item-KNN": ItemKNN,
    "BPR-MF": BPRMF,
    "Markov chain": MarkovChain,
}
RIVALS: dict[str, type[Baseline]] = {
    "SR": SequentialRules,
    "VS-KNN": VSKNN,
    "STAN": STAN,
    "V-STAN": VSTAN,
}
BASELINES = OF_THE_PAPER | RIVALS
