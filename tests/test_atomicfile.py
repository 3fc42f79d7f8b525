"""Files appear whole, links stay links, devices and pipes are written to, and what the killed left is cleared away."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from terminal import atomicfile
from terminal.atomicfile import HOST, atomic_write, remove_unfinished
from terminal.errors import UserError

NO_PROCESS = 2**22 + 1  # more than Linux gives
IN_A_PROCESS = "import sys; from pathlib import Path; from terminal.atomicfile import atomic_write\n"


def write(path, content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    link.symlink_to(Path("there", "target"))
    for content in (b"made", b"replaced"):  # at first, the link leads nowhere
        write(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
        assert list(target.parent.iterdir()) == [target]
    with pytest.raises(TypeError):
        write(link, "no bytes")
    assert target.read_bytes() == b"replaced"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="cannot write .*loop"):
        write(tmp_path / "loop")


def test_permissions_stay(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_devices_and_pipes_are_written_to(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe, b"through")
    reader.join(5)
    assert read == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "null").symlink_to("/dev/null")  # only now: where pipes are replaced, a device of root's would be, too
    for path in (Path("/dev/null"), tmp_path / "null"):
        write(path)
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "out"])
@pytest.mark.parametrize("to_a_file", [True, False])
def test_what_the_process_prints_to_gets_both_in_their_order(tmp_path, name, to_a_file):
    program = f"{IN_A_PROCESS}print('before')\nwith atomic_write(Path({name!r})) as file:\n    file.write(b'file\\n')\n"
    command = [sys.executable, "-c", program + "print('after')"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(tmp_path / "out", "wb") as out:
        stdout = out if to_a_file else subprocess.PIPE
        process = subprocess.run(command, stdout=stdout, cwd=tmp_path, env=environment, check=True)
    printed = (tmp_path / "out").read_bytes() if to_a_file else process.stdout
    if to_a_file or name == "/dev/stdout":
        assert printed == b"before\nfile\nafter\n"
    else:
        assert (printed, (tmp_path / "out").read_bytes()) == (b"before\nafter\n", b"file\n")


def leave(folder, name, age=0.0):
    path = folder / name
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_is_removed_of_unfinished_files(tmp_path, monkeypatch):
    """Certainly without a writer: of this host, without a process; of other hosts, old."""
    day = atomicfile.A_DAY
    pid, parent = os.getpid(), os.getppid()
    gone = [
        leave(tmp_path, f".m.pt.{HOST}.{NO_PROCESS}.tmp"),
        leave(tmp_path, f".m.pt.{HOST}.{10**30}.tmp"),
        leave(tmp_path, f".m.pt.{HOST}.{pid}.tmp"),  # of an earlier process of our number, as in a container
        leave(tmp_path, f".m.pt.another-host.{parent}.tmp", age=day + 100),
        leave(tmp_path, f".m.pt.{NO_PROCESS}.tmp", age=day + 100),  # of an earlier version
    ]
    stay = [
        leave(tmp_path, f".m.pt.{HOST}.{parent}.tmp", age=day + 100),
        leave(tmp_path, f".m.pt.another-host.{NO_PROCESS}.tmp", age=day - 100),
        leave(tmp_path, f".m.pt.{NO_PROCESS}.tmp" + "x"),
        leave(tmp_path, f".m.pt.{NO_PROCESS + 1}.tmp", age=day - 100),
        leave(tmp_path, f".other.txt.{HOST}.{NO_PROCESS}.tmp", age=day + 100),
        leave(tmp_path, ".m.pt.tmp", age=day + 100),
        leave(tmp_path, "m.pt", age=day + 100),
    ]
    (tmp_path / f".m.pt.{HOST}.{NO_PROCESS + 2}.tmp").mkdir()
    remove_unfinished(tmp_path, "*.pt")
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)
    remove_unfinished(tmp_path / "nowhere", "*")


def test_a_locked_file_has_a_writer_wherever_that_is(tmp_path, monkeypatch):
    held = threading.Event()
    release = threading.Event()

    def hold():
        with atomic_write(tmp_path / "out") as file:
            file.write(b"whole")
            held.set()
            release.wait(60)

    monkeypatch.setattr(atomicfile, "HOST", "another-host")
    writer = threading.Thread(target=hold)
    writer.start()
    assert held.wait(10)
    (unfinished,) = tmp_path.iterdir()
    os.utime(unfinished, (0, 0))
    for host in ("another-host", HOST):
        monkeypatch.setattr(atomicfile, "HOST", host)
        remove_unfinished(tmp_path, "*")
        assert unfinished.exists()
    release.set()
    writer.join()
    assert (tmp_path / "out").read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_without_locks_everything_stays(tmp_path, monkeypatch):
    path = leave(tmp_path, f".out.{HOST}.{NO_PROCESS}.tmp")

    def fail(*_):
        raise OSError("this disk knows no locks")

    monkeypatch.setattr(atomicfile.fcntl, "flock", fail)
    write(tmp_path / "out")
    monkeypatch.setattr(atomicfile, "fcntl", None)
    write(tmp_path / "out")
    assert path.exists()
    assert (tmp_path / "out").read_bytes() == b"new"


def test_a_killed_writer_leaves_nothing_behind_the_next_one(tmp_path):
    program = (
        f"{IN_A_PROCESS}with atomic_write(Path('a[1].csv')) as file:\n"
        "    file.write(b'half'); file.flush(); print('written', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)
    process.stdout.readline()
    write(tmp_path / "a[1].csv", b"other")
    (left,) = tmp_path.glob(".*.tmp")  # it still writes
    process.kill()
    process.communicate()
    write(tmp_path / "a[2].csv")
    assert left.exists()
    write(tmp_path / "a[1].csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a[1].csv", "a[2].csv"]
