"""How far work has come and how long is left: a bar in a terminal or a notebook, a line a minute in a log file."""

import sys
import warnings

from tqdm import TqdmExperimentalWarning, TqdmWarning

with warnings.catch_warnings():  # it warns that it is experimental, and in a notebook that lacks ipywidgets
    warnings.simplefilter("ignore", TqdmExperimentalWarning)
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.autonotebook import tqdm


def next_click_bar(what: str, n_clicks: int, n_done: int) -> tqdm:
    """A bar over next clicks; it vanishes when it is closed."""
    someone_watches = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=n_clicks,
        initial=n_done,
        desc=what,
        unit=" next clicks",
        unit_scale=True,
        mininterval=1 if someone_watches else 60,
        leave=False,
    )
