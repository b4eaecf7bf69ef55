"""Decides whether an export may be handed out, by its texts beside those of torch. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asr_lightning.export.measure import Clip, Reading
from asr_lightning.runtime.formats import FLOAT, Target
from asr_lightning.scoring.text import Normalizer


@dataclass(frozen=True)
class Context:
    """What torch and a runtime have read in the same clips, with the same length of context.

    Attributes:
        name: The context: ``30 s window``, or empty for the one that the model is used in.
        torch: What torch has read.
        runtime: What the runtime has read.
    """

    name: str
    torch: Reading
    runtime: Reading

    @property
    def same_text(self) -> float:
        """Share of clips with the same text."""
        same = sum(self.runtime.texts[uid] == text for uid, text in self.torch.texts.items())
        return same / len(self.torch.texts)


def text_problems(
    target: Target, contexts: Sequence[Context], clips: Sequence[Clip], normalize: Normalizer
) -> list[str]:
    """Return why ``target`` is refused, as sentences; none if it is as good as torch.

    The WER may be higher by the tolerance of the variant, or by what one clip can account for. Where the runtime
    computes what torch does, unquantized texts must be equal too, but for a share or one clip.
    """
    return [
        problem
        for context in contexts
        for problem in (_worse(target, context, clips, normalize), _different(target, context))
        if problem
    ]


def _worse(target: Target, context: Context, clips: Sequence[Clip], normalize: Normalizer) -> str | None:
    words = [len(normalize(clip.text).split()) for clip in clips]
    allowed = max(target.tolerance, max(words) / max(sum(words), 1))
    torch, runtime = context.torch.wer(clips, normalize), context.runtime.wer(clips, normalize)
    if runtime - torch <= allowed:
        return None
    return (
        f"its WER is {runtime:.1%}{_where(context)}, and {torch:.1%} in torch: "
        f"{100 * (runtime - torch):.1f} points worse, where {100 * allowed:.1f} are allowed"
    )


def _different(target: Target, context: Context) -> str | None:
    if target.variant != FLOAT or not target.format.same_text:
        return None
    clips = len(context.torch.texts)
    different = round(clips * (1 - context.same_text))
    if different <= max(1, clips * (1 - target.format.same_text)):
        return None
    return (
        f"only {context.same_text:.0%} of its texts{_where(context)} equal those of torch, "
        f"where {target.format.same_text:.0%} are required"
    )


def _where(context: Context) -> str:
    return f" in the {context.name}" if context.name else ""
