"""Every hostile archive gets a clear error, writes nothing outside its folder, and stays within the limits."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from asr_lightning.server.intake.limits import MIB, IntakeLimits
from asr_lightning.server.intake.verdict import IntakeError
from tests.server.intake.archives import END, bomb, header, member, pax, pax_record, read_archive, tar_gz, wav_bytes

GOOD = member(b"a.txt")
TARGZ = tar_gz(GOOD)
SMALL = replace(IntakeLimits(), unpacked_bytes=8 * MIB, headers=50, clips=5, audio_bytes=MIB)


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hello")
    return buffer.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


MEMBER_5_MIB = header(b"b.md", 5 * MIB) + os.urandom(5 * MIB)
LONG = b"x" * 300 + b".txt"
INVALID, LARGE, MEDIA = "dataset_invalid", "too_large", "unsupported_media"
HOSTILE: dict[str, tuple[bytes, str, str]] = {
    "empty file": (b"", MEDIA, "no gzip"),
    "zip": (zip_bytes(), MEDIA, "no gzip"),
    "plain tar": (GOOD + END, MEDIA, "no gzip"),
    "bzip2 tar": (bz2.compress(GOOD + END), MEDIA, "no gzip"),
    "gzip of a text": (gzip.compress(b"hello world" * 100), MEDIA, "no tar"),
    "gzip of nothing": (gzip.compress(b""), MEDIA, "no tar"),
    "gzip magic only": (b"\x1f\x8b\x08", INVALID, "cut off"),
    "gzip with a wrong method": (b"\x1f\x8b\x09" + TARGZ[3:], MEDIA, "no gzip"),
    "gzip cut off in the middle": (TARGZ[: len(TARGZ) // 2], INVALID, "cut off"),
    "gzip without its checksum": (TARGZ[:-8], INVALID, "cut off"),
    "gzip without its last byte": (TARGZ[:-1], INVALID, "cut off"),
    "gzip with a wrong checksum": (flipped(TARGZ, len(TARGZ) - 6), INVALID, "damaged gzip"),
    "gzip with a wrong length": (flipped(TARGZ, len(TARGZ) - 1), INVALID, "damaged gzip"),
    "bytes behind the gzip": (TARGZ + b"more", INVALID, "behind the end"),
    "a second gzip member": (TARGZ + TARGZ, INVALID, "behind the end"),
    "a million empty gzip members": (TARGZ + gzip.compress(b"") * 1000, INVALID, "behind the end"),
    "gzip bomb": (bomb(64 * MIB), LARGE, "200 times its size"),
    "bomb in a member": (bomb(7 * MIB, header(b"a.wav", 7 * MIB)), LARGE, "bytes, 1048576 at most"),
    "bomb in ignored members": (bomb(64 * MIB, header(b"._a", 64 * MIB)), LARGE, "claims to be larger"),
    "bomb behind the ratio": (bomb(4 * MIB, header(b"readme.md", 4 * MIB)), LARGE, "200 times its size"),
    "large and incompressible": (gzip.compress(MEMBER_5_MIB * 2, 0), LARGE, "over 8 MiB"),
    "tar without an end": (tar_gz(GOOD, end=b""), INVALID, "cut off"),
    "tar cut off in a content": (tar_gz(header(b"a.txt", 2000), b"x" * 100, end=b""), INVALID, "cut off"),
    "tar cut off in a header": (tar_gz(GOOD, header()[:300], end=b""), INVALID, "cut off"),
    "tar inside the padding": (tar_gz(header(b"a.txt", 5) + b"hello", end=b""), INVALID, "cut off"),
    "members behind the end": (tar_gz(GOOD, END, member(b"b.txt")), INVALID, "behind the end"),
    "wrong checksum": (tar_gz(GOOD, header(b"b.txt", checksum=b"000001\0 ")), INVALID, "wrong checksum"),
    "checksum of letters": (tar_gz(GOOD, header(b"b.txt", checksum=b"zzzzzz\0 ")), INVALID, "wrong checksum"),
    "negative size, octal": (tar_gz(header(b"a.txt", b"-0000000001\0")), INVALID, "valid size"),
    "negative size, base 256": (tar_gz(header(b"a.txt", b"\xff" * 12)), INVALID, "valid size"),
    "huge size, base 256": (tar_gz(header(b"a.txt", b"\x80" + b"\xff" * 11)), LARGE, "claims to be larger"),
    "size of letters": (tar_gz(header(b"a.txt", b"12345abc\0\0\0\0")), INVALID, "valid size"),
    "negative size, pax": (tar_gz(pax((b"size", b"-5")), GOOD), INVALID, "valid size"),
    "huge size, pax": (tar_gz(pax((b"size", b"9" * 19)), GOOD), LARGE, "claims to be larger"),
    "endless size, pax": (tar_gz(pax((b"size", b"9" * 5000)), GOOD), INVALID, "valid size"),
    "absolute path": (tar_gz(member(b"/etc/passwd.txt")), INVALID, "absolute"),
    "absolute path by prefix": (tar_gz(member(b"passwd.txt", prefix=b"/etc")), INVALID, "absolute"),
    "absolute path by pax": (tar_gz(pax((b"path", b"/etc/a.txt")), GOOD), INVALID, "absolute"),
    "absolute path by long name": (tar_gz(member(b"././@LongLink", b"/a.txt\0", b"L"), GOOD), INVALID, "absolute"),
    "Windows drive": (tar_gz(member(b"C:a.txt")), INVALID, "absolute"),
    "two dots": (tar_gz(member(b"../a.txt")), INVALID, "by '..'"),
    "two dots inside": (tar_gz(member(b"x/../../a.txt")), INVALID, "by '..'"),
    "two dots by prefix": (tar_gz(member(b"a.txt", prefix=b"..")), INVALID, "by '..'"),
    "two dots of a folder": (tar_gz(member(b"../", b"", b"5")), INVALID, "by '..'"),
    "two dots of an ignored file": (tar_gz(member(b"../._a")), INVALID, "by '..'"),
    "backslash": (tar_gz(member(b"..\\a.txt")), INVALID, "backslash"),
    "NUL in a pax path": (tar_gz(pax((b"path", b"a.txt\0.wav")), GOOD), INVALID, "control"),
    "NUL in a long name": (tar_gz(member(b"L", b"a\0b.txt\0", b"L"), GOOD), INVALID, "control"),
    "terminal escape in a name": (tar_gz(member(b"\x1b[31ma.txt")), INVALID, "control"),
    "line end in a name": (tar_gz(member(b"a\nb.txt")), INVALID, "control"),
    "name that is not UTF-8": (tar_gz(member(b"\xff\xfe.txt")), INVALID, "not UTF-8"),
    "no name": (tar_gz(member(b"")), INVALID, "no name"),
    "overlong name": (tar_gz(pax((b"path", LONG)), GOOD), INVALID, "over 255 bytes"),
    "overlong path": (tar_gz(pax((b"path", b"a/" * 2000 + b"a.txt")), GOOD), INVALID, "over 255 bytes"),
    "endless name record": (tar_gz(header(b"x", 2 * MIB, b"x"), bytes(2 * MIB)), LARGE, "name record"),
    "name record without a file": (tar_gz(pax((b"path", b"a.txt"))), INVALID, "without a file"),
    "name record of a name record": (
        tar_gz(pax((b"path", b"a")), pax((b"path", b"b")), GOOD),
        INVALID,
        "without a file",
    ),
    "damaged name record": (tar_gz(member(b"x", b"99 path=a.txt\n", b"x"), GOOD), INVALID, "damaged name"),
    "name record of length 0": (tar_gz(member(b"x", b"0 path=a.txt\n", b"x"), GOOD), INVALID, "damaged name"),
    "name twice in one": (
        tar_gz(member(b"x", pax_record(b"path", b"a") * 2, b"x"), GOOD),
        INVALID,
        "damaged name",
    ),
    "one path for all": (tar_gz(pax((b"path", b"../a"), kind=b"g"), GOOD), INVALID, "to all its members"),
    "symbolic link": (tar_gz(header(b"a.wav", 0, b"2", linkname=b"/etc/passwd")), INVALID, "symbolic link"),
    "hard link": (tar_gz(header(b"a.wav", 0, b"1", linkname=b"../a")), INVALID, "hard link"),
    "long link": (tar_gz(member(b"L", b"/etc/passwd\0", b"K"), GOOD), INVALID, "long name"),
    "pax link": (tar_gz(pax((b"linkpath", b"/etc")), header(b"a.wav", 0, b"2")), INVALID, "symbolic link"),
    "ignored symbolic link": (tar_gz(header(b"._a", 0, b"2", linkname=b"/etc")), INVALID, "symbolic link"),
    "character device": (tar_gz(header(b"a.wav", 0, b"3")), INVALID, "device"),
    "block device": (tar_gz(header(b"a.wav", 0, b"4")), INVALID, "device"),
    "pipe": (tar_gz(header(b"a.wav", 0, b"6")), INVALID, "pipe"),
    "sparse, GNU": (tar_gz(header(b"a.wav", 0, b"S")), INVALID, "sparse"),
    "sparse, pax": (tar_gz(pax((b"GNU.sparse.major", b"1")), GOOD), INVALID, "sparse"),
    "volume": (tar_gz(header(b"a.wav", 0, b"V")), INVALID, "volume"),
    "unknown type": (tar_gz(header(b"a.wav", 0, b"Z")), INVALID, "unknown type"),
    "folder with content": (tar_gz(header(b"d/", 512, b"5"), bytes(512)), INVALID, "claims to hold"),
    "duplicate": (tar_gz(GOOD, GOOD), INVALID, "there twice"),
    "duplicate by ./": (tar_gz(GOOD, member(b"./a.txt")), INVALID, "there twice"),
    "case clash": (tar_gz(GOOD, member(b"A.TXT")), INVALID, "many disks"),
    "Unicode form clash": (tar_gz(member("é.txt".encode()), member("e\u0301.txt".encode())), INVALID, "many disks"),
    "case and form clash": (tar_gz(member("É.txt".encode()), member("e\u0301.TXT".encode())), INVALID, "many disks"),
    "nested folders": (tar_gz(member(b"data/x/a.txt")), INVALID, "tar -czvf data.tar.gz -C folder ."),
    "two folders": (tar_gz(member(b"x/a.txt"), member(b"y/b.txt")), INVALID, "tar -czvf"),
    "folder and top": (tar_gz(GOOD, member(b"y/b.txt")), INVALID, "tar -czvf"),
    "too many headers": (tar_gz(*[header(b"%d/" % i, 0, b"5") for i in range(60)]), LARGE, "over 50 members"),
    "too many ignored headers": (tar_gz(*[header(b"._%d" % i) for i in range(60)]), LARGE, "over 50 members"),
    "too many clips": (tar_gz(*[member(b"%d.wav" % i) for i in range(6)]), LARGE, "over 5 recordings"),
    "large transcript": (tar_gz(member(b"a.txt", os.urandom(70_000))), LARGE, "70000 bytes"),
    "large recording": (tar_gz(member(b"a.wav", os.urandom(MIB + 1))), LARGE, "1048577 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused(tmp_path: Path, name: str) -> None:
    data, code, message = HOSTILE[name]
    job = tmp_path / "job"
    job.mkdir()
    with pytest.raises(IntakeError, match=message) as error:
        read_archive(data, job, SMALL)
    assert error.value.code == code
    assert str(error.value).isprintable() and len(str(error.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["job"]
    assert all(path.name.isdigit() for path in (job / "raw").iterdir())


def test_there_are_enough() -> None:
    assert len(HOSTILE) >= 40


def test_every_truncation_and_many_flips_end_cleanly(tmp_path: Path) -> None:
    """No other exception than the clean one, wherever the archive is cut or damaged before it is packed."""
    inner = pax((b"path", b"b.wav")) + member(b"x") + member(b"L", b"c.txt\0", b"L") + GOOD + END
    damaged = [inner[:cut] for cut in range(0, len(inner), 97)]
    damaged += [flipped(inner, at) for at in range(0, len(inner) - 1024, 13)]
    for index, content in enumerate(damaged):
        folder = tmp_path / str(index)
        folder.mkdir()
        try:
            read_archive(gzip.compress(content, 1), folder, SMALL)
        except IntakeError as error:
            assert str(error).isprintable()


def test_other_files_are_left_out_and_named(tmp_path: Path) -> None:
    inner = tar_gz(GOOD)
    files, verdict = read_archive(
        tar_gz(GOOD, member(b"evil.py"), member(b".hidden.wav"), member(b"more.tar.gz", inner), member(b"noending")),
        tmp_path,
    )
    assert [file.name.base for file in files] == ["a.txt"]
    assert [issue.name for issue in verdict.issues] == ["evil.py", ".hidden.wav", "more.tar.gz", "noending"]
    assert {issue.code for issue in verdict.issues} == {"D29"}


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    """A link where a file is to be written, or in place of the folder, stops the intake; its target stays as it is."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    from asr_lightning.server.intake.unpack import _write, open_folder, open_regular

    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "000000").symlink_to(victim)
    (tmp_path / "link").symlink_to(folder)
    with open_folder(folder) as raw:
        with pytest.raises(FileExistsError):
            _write("000000", raw, iter([b"evil"]))
        with pytest.raises(OSError, match="symbolic"), open_regular("000000", raw):
            pass
    with pytest.raises(OSError, match="directory|symbolic"), open_folder(tmp_path / "link"):
        pass
    assert victim.read_text() == "mine"


def test_sparse_file_of_the_standard_library_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.wav")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(IntakeError, match="sparse"):
        read_archive(tar_gz(info.tobuf(tarfile.GNU_FORMAT)), tmp_path)


def test_valid_one_is_read(tmp_path: Path) -> None:
    """The same small limits let a good archive through."""
    sound = wav_bytes(0.2)
    files, verdict = read_archive(tar_gz(member(b"a.wav", sound), GOOD), tmp_path, SMALL)
    assert [(file.name.base, file.size) for file in files] == [("a.wav", len(sound)), ("a.txt", 5)]
    assert (tmp_path / "raw" / files[0].stored).read_bytes() == sound
    assert verdict.issues == []
