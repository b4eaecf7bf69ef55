"""The test figures of a run without a test split: each clip as read by the model that was not trained on it.

Knows the adapter contract and no model.
"""

from __future__ import annotations

import logging

from asr_lightning.protocols import ASRAdapter
from asr_lightning.run.ends import End
from asr_lightning.run.selection import Candidate, Selection
from asr_lightning.scoring.comparison import Comparison, Tested, pairs
from asr_lightning.scoring.edits import Transcript

logger = logging.getLogger(__name__)


def tested(compare: Comparison, end: End, selection: Selection, chosen: Candidate, adapter: ASRAdapter) -> Tested:
    """The texts of every clip before and after, without the model that is handed over: it has heard all clips.

    Args:
        compare: Reads the clips.
        end: The models of the folds, with their data.
        selection: The selection, which has the weights of each fold's model at the chosen alpha.
        chosen: The candidate that is handed over.
        adapter: An adapter of the model's architecture. Its weights are overwritten.
    """
    before = selection.base_dev.transcripts
    after = pairs(before, chosen.dev.transcripts)
    native = adapter.native()
    if native is adapter or not chosen.alpha:
        return Tested(after, None)
    logger.info("each model reads the clips of its own fold natively, out of fold")
    texts: list[Transcript] = []
    for part, weights in zip(end.parts, selection.parts, strict=True):
        adapter.model.load_state_dict(weights)
        texts += Comparison(part.data, compare.device, compare.normalizer).transcripts(native, "dev")
    return Tested(after, pairs(before, texts))
