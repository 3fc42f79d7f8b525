"""Opening files: whatever a file is compressed with is told by its first bytes, and read as plain ones.

Plain, gzip, bzip2, xz, Zstandard, and zip archives of one file. What else a file may be (an archive of several, UTF-16,
Parquet where text is expected, anything binary) is refused with a sentence that says what it is and what to do.
"""

import bz2
import io
import lzma
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from terminal.errors import UserError, listed

HEAD = 4096  # bytes that tell what a file is
READ_AHEAD = 2**18  # bytes
PARQUET, ZIP = "Parquet", "zip"
ARROWS_OWN = {"gzip": "gzip", "Zstandard": "zstd"}  # what Arrow unpacks, by its name there
_MAGIC = {  # what a file of a kind begins with
    "gzip": rb"\x1f\x8b",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "Zstandard": rb"\x28\xb5\x2f\xfd",
    "xz": rb"\xfd7zXZ\x00",
    ZIP: rb"PK(\x03\x04|\x05\x06)",
    PARQUET: rb"PAR1",
}
_OFFICE = "a document of Excel or Word: save it as CSV in UTF-8"
_UTF16 = "text in UTF-16: save it as UTF-8 (iconv -f utf-16 -t utf-8)"
_BINARY = "neither text nor any file that is read here: is it the right one?"
_FOREIGN = {  # what begins with these bytes is something else: what it is, and what to do
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first (7z x), and name the file that was in it",
    b"Rar!\x1a\x07": "a RAR archive: unpack it first (unrar x), and name the file that was in it",
    b"\x04\x22\x4d\x18": "an LZ4 file: unpack it first (lz4 -d)",
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
    b"\xd0\xcf\x11\xe0": _OFFICE,
    b"SQLite format 3": "a database of SQLite: export its table of clicks as CSV",
    b"ARROW1": "an Arrow file: save its table as Parquet or CSV",
    b"Obj\x01": "an Avro file: save its table as Parquet or CSV",
    b"\x89HDF": "an HDF5 file: save its table as Parquet or CSV",
}
_NO_TEXT = bytes({*range(0x20), 0x7F} - {1, 2, *b"\t\n\v\f\r\x1b"})  # 1 and 2: logs of Hive have them as separators
_BAD_CONTENT = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, pa.ArrowInvalid),
    *(ValueError, LookupError, OverflowError, struct.error),  # zipfile leaves these as they come
)


def open_bytes(path: Path, once: bool = False) -> io.BufferedReader:
    """Open a text file as plain bytes.

    Args:
        path: the file, compressed or not.
        once: nobody opens it a second time, so that it may be a pipe.

    Raises:
        UserError: there is no such file, or it is something else. Reading on raises it, too, where the content of a
            compressed file is damaged or cut off.
    """
    file = None
    try:
        _refuse_what_is_no_file(path, once)
        file = open(path, "rb")  # noqa: SIM115 - the reader that is returned closes it
        return _plain(path, file)
    except BaseException as error:
        if file is not None:
            file.close()
        if isinstance(error, OSError):
            raise _cannot_read(path, error) from error
        raise


def kind_of(path: Path) -> str | None:
    """What a file is by its first bytes: one of ``gzip bzip2 Zstandard xz zip Parquet``, or None: anything else.

    A pipe is not looked into.

    Raises:
        UserError: there is no such file.
    """
    try:
        if not path.is_file():
            _refuse_what_is_no_file(path, once=True)
            return None
        with open(path, "rb") as file:
            return _kind(file.read(HEAD))
    except OSError as error:
        raise _cannot_read(path, error) from error


def arrow_stream(path: Path) -> pa.NativeFile:
    """As :func:`open_bytes`, for Arrow, which then reads and unpacks without Python where it can."""
    kind = kind_of(path)
    open_bytes(path).close()  # refuses what is no text
    if kind is None:
        return pa.OSFile(str(path))
    if kind in ARROWS_OWN:
        return pa.CompressedInputStream(pa.OSFile(str(path)), ARROWS_OWN[kind])
    return pa.PythonFile(open_bytes(path), "r")


def unreadable(path: Path, error: Exception) -> UserError:
    """The refusal of a file whose stream Arrow cannot read on."""
    kind = kind_of(path)
    return _damaged(path, kind) if kind else UserError(f"cannot read {path}: {error}")


def _refuse_what_is_no_file(path: Path, once: bool) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder: name the file in it that has the clicks")
    if not stat.S_ISREG(mode) and not once:
        raise UserError(f"{path} is a pipe or a device, and has to be read more than once: write it to a file first")


