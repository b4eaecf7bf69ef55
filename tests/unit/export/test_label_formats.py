"""CTC models and transducers in onnxruntime, onnx-asr, sherpa-onnx, CTranslate2: the texts of torch, and refusals."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from asr_lightning.adapters import registry
from asr_lightning.adapters.hf.parakeet_features import ParakeetFeatures
from asr_lightning.errors import ModelError
from asr_lightning.export.graphs import files as onnx_files
from asr_lightning.export.labels import models as label_models
from asr_lightning.runtime.contract import Decoding
from asr_lightning.runtime.formats import FORMATS
from asr_lightning.runtime.labels.features import log_mel
from tests.tiny_hf import edit_json, load_tiny, write_tiny
from tests.tiny_models import clip

FAMILIES = {"parakeet_rnnt": "transducer", "parakeet_tdt": "transducer"}
LARGE = {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16}
"""The shape of position embeddings that CTranslate2 takes for granted."""
EQUAL = [
    *(("onnx", kind) for kind in ("wav2vec2", "wav2vec2-group", "wavlm", "mms", "parakeet_ctc", *FAMILIES)),
    *(("onnx-asr", kind) for kind in ("parakeet_ctc", *FAMILIES)),
    ("ctranslate2", "wav2vec2"),
    ("sherpa-onnx", "wav2vec2"),
]
"""Formats and models whose texts equal those of torch. sherpa-onnx makes features of its own."""


class Exported(NamedTuple):
    """A model that was written in a format."""

    source: Path
    folder: Path
    settings: dict[str, Any]
    converter: Any
    runtime: Any

    def problems(self, folder: Path, source: Path | None = None) -> list[str]:
        found: list[str] = self.converter.problems(source or self.source, folder, self.settings)
        return found


Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function that writes a tiny model in a format, once."""
    sources: dict[str, Path] = {}
    made: dict[tuple[str, str, str], Exported] = {}

    def write(name: str, kind: str, variant: str = "fp32") -> Exported:
        if kind not in sources:
            sources[kind] = written(tmp_path_factory.mktemp("source") / kind, kind)
        if (name, kind, variant) not in made:
            converter, runtime = modules(name, FAMILIES.get(kind, "ctc"))
            folder = tmp_path_factory.mktemp("exported")
            settings = json.loads(json.dumps(converter.convert(sources[kind], folder, variant)))
            made[name, kind, variant] = Exported(sources[kind], folder, settings, converter, runtime)
        return made[name, kind, variant]

    return write


def written(folder: Path, kind: str) -> Path:
    """Write a tiny model whose texts differ from clip to clip; that of MMS as an adapter saves it.

    Transducers never write a special label, which other programs would show, and a TDT model goes on after each label:
    the limit for labels at one frame is each program's own.
    """
    write_tiny(folder, kind, **(LARGE if kind == "wav2vec2" else {}))
    if kind == "mms":
        load_tiny(folder, kind).save(folder.with_name("saved"))
        return folder.with_name("saved")
    if kind.startswith("parakeet"):
        weights = load_file(folder / "model.safetensors")
        for name in weights:
            if (
                any(part in name for part in ("joint", "ctc_head", "projector", "embedding"))
                and weights[name].dim() > 1
            ):
                weights[name] = weights[name] * 6
        if kind != "parakeet_ctc":
            weights["joint.head.bias"][:2] = -100
        if kind == "parakeet_tdt":
            weights["joint.head.bias"][-5] = -100
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def modules(name: str, family: str) -> tuple[Any, Any]:
    (chosen,) = [known for known in FORMATS if known.name == name]
    assert family in chosen.families
    return tuple(importlib.import_module(str(m)) for m in chosen.modules[family])  # type: ignore[return-value]


def texts_of(source: Path, utterances: list[Any]) -> list[str]:
    adapter = registry.build(str(source))
    return [adapter.transcribe(adapter.collator()([utterance]))[0] for utterance in utterances]


@pytest.mark.parametrize(("name", "kind"), EQUAL)
def test_reads_what_torch_reads(name: str, kind: str, export: Export) -> None:
    made = export(name, kind)
    utterances = [clip(seconds, seed=seed) for seed, seconds in enumerate((1.0, 2.34567, 0.7))]
    expected = texts_of(made.source, utterances)
    assert len(set(expected)) > 1
    model = made.runtime.load(made.folder, made.settings, 1)
    assert [h.text for h in model.transcribe([u.waveform.numpy() for u in utterances])] == expected
    assert model.transcribe([]) == []


