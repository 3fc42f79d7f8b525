"""From nothing to a trained model in two minutes: synthetic clicks, preprocessing, training, evaluation.

Runs the very commands that a user types, shows them, and sets the result beside what recommending the most popular
items gives on the same file.
"""

from terminal.errors import UserError, run_script

# isort: split
import os
import subprocess
import sys
from pathlib import Path

from baselines.published import Popularity
from clicks.itemindex import ItemIndex
from dataset import encode_sessions, read_session_clicks
from preprocessing import TEST, TRAIN_FULL
from terminal.flags import FlagParser

FOLDER = Path("data/demo")
SETTING = (
    "--loss_type CrossEntropy --constrained_embedding --hidden_size 100 --batch_size 32 --dropout_hidden 0.2 --lr 0.1 "
    "--momentum 0.2 --n_sample 512 --sample_alpha 0.5 --logq 1 --n_epochs 4"
)
ROOT = Path(__file__).parent.parent


def run(what: str, *flags: object, capture: bool = False) -> str:
    """Show and run a script, or a module by ``-m NAME``.

    Returns:
        With ``capture``, what it printed; otherwise that goes to the screen as it comes.

    Raises:
        UserError: the script failed; it has said why.
    """
    print(f"\n$ python {what} {' '.join(map(str, flags))}", flush=True)
    command = what.split() if what.startswith("-m ") else [str(ROOT / what)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.run(
        [sys.executable, *command, *map(str, flags)],
        stdout=subprocess.PIPE if capture else None,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    if process.returncode != 0:
        raise UserError(f"the demo stopped at {what}, which ended with exit code {process.returncode}")
    return process.stdout or ""


def main() -> None:
    FlagParser(__doc__).parse_args()
    clicks, runs = FOLDER / "clicks.dat", FOLDER / "checkpoint"
    run("-m tools.synthetic", "--output", clicks)
    run("preprocessing.py", "--clicks", clicks, "--data_folder", FOLDER)
    data = ("--data_folder", FOLDER, "--train_data", TRAIN_FULL, "--valid_data", TEST)
    run("main.py", *data, *SETTING.split(), "--checkpoint_dir", runs)
    checkpoint = max(runs.glob("*/model_*.pt"), key=lambda path: path.stat().st_mtime_ns)
    measured = run("main.py", "--is_eval", "--load_model", checkpoint, capture=True)
    print(measured, end="")

    clicks = read_session_clicks(FOLDER / TRAIN_FULL)
    index = ItemIndex.of(clicks)
    train, _ = encode_sessions(clicks, index)
    sessions, _ = encode_sessions(read_session_clicks(FOLDER / TEST), index)
    popular = Popularity(train, len(index)).evaluate(sessions)
    print(f"\nOn {sessions.n_next_clicks:,} next clicks of the last day, among {len(index):,} items:")
    print(f"  the most popular items   {popular.line(20)}")
    print(f"  GRU4Rec                  {measured.strip()}")


if __name__ == "__main__":
    run_script(main)
