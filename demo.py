"""From nothing to a trained model in two minutes: synthetic clicks, preprocessing, training, evaluation.

Runs the very commands that a user types, shows them, and sets the result beside what recommending the most popular
items gives on the same file.
"""

from errors import UserError, run_script

# isort: split
import subprocess
import sys
from pathlib import Path

from baselines import Popularity
from dataset import ItemIndex, encode_sessions, read_session_clicks
from flags import FlagParser
from preprocessing import TEST, TRAIN_FULL

FOLDER = Path("data/demo")
SETTING = (
    "--loss_type CrossEntropy --constrained_embedding --hidden_size 100 --batch_size 32 --dropout_hidden 0.2 --lr 0.1 "
    "--momentum 0.2 --n_sample 512 --sample_alpha 0.5 --logq 1 --n_epochs 4"
)
HERE = Path(__file__).parent


def run(script: str, *flags: object, capture: bool = False) -> str:
    """Show and run a script.

    Returns:
        With ``capture``, what it printed; otherwise that goes to the screen as it comes.

    Raises:
        UserError: the script failed; it has said why.
    """
    print(f"\n$ python {script} {' '.join(map(str, flags))}", flush=True)
    command = [sys.executable, str(HERE / script), *map(str, flags)]
    process = subprocess.run(command, stdout=subprocess.PIPE if capture else None, text=True)
    if process.returncode != 0:
        raise UserError(f"the demo stopped at {script}, which ended with exit code {process.returncode}")
    return process.stdout or ""


def main() -> None:
    FlagParser(description=__doc__).parse_args()
    clicks, runs = FOLDER / "clicks.dat", FOLDER / "checkpoint"
    run("synthetic.py", "--output", clicks)
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
