"""Opening files: what is compressed is read as it was, and what is something else is named in a sentence."""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import tarfile
import threading
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from clicks.opening import kind_of, open_bytes
from terminal.errors import UserError


def zipped(*contents: bytes, name: str = "folder/log.csv", **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for number, content in enumerate(contents):
            archive.writestr(name if number == 0 else f"{number}.csv", content)
    return file.getvalue()


PACKERS = {
    None: bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "Zstandard": lambda content: pa.compress(content, "zstd", asbytes=True),
    "zip": zipped,
}
LINES = "".join(f"{random.Random(0).random()},{n}\n" for n in range(9_000)).encode()


def refusal(path: Path, content: bytes | None = None, once: bool = False) -> str:
    """What reading a file to its end is refused with: one sentence, with its name, that any terminal can show."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught, open_bytes(path, once) as file:
        file.read()
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert message.isascii()
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize("kind", PACKERS)
def test_a_file_is_what_its_content_says(kind, tmp_path):
    for name in ("log", "log.csv", "log.gz", "log.zip"):
        path = tmp_path / name
        path.write_bytes(PACKERS[kind](LINES))
        assert kind_of(path) == kind
        for _ in range(2):
            with open_bytes(path) as file:
                assert file.readline() == LINES[: LINES.index(b"\n") + 1]
                assert file.read(2**16) + file.read() == LINES[LINES.index(b"\n") + 1 :]


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "Zstandard"])
def test_members_of_a_file_follow_each_other(kind, tmp_path):
    (tmp_path / "log").write_bytes(b"".join(PACKERS[kind](part) for part in (LINES[:5], b"", LINES[5:])))
    with open_bytes(tmp_path / "log") as file:
        assert file.read() == LINES


@pytest.mark.parametrize("kind", list(PACKERS)[1:])
def test_what_is_damaged_or_cut_off_is_one_sentence(kind, tmp_path):
    """At any place. Where an archive does not check a byte, what is read is what was there."""
    rng, packed = random.Random(1), PACKERS[kind](LINES[:5000])
    for n_left in (12, 20, len(packed) // 2, len(packed) - 1):
        assert "damaged or cut off" in refusal(tmp_path / "log", packed[:n_left])
    n_refused = 0
    for _ in range(60):
        damaged = bytearray(packed)
        damaged[rng.randrange(10, len(packed))] ^= 1 << rng.randrange(8)
        (tmp_path / "log").write_bytes(damaged)
        message = ""
        try:
            with open_bytes(tmp_path / "log") as file:
                assert file.read() == LINES[:5000] or kind == "Zstandard"
        except UserError as error:
            message = str(error)
        assert re.fullmatch(r"((cannot read )?\S+/log:? (it )?is .*(damaged|unpack).*)?", message)
        n_refused += bool(message)
    assert n_refused > 40 or kind == "Zstandard"


def tarred(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("log.csv"))
    return file.getvalue()


FOREIGN = {
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "FILE is a 7z archive: unpack it first"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(50), "FILE is a RAR archive: unpack it first"),
    "tar": (tarred("w"), r"FILE is a tar archive: unpack it first \(tar -xf\)"),
    "tar.gz": (tarred("w:gz"), "FILE is a gzip file with a tar archive: unpack"),
    "twice": (gzip.compress(zipped(LINES)), "FILE is a gzip file with a zip file in it: unpack it"),
    "utf-16": ("who,when\n1,2\n".encode("utf-16"), r"FILE is text in UTF-16: save it as UTF-8 \(iconv"),
    "utf-16-le": ("who,when\n1,2\n".encode("utf-16-le"), "FILE is text in UTF-16: save it as UTF-8"),
    "utf-16-be in bz2": (bz2.compress("who,when\n1,2\n".encode("utf-16-be")), "FILE is a bzip2 file with text in UTF"),
    "Parquet": (b"PAR1" + bytes(50) + b"PAR1", "FILE is a Parquet file, where text is expected"),
    "Parquet in zip": (zipped(b"PAR1" + bytes(50)), "FILE is a zip file with a Parquet file in it: unpack it"),
    "noise": (random.Random(0).randbytes(5000), "FILE is neither text nor any file that is read here"),
    "zeros": (bytes(5000), "FILE is neither text nor any file that is read here"),
    "two in zip": (zipped(b"a", b"b"), r"zip archive of 2 files \('folder/log.csv', '1.csv'\), not of one: unpack"),
    "none in zip": (zipped(), "FILE is a zip archive of no files"),
    "Excel": (zipped(b"a", name="[Content_Types].xml"), "FILE is a document of Excel or Word: save it as CSV"),
    "empty": (b"", "FILE is empty: it holds no clicks"),
    "empty in gz": (gzip.compress(b""), "FILE is empty: it holds no clicks"),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_text_is_named(content, message, tmp_path):
    assert re.search(message, refusal(tmp_path / "log", content))


def test_a_zip_archive_with_a_password_or_of_an_uncommon_kind_is_named(tmp_path):
    content = bytearray(zipped(LINES))
    directory = content.index(b"PK\x01\x02")
    for flags, method, message in ((1, 8, "with a password: unpack"), (0, 9, "of an uncommon kind: unpack")):
        content[directory + 8], content[directory + 10] = flags, method
        content[6], content[8] = flags, method
        assert message in refusal(tmp_path / "log", bytes(content))


@pytest.mark.parametrize("damage", [{46: 0}, {9: 8, 46: 0xFF}])
def test_a_zip_archive_with_a_damaged_directory_is_named(tmp_path, damage):
    """Where a member's name is none, and where it is not in UTF-8 as it says."""
    content = bytearray(zipped(LINES))
    directory = content.index(b"PK\x01\x02")
    for place, value in damage.items():
        content[directory + place] = value
    assert "a zip file that is damaged or cut off" in refusal(tmp_path / "log", bytes(content))


def test_what_a_mac_adds_to_a_zip_archive_does_not_matter(tmp_path):
    with zipfile.ZipFile(tmp_path / "log", "w") as archive:
        for name in ("log.csv", "__MACOSX/._log.csv", ".DS_Store"):
            archive.writestr(name, name)
    with open_bytes(tmp_path / "log") as file:
        assert file.read() == b"log.csv"


@pytest.mark.parametrize(
    "content", ["ж,é,日本語\n" * 3, "a\x01b\x02c\n" * 900, "\ufeffa,b\n", "x\x00,1,2,3,4,5,6,7,8,9\n"]
)
def test_odd_text_is_text(content, tmp_path):
    (tmp_path / "log").write_text(content)
    with open_bytes(tmp_path / "log") as file:
        assert file.read().decode() == content


def test_what_is_no_file_is_named(tmp_path):
    assert refusal(tmp_path).startswith("FILE is a folder: name the file")
    assert refusal(tmp_path / "nowhere") == "cannot read FILE: No such file or directory"
    assert refusal(tmp_path / ("a" * 300)).startswith("cannot read FILE: ")
    os.mkfifo(tmp_path / "pipe")
    assert "has to be read more than once: write it to a file first" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("kind", PACKERS)
def test_a_pipe_is_read_where_once_is_enough(kind, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    content = PACKERS[kind](LINES)

    def write() -> None:
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            for part in (content[:3], content[3:500], content[500:]):
                try:
                    pipe.write(part)
                except BrokenPipeError:
                    break

    writer = threading.Thread(target=write)
    writer.start()
    if kind == "zip":
        assert "a pipe with a zip archive" in refusal(tmp_path / "pipe", once=True)
    else:
        with open_bytes(tmp_path / "pipe", once=True) as file:
            assert file.read() == LINES
    writer.join()
