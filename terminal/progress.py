"""How far work has come and how long it takes: a bar in a terminal or a notebook, a line a minute in a log file."""

import sys
import warnings

from tqdm import TqdmExperimentalWarning, TqdmWarning

with warnings.catch_warnings():  # it warns that it is experimental, and in a notebook that lacks ipywidgets
    warnings.simplefilter("ignore", TqdmExperimentalWarning)
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.autonotebook import tqdm


def next_click_bar(what: str, n_clicks: int, n_done: int) -> tqdm:
    """A bar over next clicks; it vanishes when it is closed. A log file has nothing of it before the first minute."""
    someone_watches = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=n_clicks,
        initial=n_done,
        desc=what,
        unit=" next clicks",
        unit_scale=True,
        mininterval=1 if someone_watches else 60,
        delay=0 if someone_watches else 60,
        leave=False,
    )


def about(seconds: float) -> str:
    """A time in words that promise no more than an estimate can keep: about 40 s, about 12 min, about 2.5 h."""
    if seconds < 99:
        return f"about {seconds:.0f} s"
    if seconds < 99 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
