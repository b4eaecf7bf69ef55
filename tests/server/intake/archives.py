"""Archives made by hand, so that every field of a tar header can be wrong and gzip can be cut anywhere."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path

import numpy as np
import soundfile

from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.unpack import RawFile, open_folder, unpack
from asr_lightning.server.intake.verdict import Verdict

END = bytes(1024)


def header(name: bytes = b"a.txt", size: int | bytes = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A ustar header with a right checksum; ``fields`` replace magic, prefix, linkname or checksum."""
    block = bytearray(512)
    block[0 : len(name[:100])] = name[:100]
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[157 : 157 + len(fields.get("linkname", b""))] = fields.get("linkname", b"")
    magic = fields.get("magic", b"ustar\x0000")
    block[257 : 257 + len(magic)] = magic
    prefix = fields.get("prefix", b"")
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = fields.get("checksum", b"%06o\0 " % sum(block))
    return bytes(block)


def member(name: bytes, content: bytes = b"hello", kind: bytes = b"0", **fields: bytes) -> bytes:
    """Header and padded content."""
    return header(name, len(content), kind, **fields) + content + bytes(-len(content) % 512)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A pax extended header."""
    return member(b"PaxHeader/a", b"".join(pax_record(key, value) for key, value in records), kind)


def pax_record(key: bytes, value: bytes) -> bytes:
    """``<length> <key>=<value>``, where the length counts itself."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    length = len(body) + len(str(length))
    return str(length).encode() + body


def tar_gz(*members: bytes, end: bytes = END) -> bytes:
    """A gzip tar archive of ``members``."""
    return gzip.compress(b"".join(members) + end, 1)


def bomb(zeros: int, head: bytes = b"") -> bytes:
    """``head`` and then zeros, packed without holding them."""
    packer = zlib.compressobj(9, wbits=31)
    out = io.BytesIO()
    out.write(packer.compress(head))
    for _ in range(zeros >> 20):
        out.write(packer.compress(bytes(1 << 20)))
    out.write(packer.flush())
    return out.getvalue()


def read_archive(data: bytes, folder: Path, limits: IntakeLimits | None = None) -> tuple[list[RawFile], Verdict]:
    """Unpack ``data`` into ``folder/raw`` in this process."""
    (folder / "raw").mkdir()
    (folder / "archive").write_bytes(data)
    verdict = Verdict()
    with open_folder(folder / "raw") as raw:
        archive = os.open(folder / "archive", os.O_RDONLY)
        try:
            return unpack(archive, raw, limits or IntakeLimits(), verdict), verdict
        finally:
            os.close(archive)


def wav_bytes(seconds: float = 0.5, pitch: float = 220.0, rate: int = 16_000, loudness: float = 0.3, **kind) -> bytes:
    """A recording of a tone; ``kind`` are soundfile's format and subtype."""
    time = np.arange(round(seconds * rate)) / rate
    buffer = io.BytesIO()
    soundfile.write(buffer, loudness * np.sin(2 * np.pi * pitch * time), rate, **{"format": "WAV", **kind})
    return buffer.getvalue()


def make_job(folder: Path, archive: bytes) -> Path:
    """A job folder with an upload."""
    (folder / "input").mkdir(parents=True)
    (folder / "input" / "archive.tar.gz").write_bytes(archive)
    return folder


def good_clips(number: int = 4) -> list[bytes]:
    """Members of usable clips with different texts."""
    words = ["open the window", "good night", "where are my keys", "play the next song", "read the news"]
    return [
        piece
        for index in range(number)
        for piece in (
            member(b"good%d.wav" % index, wav_bytes(pitch=200 + 20 * index)),
            member(b"good%d.txt" % index, words[index % 5].encode()),
        )
    ]