@pytest.mark.parametrize("kind", ["parakeet_ctc", "parakeet_rnnt", "parakeet_tdt"])
def test_sherpa_reads_nearly_what_torch_reads(kind: str, export: Export) -> None:
    """Its features are another program's: the labels of a random model are mostly, and not all, the same."""
    made = export("sherpa-onnx", kind)
    utterances = [clip(seconds, seed=seed) for seed, seconds in enumerate((1.0, 2.3, 3.0, 0.7))]
    model = made.runtime.load(made.folder, made.settings, 1)
    read = model.transcribe([utterance.waveform.numpy() for utterance in utterances])
    pairs = [(hypothesis.text, text) for hypothesis, text in zip(read, texts_of(made.source, utterances), strict=True)]
    assert any(read == text for read, text in pairs), pairs


@pytest.mark.parametrize(("name", "kind"), [
    ("onnx", "mms"), ("onnx", "parakeet_tdt"), ("onnx-asr", "parakeet_ctc"), ("ctranslate2", "wav2vec2"),
    ("sherpa-onnx", "parakeet_tdt"),
])  # fmt: skip
def test_finds_no_problem_in_good_files(name: str, kind: str, export: Export) -> None:
    made = export(name, kind)
    assert made.problems(made.folder) == []


@pytest.mark.parametrize(
    ("name", "kind"), [("onnx", "wavlm"), ("ctranslate2", "wav2vec2"), ("sherpa-onnx", "parakeet_rnnt")]
)
def test_rounded_weights_are_near_enough(name: str, kind: str, export: Export) -> None:
    made = export(name, kind, "int8")
    assert made.problems(made.folder) == []


SABOTAGED = [("onnx", "wav2vec2"), ("ctranslate2", "wav2vec2"), ("sherpa-onnx", "parakeet_tdt"),
             ("onnx-asr", "parakeet_rnnt")]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), SABOTAGED)
def test_refuses_missing_and_truncated_files(name: str, kind: str, export: Export, tmp_path: Path) -> None:
    made = export(name, kind)
    for file in sorted(path.name for path in made.folder.iterdir()):
        folder = shutil.copytree(made.folder, tmp_path / file)
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])
        if (name, file) != ("ctranslate2", "config.json"):  # "{}": nothing in it is read
            assert any(file in problem for problem in made.problems(folder)), file
        (folder / file).unlink()
        assert any(file in problem for problem in made.problems(folder)), file
        if file != "config.json" or name == "ctranslate2":
            with pytest.raises(ModelError, match=file):
                made.runtime.load(folder, made.settings, 1)


@pytest.mark.parametrize(("name", "kind"), SABOTAGED)
def test_refuses_the_weights_of_another_training(name: str, kind: str, export: Export, tmp_path: Path) -> None:
    """As if LoRA were not merged: the files are those of the untouched model."""
    made = export(name, kind)
    tuned = shutil.copytree(made.source, tmp_path / "tuned")
    weights = load_file(tuned / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for entry in weights:
        if weights[entry].dim() == 2:
            noise = torch.randn(weights[entry].shape, generator=generator)
            weights[entry] = weights[entry] + weights[entry].std() * noise
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    assert any("computes something else" in problem for problem in made.problems(made.folder, tuned))
    weights["encoder.lora_A.weight"] = torch.ones(1)
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="LoRA that was not merged"):
        made.problems(made.folder, tuned)


@pytest.mark.parametrize(("name", "kind", "file"), [
    ("onnx", "wav2vec2", "model.onnx"),
    ("onnx-asr", "parakeet_tdt", "encoder-model.onnx"),
    ("sherpa-onnx", "parakeet_rnnt", "joiner.onnx"),
])  # fmt: skip
def test_refuses_swapped_tensors(name: str, kind: str, file: str, export: Export, tmp_path: Path) -> None:
    made = export(name, kind)
    folder = shutil.copytree(made.folder, tmp_path / "swapped")
    model = onnx.load(str(folder / file))
    tensors = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
    first = tensors[0]
    same = [tensor for tensor in tensors[1:] if tensor.dims == first.dims]
    array = numpy_helper.to_array(first)
    other = numpy_helper.to_array(same[-1]) if same else array[::-1].copy()  # or rows in the opposite order
    if same:
        same[-1].CopyFrom(numpy_helper.from_array(array, same[-1].name))
    first.CopyFrom(numpy_helper.from_array(other, first.name))
    onnx.save(model, str(folder / file))
    assert any("weights in other places" in problem for problem in made.problems(folder))


