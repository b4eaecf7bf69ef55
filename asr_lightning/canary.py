"""The canary: general speech of other people, scored before and after, so that forgetting is seen. Knows no model.

The bundled set is English and mostly synthetic; ``canary_clips/README.md`` says what it holds. Any folder of
recordings with transcripts can stand in for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from asr_lightning.data.folder import scan_folder
from asr_lightning.data.rows import Row
from asr_lightning.datamodules.dataset import AudioCache
from asr_lightning.datamodules.sampler import cut
from asr_lightning.evaluation import transcribe_all
from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring import Transcript
from asr_lightning.types import AudioLimits, SpeechBatch, Utterance

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "canary_clips"
CACHE_BYTES = 2**30


class Canary:
    """A set of recordings that is read and never trained on.

    Args:
        folder: Holds ``<UID>.<audio suffix>`` and ``<UID>.txt``.
        batch_size: Most clips in a batch.
    """

    def __init__(self, folder: str | Path = BUNDLED, batch_size: int = 16) -> None:
        self.folder = Path(folder)
        self.batch_size = batch_size

    @property
    def name(self) -> str:
        """What a report calls it."""
        return "bundled set of general English, mostly synthetic" if self.folder == BUNDLED else str(self.folder)

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
        self, adapter: ASRAdapter, device: torch.device | str = "cpu", every: int = 1
    ) -> tuple[Transcript, ...]:
        """What ``adapter`` writes for every clip within its limits, or for one in ``every``, by uid."""
        adapter.model.to(device)
        found = {t.uid: t.hypothesis for t in transcribe_all(adapter, self._batches(adapter, every), device)}
        return tuple(Transcript(uid, text, found[uid]) for uid, text in self.references.items() if uid in found)

    def _batches(self, adapter: ASRAdapter, every: int) -> Iterator[SpeechBatch]:
        """Batches without transcripts: the canary is read, and whether a text could be a target is no question.

        Where padding changes results, each clip is a batch of its own: a difference of two words decides nothing then
        that only the neighbours of a clip have made.
        """
        clips = sorted(self._clips(adapter.limits)[::every], key=lambda clip: (clip.seconds, clip.uid))
        size = self.batch_size if adapter.limits.padding_invariant else 1
        collate = adapter.collator()
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


def open_canary(name: str) -> Canary | None:
    """The canary called ``name``: ``bundled``, a folder, or ``off`` for none.

    Raises:
        ValueError: The folder holds no recordings with transcripts.
    """
    if name == "off":
        return None
    canary = Canary() if name == "bundled" else Canary(name)
    _ = canary.references  # read now: a wrong folder is found before training
    return canary
