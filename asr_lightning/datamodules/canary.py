"""The canary: speech of other people, scored before and after, so that forgetting is seen. Knows no model.

There is a bundled set for each of a few languages; ``canary_clips/XX/README.md`` says what it holds. Any folder of
recordings with transcripts can stand in for it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from asr_lightning.data.folder import scan_folder
from asr_lightning.data.rows import Row
from asr_lightning.datamodules.dataset import AudioCache
from asr_lightning.datamodules.sampler import cut
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.scoring.edits import Transcript
from asr_lightning.scoring.evaluation import transcribe_all
from asr_lightning.scoring.known_texts import NOTHING_KNOWN, KnownTexts, files, of_untouched
from asr_lightning.types import AudioLimits, SpeechBatch, Utterance

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parents[1] / "canary_clips"
ENGLISH = BUNDLED / "en"
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "ru": "Russian"}
"""Of the bundled sets, by the name of their folder."""
THREE_LETTERS = {"eng": "en", "spa": "es", "fra": "fr", "rus": "ru"}
"""ISO 639-3, as MMS has it."""
SYNTHETIC_VOICES = ("jf_alpha", "jf_tebukuro")
"""The uid of a bundled clip starts with its voice; every other voice than these is a person's."""
CACHE_BYTES = 2**30
SPOT_CHECK = 8
"""One clip in so many is read in the native mode too: 30 s of encoder for each clip would take Whisper as long as its
training."""

Kind = Literal["human", "synthetic"]


class Canary:
    """A set of recordings that is read and never trained on.

    Args:
        folder: Holds ``<UID>.<audio suffix>`` and ``<UID>.txt``.
        batch_size: Most clips in a batch.
        normalizer: Name of the text normaliser of its WER; None for that of the run. ``english`` keeps a speaker's way
            of writing numbers from being taken for forgetting: of 42 words that one run seemed to lose, 24 were "one"
            in place of "1".
    """

    def __init__(self, folder: str | Path = ENGLISH, batch_size: int = 16, normalizer: str | None = None) -> None:
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.normalizer = normalizer

    @property
    def name(self) -> str:
        """What a report calls it."""
        if not self.is_bundled:
            return str(self.folder)
        kinds = [self.kind(uid) for uid in self.references]
        parts = [f"{kinds.count(kind)} {kind}" for kind in ("human", "synthetic") if kind in kinds]
        return f"bundled {LANGUAGES[self.folder.name]} set, {' and '.join(parts)} clips"

    @property
    def is_bundled(self) -> bool:
        """Whether it comes with this package."""
        return self.folder.parent == BUNDLED

    def kind(self, uid: str) -> Kind | None:
        """Whether a person or a machine speaks in the clip ``uid``; None in a folder of the user's own."""
        if not self.is_bundled:
            return None
        return "synthetic" if uid.startswith(SYNTHETIC_VOICES) else "human"

    @cached_property
    def _rows(self) -> tuple[Row, ...]:
        return scan_folder(self.folder)

    @cached_property
    def references(self) -> dict[str, str]:
        """What is said, by uid.

        Raises:
            ValueError: The folder is no audio folder.
        """
        return {row.uid: row.text for row in self._rows}

    def transcripts(
        self,
        adapter: ASRAdapter,
        device: torch.device | str = "cpu",
        every: int = 1,
        known: KnownTexts = NOTHING_KNOWN,
        drafts: Sequence[Transcript] = (),
    ) -> tuple[Transcript, ...]:
        """What ``adapter`` writes for every clip within its limits, or for one in ``every``, by uid.

        Args:
            adapter: Any model.
            device: Where to compute.
            every: 1 for all clips.
            known: Texts that an untouched model has written before.
            drafts: What a similar model wrote. An attention decoder starts from it: the same text in less time.
        """
        found = {t.uid: t.hypothesis for t in self.read(adapter, device, every, known, drafts)}
        return tuple(Transcript(uid, text, found[uid]) for uid, text in self.references.items() if uid in found)

    def read(
        self,
        adapter: ASRAdapter,
        device: torch.device | str = "cpu",
        every: int = 1,
        known: KnownTexts = NOTHING_KNOWN,
        drafts: Sequence[Transcript] = (),
    ) -> Generator[Transcript]:
        """``transcripts`` one after another, short clips first, for whoever may stop before the end."""
        adapter.model.to(device)
        batches = self._batches(adapter, every, {draft.uid: draft.hypothesis for draft in drafts})
        for transcript in transcribe_all(adapter, batches, device, known):
            yield transcript._replace(reference=self.references[transcript.uid])

    def untouched(self, adapter: ASRAdapter, device: torch.device | str = "cpu") -> tuple[Transcript, ...]:
        """``transcripts`` of a model that nobody has trained; computed where they are not known from before."""
        shipped = self.files(adapter.limits.sample_rate) if self.is_bundled else None
        return self.transcripts(adapter, device, known=of_untouched(adapter, device, shipped))

    def files(self, sample_rate: int) -> Callable[[SpeechBatch], str]:
        """A hash of a batch by the files of its clips, decoded to ``sample_rate`` Hz."""
        contents = ((row.uid, (self.folder / row.file_name).read_bytes()) for row in self._rows)
        return files({uid: hashlib.sha256(content).hexdigest() for uid, content in contents}, sample_rate)

    def _batches(self, adapter: ASRAdapter, every: int, drafts: Mapping[str, str]) -> Iterator[SpeechBatch]:
        """Batches without transcripts: the canary is read, and whether a text could be a target is no question.

        Where padding changes results, each clip is a batch of its own: a difference of two words decides nothing then
        that only the neighbours of a clip have made.
        """
        clips = sorted(self._clips(adapter.limits)[::every], key=lambda clip: (clip.seconds, clip.uid))
        size = self.batch_size if adapter.limits.padding_invariant else 1
        collate = adapter.collator()
        if adapter.limits.max_target_tokens is not None:  # an attention decoder: no other starts from a text
            clips = [_drafted(clip, drafts.get(clip.uid, ""), collate) for clip in clips]
        for batch in cut(range(len(clips)), size) if clips else []:
            yield collate([clips[index] for index in batch])

    def _clips(self, limits: AudioLimits) -> list[Utterance]:
        clips = [replace(clip, text="") for clip in self._decoded(limits.sample_rate)]
        most = float("inf") if limits.max_seconds is None else limits.max_seconds
        fitting = [clip for clip in clips if limits.min_seconds <= clip.seconds <= most]
        if len(fitting) < len(clips):
            logger.info("%d of %d canary clips are too long or too short", len(clips) - len(fitting), len(clips))
        return fitting

    def _decoded(self, sample_rate: int) -> list[Utterance]:
        if self._cache.sample_rate != sample_rate:
            self._cache = AudioCache(self.folder, sample_rate, CACHE_BYTES)
        return [Utterance(row.uid, self._cache.load(row), sample_rate, row.text) for row in self._rows]

    @cached_property
    def _cache(self) -> AudioCache:
        return AudioCache(self.folder, 16_000, CACHE_BYTES)