@pytest.mark.parametrize(("name", "kind"), SABOTAGED)
def test_refuses_another_vocabulary(name: str, kind: str, export: Export, tmp_path: Path) -> None:
    made = export(name, kind)
    file = "tokens.txt" if name == "sherpa-onnx" else "vocab.txt"
    lines = (made.folder / file).read_text().splitlines(keepends=True)
    for case, content in {
        "shorter": lines[:-1],
        "other": [*lines[:9], "x 9\n", *lines[10:]],
        "order": lines[::-1],
    }.items():
        folder = shutil.copytree(made.folder, tmp_path / case)
        (folder / file).write_text("".join(content))
        assert any(file in problem for problem in made.problems(folder)), case


def test_refuses_wrong_metadata(export: Export, tmp_path: Path) -> None:
    made = export("sherpa-onnx", "parakeet_tdt")
    folder = shutil.copytree(made.folder, tmp_path / "metadata")
    model = onnx.load(str(folder / "encoder.onnx"))
    onnx.helper.set_model_props(model, {"vocab_size": "7"})
    onnx.save(model, str(folder / "encoder.onnx"))
    found = made.problems(folder)
    assert any("vocab_size '7'" in problem for problem in found)
    assert any("normalize_type 'nothing'" in problem for problem in found)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_weights_too_large_for_one_file_lie_beside_it(
    variant: str, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "MOST_BYTES", 10_000)
    made = export("onnx", "wav2vec2")
    settings = made.converter.convert(made.source, tmp_path, variant)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data", "vocab.txt"]
    assert made.converter.problems(made.source, tmp_path, settings) == []


def test_says_which_format_to_take_instead(export: Export, tmp_path: Path) -> None:
    ctc = export("onnx", "wav2vec2").source
    with pytest.raises(ModelError, match="take --to onnx or --to sherpa-onnx"):
        modules("onnx-asr", "ctc")[0].convert(ctc, tmp_path, "int8")
    with pytest.raises(ModelError, match="model_type 'hubert'.*take --to onnx"):
        modules("ctranslate2", "ctc")[0].convert(export("onnx", "hubert").source, tmp_path, "int8")
    plain = shutil.copytree(ctc, tmp_path / "plain")
    edit_json(plain / "preprocessor_config.json", do_normalize=False)
    with pytest.raises(ModelError, match="sherpa-onnx normalizes them: take --to onnx"):
        modules("sherpa-onnx", "ctc")[0].convert(plain, tmp_path, "int8")


def test_features_equal_those_of_training(export: Export) -> None:
    adapter = registry.build(str(export("onnx", "parakeet_ctc").source))
    for seed, seconds in enumerate((0.5, 1.23456)):
        wave = clip(seconds, seed=seed).waveform
        expected = ParakeetFeatures(adapter.extractor)(wave[None], torch.tensor([len(wave)]))
        count = int(expected["attention_mask"].sum())
        settings = label_models.load(export("onnx", "parakeet_ctc").source).settings.features
        assert settings is not None
        made = log_mel(wave.numpy(), settings)
        np.testing.assert_allclose(made, expected["input_features"][0, :count].T.numpy(), atol=2e-4)


def test_words_have_times_and_probabilities(export: Export) -> None:
    made = export("onnx", "wav2vec2")
    model = made.runtime.load(made.folder, made.settings, 1)
    wave = clip(1.5).waveform.numpy()
    (read,) = model.transcribe([wave], Decoding(words=True))
    assert " ".join(word.text for word in read.words) == " ".join(read.text.split())
    ends = [0.0] + [word.end for word in read.words]
    assert all(end <= word.start < word.end <= 1.5 for end, word in zip(ends, read.words, strict=False))
    assert all(word.confidence is not None and 0 < word.confidence < 1 for word in read.words)
    assert read.confidence is not None and 0 < read.confidence < 1
