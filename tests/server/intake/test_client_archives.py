"""Archives of real packers are accepted: GNU tar, bsdtar and the standard library in all its formats."""

from __future__ import annotations

import ctypes
import ctypes.util
import gzip
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.server.intake.archives import header, member, pax, read_archive, tar_gz

LONG = "eine sehr lange Aufnahme mit Umlauten äöü " * 4 + "Schluss"
FILES = {
    "001.wav": b"sound", "001.txt": b"hello", "mit Leerzeichen ä.wav": b"x" * 700, "mit Leerzeichen ä.txt": b"text",
    f"{LONG}.wav": b"y" * 512, f"{LONG}.txt": b"", "train_files.csv": b"uid,file_name,text\n",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, content in {**FILES, ".DS_Store": b"junk", "._001.wav": b"junk"}.items():
        (folder / name).write_bytes(content)
    return folder


def contents(data: bytes, tmp_path: Path) -> dict[str, bytes]:
    job = tmp_path / "job"
    job.mkdir()
    files, verdict = read_archive(data, job)
    assert verdict.issues == []
    return {file.name.base: (job / "raw" / file.stored).read_bytes() for file in files}


@pytest.mark.parametrize("kind", ["gnu", "oldgnu", "pax", "posix"])
def test_tar_program(folder: Path, tmp_path: Path, kind: str) -> None:
    tar = shutil.which("tar")
    if not tar or b"GNU" not in subprocess.run([tar, "--version"], capture_output=True).stdout:
        pytest.skip("needs GNU tar")
    archive = tmp_path / "data.tar.gz"
    subprocess.run([tar, f"--format={kind}", "-czf", archive, "-C", folder, "."], check=True)
    assert contents(archive.read_bytes(), tmp_path) == FILES


@pytest.mark.parametrize("kind", ["v7", "ustar"])
def test_tar_program_with_short_names(tmp_path: Path, kind: str) -> None:
    tar = shutil.which("tar")
    if not tar or b"GNU" not in subprocess.run([tar, "--version"], capture_output=True).stdout:
        pytest.skip("needs GNU tar")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "é.wav").write_bytes(b"sound")
    archive = tmp_path / "data.tar.gz"
    subprocess.run([tar, f"--format={kind}", "-czf", archive, "-C", tmp_path / "in", "."], check=True)
    assert contents(archive.read_bytes(), tmp_path) == {"é.wav": b"sound"}


@pytest.mark.parametrize("name", [".", "data", "./data"])
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_standard_library(folder: Path, tmp_path: Path, kind: int, name: str) -> None:
    """Also with the folder itself in the archive, which many people pack."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=kind) as archive:
        archive.add(folder, arcname=name)
    assert contents(buffer.getvalue(), tmp_path) == FILES


def test_standard_library_ustar(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("d" * 90 + "/" + "n" * 90 + ".wav")
        info.size = 6
        archive.addfile(info, io.BytesIO(b"prefix"))
    assert contents(buffer.getvalue(), tmp_path) == {"n" * 90 + ".wav": b"prefix"}


def test_macos(tmp_path: Path) -> None:
    """bsdtar of macOS: times and attributes in pax records, AppleDouble twins, names in decomposed form."""
    attributes = pax((b"mtime", b"1700000000.123"), (b"LIBARCHIVE.xattr.com.apple.provenance", b"AQ\0\xff=\n=x"))
    name = "Gru\u0308n.wav".encode()
    data = tar_gz(
        attributes, member(b"./", b"", b"5"),
        attributes, member(b"./._001.wav", b"double"),
        attributes, member(b"./001.wav", b"sound"),
        pax((b"path", b"./" + name), (b"mtime", b"1")), member(b"./Gru?n.wav", b"green"),
        pax((b"hdrcharset", b"BINARY"), (b"path", b"./a.txt")), member(b"./a", b"text"),
        member(b"__MACOSX/._x.wav", b"junk"),
    )  # fmt: skip
    assert contents(data, tmp_path) == {"001.wav": b"sound", "Gru\u0308n.wav": b"green", "a.txt": b"text"}


def test_pax_size_wins_and_global_comments_pass(tmp_path: Path) -> None:
    """A size too large for octal goes into the record; archives of git begin with a global comment."""
    data = tar_gz(
        pax((b"comment", b"x"), kind=b"g"), pax((b"size", b"600")), header(b"a.wav", 0), b"z" * 600 + bytes(424)
    )
    assert contents(data, tmp_path) == {"a.wav": b"z" * 600}


def test_base_256_size_and_padding(tmp_path: Path) -> None:
    data = header(b"a.wav", b"\x80" + (5).to_bytes(11, "big")) + b"sound" + bytes(507) + bytes(10240)
    assert contents(gzip.compress(data), tmp_path) == {"a.wav": b"sound"}


def test_libarchive(folder: Path, tmp_path: Path) -> None:
    """The library behind bsdtar, in its default format, where the system has it."""
    path = ctypes.util.find_library("archive") or next(
        iter(map(str, Path("/usr/lib").glob("*/libarchive.so.1*"))), None
    )
    if path is None:
        pytest.skip("needs libarchive")
    library = ctypes.CDLL(path)
    for name in ("archive_write_new", "archive_entry_new"):
        getattr(library, name).restype = ctypes.c_void_p
    archive, target = ctypes.c_void_p(library.archive_write_new()), tmp_path / "data.tar.gz"
    library.archive_write_set_format_pax_restricted(archive)
    library.archive_write_add_filter_gzip(archive)
    assert library.archive_write_open_filename(archive, str(target).encode()) == 0
    for file in sorted(folder.iterdir()):
        entry, content = ctypes.c_void_p(library.archive_entry_new()), file.read_bytes()
        library.archive_entry_set_pathname_utf8(entry, f"./{file.name}".encode())
        library.archive_entry_set_size(entry, ctypes.c_int64(len(content)))
        library.archive_entry_set_filetype(entry, 0o100000)
        library.archive_entry_set_perm(entry, 0o644)
        library.archive_entry_set_mtime(entry, ctypes.c_int64(1_700_000_000), ctypes.c_long(5))
        library.archive_write_header(archive, entry)
        library.archive_write_data(archive, content, ctypes.c_size_t(len(content)))
        library.archive_entry_free(entry)
    library.archive_write_close(archive)
    library.archive_write_free(archive)
    assert contents(target.read_bytes(), tmp_path) == FILES