def _drafted(clip: Utterance, text: str, collate: Collator) -> Utterance:
    """``clip`` with ``text`` to start from, unless that has more tokens than the decoder positions."""
    drafted = replace(clip, text=text)
    try:
        collate([drafted])
    except ValueError:
        return clip
    return drafted


def bundled(language: str | None) -> Path | None:
    """The folder of the bundled set in ``language``; None where there is none.

    Args:
        language: A code or an English name, such as ``es``, ``spa``, ``Spanish`` or Whisper's ``<|es|>``. None stands
            for English, since the models that are told no language are mostly English.
    """
    if language is None:
        return ENGLISH
    plain = language.strip("<|>").lower()
    codes = {code: code for code in LANGUAGES} | {name.lower(): code for code, name in LANGUAGES.items()}
    code = (codes | THREE_LETTERS).get(plain)
    return BUNDLED / code if code else None


def open_canary(name: str, language: str | None = None) -> Canary | None:
    """The canary called ``name``: ``bundled``, a folder, or ``off`` for none.

    Args:
        name: As above.
        language: That the model reads, for the choice of the bundled set; None where nobody has said.

    Raises:
        ValueError: The folder holds no recordings with transcripts.
    """
    folder = {"off": None, "bundled": bundled(language)}.get(name, Path(name))
    if name == "bundled" and folder is None:
        logger.info("no canary is bundled for %r: give one by --selection.canary FOLDER", language)
    if folder is None:
        return None
    is_english = bundled(language) == ENGLISH and (language is not None or folder == ENGLISH)
    canary = Canary(folder, normalizer="english" if is_english else None)
    _ = canary.references  # read now: a wrong folder is found before training
    return canary
