"""Where the trials of a search are kept: an SQLite file, a journal on a disk that machines share, a database server.

Any number of processes, on any number of machines, may search in one study: it is all that they share.
"""

import os
import platform
import re
import time
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from terminal.atomicfile import make_folder
from terminal.errors import UserError

try:
    import optuna
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage
    from optuna.storages._heartbeat import BaseHeartbeat  # the only way to say that a storage has one
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy import Connection, event, make_url  # Optuna's way to databases
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool
except ImportError:
    optuna, BaseStorage, JournalStorage, BaseHeartbeat = None, object, object, object

STUDY_NAME = "GRU4Rec"
MADE_BY = "made_by"  # the attribute of a study that names the process
JOURNAL = ".journal"  # how the name of a journal ends
HEARTBEAT_SECONDS = 15  # of a running trial
GRACE_SECONDS = 4 * HEARTBEAT_SECONDS  # one that is silent for so long has lost its process
PATIENCE_SECONDS = 30  # with a process that has made a study and not yet told it what it is made with
# What SQLAlchemy takes where a server's address names no driver, and the package that has it.
DRIVERS = {"postgresql": ("postgresql+psycopg2", "psycopg2-binary"), "mysql": ("mysql+pymysql", "PyMySQL")}
ADDRESSES = f"a file, a file that ends in {JOURNAL}, or an address such as postgresql://user:password@host/database"


class Journal(JournalStorage, BaseHeartbeat):
    """Optuna's journal, with the heartbeat that only its databases have: when a running trial was last heard of."""

    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(optuna.exceptions.UpdateFinishedTrialError):  # it has just ended, or was taken for dead
            self.set_trial_system_attr(trial_id, "heartbeat", time.time())

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        running = self.get_all_trials(study_id, deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        silent_since = time.time() - GRACE_SECONDS
        heard = {
            trial._trial_id: trial.system_attrs.get("heartbeat", trial.datetime_start.timestamp()) for trial in running
        }
        return [trial_id for trial_id, seconds in heard.items() if seconds < silent_since]

    def get_heartbeat_interval(self) -> int:
        return HEARTBEAT_SECONDS

    def get_heartbeat_stale_trial_callback(self) -> None:
        return None

    get_failed_trial_callback = get_heartbeat_stale_trial_callback  # its older name


def shown_study(address: str | Path) -> str:
    """A study's address without its password."""
    return re.sub(r"://([^:@/]*):[^@/]*@", r"://\1:***@", str(address))


def process_name() -> str:
    """What tells this process from all others that share a study."""
    return f"{platform.node()} {os.getpid()}"


def made_with(study: "optuna.Study") -> dict[str, str] | None:
    """What a study was told that it is made with, see :func:`tune.begin_or_go_on`; None for us to tell it.

    That is for the process that made the study, unless it dies before; the others wait for it.
    """
    for _ in range(PATIENCE_SECONDS):
        attributes = study.user_attrs
        if "made_with" in attributes or attributes.get(MADE_BY) == process_name():
            break
        time.sleep(1)
    return attributes.get("made_with")


def is_url(address: str | Path) -> bool:
    """Whether it is the address of a database, and not of a file."""
    return "://" in str(address)


def is_for_several(address: str | Path) -> bool:
    """Whether it is kept where other machines may search in it, too."""
    return str(address).endswith(JOURNAL) or (is_url(address) and not str(address).startswith("sqlite"))


@lru_cache(maxsize=1)
def open_study(address: str | Path) -> "optuna.Study":
    """The study at an address; a new one where there is none. Opened once per process.

    Raises:
        UserError: there is something else, it cannot be written, or a driver is missing.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
        storage = storage_at(address)
        try:
            study = optuna.create_study(storage=storage, study_name=STUDY_NAME, direction="maximize")
            study.set_user_attr(MADE_BY, process_name())
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=STUDY_NAME)
        return study
    except ImportError as error:
        _, package = DRIVERS[make_url(str(address)).get_backend_name()]
        raise UserError(
            f"{shown_study(address)} needs a driver that is not installed: pip install {package}"
        ) from error
    except Exception as error:  # of SQLAlchemy, or of JSON, which are an affair of Optuna's
        if isinstance(error, UserError):
            raise
        reason = str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
        raise UserError(
            f"{shown_study(address)} is no study, nor can it become one: {reason}; name another with --study"
        ) from error


def storage_at(address: str | Path) -> "BaseStorage":
    """Optuna's storage at an address: :data:`ADDRESSES`.

    Raises:
        UserError: it is none of these.
    """
    if not is_url(address):
        make_folder(Path(address).parent)
        if Path(address).suffix == JOURNAL:
            return Journal(JournalFileBackend(str(address)))
        address = f"sqlite:///{address}"
    url = make_url(address)
    backend = url.get_backend_name()
    if backend == "sqlite":
        return _sqlite(address)
    if backend not in DRIVERS:
        raise UserError(f"--study {shown_study(address)}: expected {ADDRESSES}")
    if "+" not in url.drivername:
        url = url.set(drivername=DRIVERS[backend][0])
    # a connection that the server has closed meanwhile is opened again
    return _database(url.render_as_string(hide_password=False), pool_pre_ping=True)


def _database(url: str, **engine_settings: object) -> "RDBStorage":
    storage_settings = {"heartbeat_interval": HEARTBEAT_SECONDS, "grace_period": GRACE_SECONDS}
    for seconds in (1, 2, 4, None):
        try:
            return RDBStorage(url, engine_kwargs=engine_settings, **storage_settings)
        except DBAPIError as error:
            if seconds is None or "already exists" not in str(error):
                raise
            time.sleep(seconds)  # another process was about to make the tables, too
    raise AssertionError


def _sqlite(url: str) -> "RDBStorage":
    """A file of SQLite, of which every use takes the lock for writing first.

    SQLite knows no lock of a row: two processes that read first would both take the trial that waits.
    """
    # no connection stays open between two uses, and one waits a minute for others to write
    storage = _database(url, poolclass=NullPool, connect_args={"timeout": 60})

    def leave_transactions_to_us(connection: object, record: object) -> None:
        connection.isolation_level = None

    def begin(connection: "Connection") -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(storage.engine, "connect", leave_transactions_to_us)
    event.listen(storage.engine, "begin", begin)
    return storage