def _kind(head: bytes) -> str | None:
    return next((kind for kind, magic in _MAGIC.items() if re.match(magic, head)), None)


def _plain(path: Path, file: io.BufferedReader) -> io.BufferedReader:
    """The plain content of an open file."""
    head, content = _looked_into(file)
    kind = _kind(head)
    if kind == PARQUET:
        raise UserError(f"{path} is a Parquet file, where text is expected")
    if kind is not None:
        packed = _only_member(path, content) if kind == ZIP else _unpacked(kind, content)
        head, content = _looked_into(io.BufferedReader(_Unpacked(path, kind, packed, content), READ_AHEAD))
        if inner := _kind(head):
            raise UserError(f"{path} is a {kind} file with a {inner} file in it: unpack it first")
    if not head:
        raise UserError(f"{path} is empty: it holds no clicks")
    if foreign := _foreign(head):
        raise UserError(f"{path} is {f'a {kind} file with ' if kind else ''}{foreign}")
    return content


def _unpacked(kind: str, packed: io.BufferedReader) -> Any:
    if kind in ("bzip2", "xz"):
        return (bz2 if kind == "bzip2" else lzma).open(packed)
    return pa.CompressedInputStream(pa.PythonFile(packed, "r"), ARROWS_OWN[kind])


def _only_member(path: Path, packed: io.BufferedReader) -> Any:
    """The file in a zip archive.

    Raises:
        UserError: there is none, or several, or it cannot be read.
    """
    unpack = f"unpack it first (unzip {path})"
    if not packed.seekable():
        raise UserError(f"{path} is a pipe with a zip archive in it, which only a file can have: {unpack}")
    try:
        archive = zipfile.ZipFile(packed)
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        if "[Content_Types].xml" in names:
            raise UserError(f"{path} is {_OFFICE}")
        members = [name for name in names if not re.search(r"(^|/)(__MACOSX/|\.)", name)]
        if len(members) != 1:
            found = f"{len(members)} files ({listed(map(ascii, members))})" if members else "no files"
            raise UserError(f"{path} is a zip archive of {found}, not of one: {unpack}, and name the files to read")
        return archive.open(members[0])
    except NotImplementedError as error:
        raise UserError(f"{path} is a zip archive of an uncommon kind: {unpack}") from error
    except RuntimeError as error:
        raise UserError(f"{path} is a zip archive with a password: {unpack}") from error
    except _BAD_CONTENT as error:
        raise _damaged(path, ZIP) from error


class _Unpacked(io.RawIOBase):
    """A stream that is being unpacked; whatever it fails with is a UserError."""

    def __init__(self, path: Path, kind: str, stream: Any, packed: io.BufferedReader):
        self.path, self.kind, self.stream, self.packed = path, kind, stream, packed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            content = self.stream.read(len(buffer))
        except _BAD_CONTENT as error:
            raise _damaged(self.path, self.kind) from error
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.stream.close()
        self.packed.close()
        super().close()


def _looked_into(file: io.BufferedReader) -> tuple[bytes, io.BufferedReader]:
    """The first bytes of an open file, and a reader that begins with them all the same."""
    head = file.read(HEAD)  # waits for a pipe to have so many, or to end
    if file.seekable():
        file.seek(0)
        return head, file
    return head, io.BufferedReader(_Again(head, file), READ_AHEAD)


class _Again(io.RawIOBase):
    """A stream with the bytes that were read from it already."""

    def __init__(self, head: bytes, stream: io.BufferedReader):
        self.head, self.stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        if not self.head:
            return self.stream.readinto(buffer)
        n = min(len(self.head), len(buffer))
        buffer[:n], self.head = self.head[:n], self.head[n:]
        return n

    def close(self) -> None:
        self.stream.close()
        super().close()


def _foreign(head: bytes) -> str | None:
    """What a content that is no text in UTF-8 or the like is, in words, and what to do; None if it may be text."""
    if known := next((words for magic, words in _FOREIGN.items() if head.startswith(magic)), None):
        return known
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first (tar -xf), and name the file that was in it"
    if len(head) >= 8 and any(
        head[odd::2].count(0) > 0.4 * len(head) / 2 > head[1 - odd :: 2].count(0) for odd in (0, 1)
    ):
        return _UTF16
    no_text = len(head) - len(head.translate(None, _NO_TEXT))
    return _BINARY if no_text > max(8, 0.02 * len(head)) else None


def _damaged(path: Path, kind: str) -> UserError:
    return UserError(f"cannot read {path}: it is a {kind} file that is damaged or cut off")


def _cannot_read(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror or error}")
