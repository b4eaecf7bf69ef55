"""The formats of sound files: how each begins, which decoder of FFmpeg reads it, and how its files are named.

The content decides how a file is read. A name decides only whether a file of a folder counts as a recording at all.
Imports the standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HEAD = 1 << 16  # bytes in which the first frames of an MP3 are looked for
FRAMES_IN_A_ROW = 3  # MPEG frames that follow each other exactly; two bytes of a single one occur by chance


@dataclass(frozen=True)
class Format:
    """A format of sound files.

    Attributes:
        name: FFmpeg's name of the format.
        magic: Pattern of the first bytes.
        suffixes: Usual suffixes of the names, in lower case.
        states_length: Whether FFmpeg's length of a stream comes from a header. Otherwise it is a guess from the size
            of the file, as for raw AAC.
    """

    name: str
    magic: re.Pattern[bytes]
    suffixes: tuple[str, ...]
    states_length: bool = False


def _format(name: str, magic: bytes, suffixes: str, states_length: bool = False) -> Format:
    return Format(name, re.compile(magic, re.DOTALL), tuple(f".{suffix}" for suffix in suffixes.split()), states_length)


# FFmpeg may read a file only as the format that its first bytes show. FFmpeg's own detection also accepts playlists,
# which open other files and addresses; this table has none. The brands that "mov" leaves out are those of pictures.
FORMATS = (
    _format("wav", rb"(RIFF|RF64|RIFX|BW64).{4}WAVE", "wav wave"),
    _format("flac", rb"fLaC", "flac", True),
    _format("ogg", rb"OggS", "ogg oga opus spx"),
    _format("matroska", rb"\x1aE\xdf\xa3", "webm weba mka mkv", True),
    _format("mov", rb".{4}(ftyp(?!hei|hev|mif|msf|avi)|moov|mdat|wide|free|skip)", "m4a m4b mp4 mov 3gp 3ga 3g2", True),
    _format("aiff", rb"FORM.{4}AIF", "aif aiff aifc", True),
    _format("amr", rb"#!AMR", "amr awb"),
    _format("asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma asf wmv", True),
    _format("caf", rb"caff", "caf", True),
    _format("au", rb"\.snd", "au snd"),
    _format("w64", rb"riff\x2e\x91\xcf\x11", "w64 rf64"),
    _format("avi", rb"RIFF.{4}AVI ", "avi"),
    _format("dss", rb"[\x02\x03]dss", "dss"),
    _format("qcp", rb"RIFF.{4}QLCM", "qcp"),
    _format("ape", rb"MAC ", "ape", True),
    _format("wv", rb"wvpk", "wv", True),
    _format("tta", rb"TTA[12]", "tta", True),
    _format("mpc", rb"MP\+", "mpc"),
    _format("mpc8", rb"MPCK", "mpc"),
    _format("voc", rb"Creative Voice File", "voc"),
    _format("flv", rb"FLV\x01", "flv"),
    _format("ac3", rb"\x0b\x77.{3}[\x00-\x57]", "ac3"),
    _format("eac3", rb"\x0b\x77.{3}[\x58-\x87]", "eac3"),
    _format("aac", rb"\xff[\xf0\xf1\xf8\xf9]", "aac adts"),
    _format("mp3", rb"\xff[\xe2-\xfb]", "mp3 mp2 mpga"),
)
WAV, MP3 = FORMATS[0], FORMATS[-1]
AUDIO_SUFFIXES = frozenset(suffix for known in FORMATS for suffix in known.suffixes)

# Kilobits per second of the 15 bit rates: MPEG 1, layers I to III, and MPEG 2, layer I and the others.
# Source: ISO/IEC 11172-3, 2.4.2.3, and ISO/IEC 13818-3.
RATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class MpegFrame:
    """The header of one frame of MPEG audio.

    Attributes:
        length: Number of bytes of the frame.
        samples: Number of samples of the frame.
        sample_rate: In Hz.
        summary_at: Where a summary of the whole file (Xing) would start in the frame.
    """

    length: int
    samples: int
    sample_rate: int
    summary_at: int


def format_of(path: Path) -> Format | None:
    """The format that the content of ``path`` shows; None if it is none of ``FORMATS``. The name is not looked at."""
    return format_of_head(_head(path))


def format_of_head(head: bytes) -> Format | None:
    """The format that the first bytes of a file show, up to ``HEAD`` of them; None if it is none of ``FORMATS``."""
    for known in FORMATS:
        if known.magic.match(head):
            return known
    starts = (match.start() for match in re.finditer(rb"\xff[\xe2-\xff]", head))
    return MP3 if any(_are_frames(head, start) for start in starts) else None


def mp3_seconds(path: Path) -> float:
    """The length in seconds that an MP3 states in its first frame (Xing, Info or VBRI); 0 if it states none.

    Decoders guess the length of other MP3s from the first bit rate and the size of the file.
    Source: Gabriel Bouvigne, "MP3 Info Tag"; Fraunhofer's VBRI has its own place.
    """
    head = _head(path)
    frame = mpeg_frame(head)
    if frame is None:
        return 0.0
    at = frame.summary_at
    if head[at : at + 4] in (b"Xing", b"Info") and head[at + 7] & 1:
        count = int.from_bytes(head[at + 8 : at + 12], "big")
    elif head[36:40] == b"VBRI":
        count = int.from_bytes(head[50:54], "big")
    else:
        return 0.0
    return count * frame.samples / frame.sample_rate


def mpeg_frame(head: bytes) -> MpegFrame | None:
    """The frame of MPEG audio whose header ``head`` begins with; None if it does not begin with one."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = {3: 1.0, 2: 2.0, 0: 2.5}.get(head[1] >> 3 & 3), 4 - (head[1] >> 1 & 3)
    rate, frequency, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version is None or layer == 4 or rate in (0, 15) or frequency == 3:
        return None
    kilobits = RATES[1 if version == 1 else 2, layer][rate - 1]
    sample_rate = int((44_100, 48_000, 32_000)[frequency] / {1.0: 1, 2.0: 2, 2.5: 4}[version])
    samples = 384 if layer == 1 else 576 if layer == 3 and version > 1 else 1152
    slot = 4 if layer == 1 else 1
    length = (samples // 8 * kilobits * 1000 // sample_rate // slot + padding) * slot
    is_mono = head[3] >> 6 == 3
    summary_at = 4 + ((17 if is_mono else 32) if version == 1 else (9 if is_mono else 17))
    return MpegFrame(length, samples, sample_rate, summary_at)


def _are_frames(head: bytes, start: int) -> bool:
    """Whether frames of MPEG audio follow each other from ``start`` on."""
    for _ in range(FRAMES_IN_A_ROW):
        frame = mpeg_frame(head[start : start + 4])
        if frame is None:
            return False
        start += frame.length
    return True


def _head(path: Path) -> bytes:
    """The first bytes of the sound itself, after the ID3 tags that may stand before any format."""
    with path.open("rb") as file:
        at = 0
        while True:
            file.seek(at)
            tag = file.read(10)
            if tag[:3] != b"ID3" or len(tag) < 10 or any(byte & 0x80 for byte in tag[6:]):
                break
            size = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
            at += 10 + size + (10 if tag[5] & 0x10 else 0)
        file.seek(at)
        return file.read(HEAD)
