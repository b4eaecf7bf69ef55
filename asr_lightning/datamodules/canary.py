"""The canary: speech of other people, scored before and after training to show what the model forgets.

A set is bundled for each of a few languages and described in ``canary_clips/XX/README.md``. Any folder of recordings
with transcripts can be used instead. Knows no model.
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
from asr_lightning.datamodules.dataset import AudioCache, measure
from asr_lightning.datamodules.sampler import cut
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.scoring.edits import Transcript
from asr_lightning.scoring.evaluation import transcribe_all
from asr_lightning.scoring.known_texts import NOTHING_KNOWN, KnownTexts, find_known_texts, hash_by_files
from asr_lightning.types import AudioLimits, SpeechBatch, Utterance

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parents[1] / "canary_clips"
ENGLISH = BUNDLED / "en"
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "ru": "Russian"}
"""Languages of the bundled sets, by the name of their folder."""
THREE_LETTERS = {"eng": "en", "spa": "es", "fra": "fr", "rus": "ru"}
"""Codes of ISO 639-3, which MMS uses, and the folders of their sets."""
SYNTHETIC_VOICES = ("jf_alpha", "jf_tebukuro")
"""Names of synthetic voices, with which the uid of a bundled clip starts; all other voices are those of people."""
CACHE_BYTES = 2**30
SPOT_CHECK = 8
"""One clip in this many is also read in native mode. For all clips, with windows of 30 s, Whisper would need as much
time as for its training."""

Kind = Literal["human", "synthetic"]


class Canary:
    """A set of recordings that is scored and never trained on.

    Args:
        folder: Folder with ``<UID>.<audio suffix>`` and ``<UID>.txt``.
        batch_size: Largest number of clips in a batch.
        normalizer: Name of the text normaliser for its WER; None uses that of the run. With ``english``, another
            way of writing numbers does not count as forgetting: of 42 errors that one run seemed to add, 24 were "one"
            instead of "1".
    """

    def __init__(self, folder: str | Path = ENGLISH, batch_size: int = 16, normalizer: str | None = None) -> None:
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.normalizer = normalizer

    @property
    def name(self) -> str:
        """The name of the set in a report."""
        if not self.is_bundled:
            return str(self.folder)
        kinds = [self.kind(uid) for uid in self.references]
        parts = [f"{kinds.count(kind)} {kind}" for kind in ("human", "synthetic") if kind in kinds]
        return f"bundled {LANGUAGES[self.folder.name]} set, {' and '.join(parts)} clips"

    @property
    def is_bundled(self) -> bool:
        """Whether the set is part of this package."""
        return self.folder.parent == BUNDLED

    def kind(self, uid: str) -> Kind | None:
        """Whether the voice of the clip ``uid`` is human or synthetic; None in a folder of the user."""
        if not self.is_bundled:
            return None
        return "synthetic" if uid.startswith(SYNTHETIC_VOICES) else "human"

    @cached_property
    def _rows(self) -> tuple[Row, ...]:
        return scan_folder(self.folder)

    @cached_property
    def references(self) -> dict[str, str]:
        """Reference transcripts, by uid.

        Raises:
            ValueError: The folder holds no recordings with transcripts.
        """
        return {row.uid: row.text for row in self._rows}

    def inspect(self) -> None:
        """Decode all clips.

        Raises:
            ValueError: Some of them cannot be used; the message lists them.
        """
        measure(self._rows, self._cache, AudioLimits(self._cache.sample_rate, min_seconds=0.0))

    def transcripts(
        self,
        adapter: ASRAdapter,
        device: torch.device | str = "cpu",
        every: int = 1,
        known: KnownTexts = NOTHING_KNOWN,
        drafts: Sequence[Transcript] = (),
    ) -> tuple[Transcript, ...]:
        """Transcribe the clips that are within the limits of ``adapter``, and return transcripts sorted by uid.

        Args:
            adapter: The model.
            device: Device that the model runs on.
            every: Transcribe only one clip in this many; 1 means all clips.
            known: Texts that the model has written before; only for a model that has not been trained.
            drafts: Transcripts of a similar model. An attention decoder starts from them: they save time and do not
                change the result.
        """
        texts = {t.uid: t.hypothesis for t in self.read(adapter, device, every, known, drafts)}
        return tuple(
            Transcript(uid, reference, texts[uid]) for uid, reference in self.references.items() if uid in texts
        )

    def read(
        self,
        adapter: ASRAdapter,
        device: torch.device | str = "cpu",
        every: int = 1,
        known: KnownTexts = NOTHING_KNOWN,
        drafts: Sequence[Transcript] = (),
    ) -> Generator[Transcript]:
        """Yield the same transcripts one after another, short clips first, for a caller that may stop early."""
        adapter.model.to(device)
        batches = self._batches(adapter, every, {draft.uid: draft.hypothesis for draft in drafts})
        for transcript in transcribe_all(adapter, batches, device, known):
            yield transcript._replace(reference=self.references[transcript.uid])

    def untouched(self, adapter: ASRAdapter, device: torch.device | str = "cpu") -> tuple[Transcript, ...]:
        """Transcripts of a model that has not been trained: stored ones where possible, otherwise computed."""
        shipped = self.batch_hash(adapter.limits.sample_rate) if self.is_bundled else None
        return self.transcripts(adapter, device, known=find_known_texts(adapter, device, shipped))

    def batch_hash(self, sample_rate: int) -> Callable[[SpeechBatch], str]:
        """A function that hashes a batch by the files of its clips, which are decoded to ``sample_rate`` Hz."""
        contents = ((row.uid, (self.folder / row.file_name).read_bytes()) for row in self._rows)
        return hash_by_files({uid: hashlib.sha256(content).hexdigest() for uid, content in contents}, sample_rate)

    def _batches(self, adapter: ASRAdapter, every: int, drafts: Mapping[str, str]) -> Iterator[SpeechBatch]:
        """Batches without transcripts, since a transcript of the canary need not be a valid target for the model.

        If padding changes the model's results, each clip is a batch of its own. Otherwise other clips of a batch could
        cause a difference of two words that decides about the weights.
        """
        clips = sorted(self._clips(adapter.limits)[::every], key=lambda clip: (clip.seconds, clip.uid))
        size = self.batch_size if adapter.limits.padding_invariant else 1
        collate = adapter.collator()
        if adapter.limits.max_target_tokens is not None:  # only attention decoders can start from a draft
            clips = [_with_draft(clip, drafts.get(clip.uid, ""), collate) for clip in clips]
        for batch in cut(range(len(clips)), size) if clips else []:
            yield collate([clips[index] for index in batch])

    def _clips(self, limits: AudioLimits) -> list[Utterance]:
        clips = [replace(clip, text="") for clip in self._decoded(limits.sample_rate)]
        max_seconds = float("inf") if limits.max_seconds is None else limits.max_seconds
        fitting = [clip for clip in clips if limits.min_seconds <= clip.seconds <= max_seconds]
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


def _with_draft(clip: Utterance, draft: str, collate: Collator) -> Utterance:
    """``clip`` with the text ``draft``, unless that has more tokens than the decoder has positions."""
    with_draft = replace(clip, text=draft)
    try:
        collate([with_draft])
    except ValueError:
        return clip
    return with_draft


def bundled(language: str | None) -> Path | None:
    """The folder of the bundled set in ``language``; None if there is none.

    Args:
        language: A code or an English name, such as ``es``, ``spa``, ``Spanish`` or Whisper's ``<|es|>``. None means
            English, since most models without an option for the language are English.
    """
    if language is None:
        return ENGLISH
    plain = language.strip("<|>").lower()
    codes = {code: code for code in LANGUAGES} | {name.lower(): code for code, name in LANGUAGES.items()}
    code = (codes | THREE_LETTERS).get(plain)
    return BUNDLED / code if code else None


def open_canary(name: str, language: str | None = None) -> Canary | None:
    """Open the canary that ``name`` chooses; None if there is none.

    Args:
        name: ``bundled``, the path of a folder, or ``off`` for no canary.
        language: Language of the model, which chooses the bundled set; None if it is not known.

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
    _ = canary.references  # read now, so that a wrong folder is reported before training
    if not canary.is_bundled:
        canary.inspect()
    return canary
