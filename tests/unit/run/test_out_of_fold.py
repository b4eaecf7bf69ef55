"""The figures out of fold, for a model whose native mode is not that of its training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from asr_lightning.adapters import saved
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.run import out_of_fold
from asr_lightning.run.ends import End, Part
from asr_lightning.run.selection import Selection, SelectionSettings
from asr_lightning.scoring.comparison import Comparison
from asr_lightning.scoring.edits import Transcript
from asr_lightning.scoring.evaluation import evaluate
from asr_lightning.scoring.text import basic
from tests.tiny_models import tiny_whisper


def test_each_clip_is_read_natively_by_the_model_of_its_fold(tones_once: Path, tmp_path: Path) -> None:
    """The model that is handed over has heard every clip, so it reads none of them."""
    folder = tiny_whisper(tmp_path / "tiny", multilingual=False)
    source, live, reader = (WhisperAdapter(str(folder), max_tokens_per_second=2) for _ in range(3))
    data = AudioFolderDataModule(str(tones_once), batch_size=4, collator=source.collator(), limits=source.limits)
    rows = data.splits["train"][:4]
    folds = [data.divided({"train": rows[:2], "dev": rows[2:], "test": ()})]
    folds += [data.divided({"train": rows[2:], "dev": rows[:2], "test": ()})]
    states = [changed(live, seed) for seed in (1, 2)]
    parts = (Part(fold, partial(dict, state)) for fold, state in zip(folds, states, strict=True))
    end = End("average of 2 folds", tuple(parts))
    together = data.divided({"train": rows, "dev": rows, "test": ()})
    base = evaluate(source.native(), together.loader("dev", source.native().collator()))
    selection = Selection("cpu", basic, SelectionSettings(min_probability=0.0, alphas=()), None, base)
    chosen = selection.run(live, source, [end], tmp_path / "model")
    shipped = saved.load(tmp_path / "model")
    if not chosen.alpha:  # the weights of a random model are no better: the texts out of fold are compared all the same
        chosen = next(candidate for candidate in selection.candidates if candidate.alpha == 1)
        selection.parts, shipped = states, live

    result = out_of_fold.tested(Comparison(together), end, selection, chosen, shipped)
    assert {pair.uid: pair.after for pair in result.pairs} == texts(chosen.dev.transcripts)
    assert {pair.uid: pair.before for pair in result.pairs} == texts(base.transcripts)
    expected: dict[str, str] = {}
    for fold, state in zip(folds, states, strict=True):
        reader.model.load_state_dict(state)
        expected |= texts(Comparison(fold).transcripts(reader.native(), "dev"))
    assert result.native is not None
    assert {pair.uid: pair.after for pair in result.native} == expected
    assert expected != texts(chosen.dev.transcripts) and len(set(expected.values())) > 1


def changed(adapter: WhisperAdapter, seed: int) -> dict[str, torch.Tensor]:
    """The weights with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in adapter.model.state_dict().items()
    }


def texts(transcripts: tuple[Transcript, ...] | list[Transcript]) -> dict[str, str]:
    return {transcript.uid: transcript.hypothesis for transcript in transcripts}
