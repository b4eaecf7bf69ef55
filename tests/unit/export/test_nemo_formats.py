"""NeMo's CTC models and transducers in onnxruntime, onnx-asr and sherpa-onnx: the texts of NeMo, and refusals."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.errors import ModelError
from asr_lightning.runtime.formats import FORMATS
from tests.tiny_models import clip
from tests.tiny_nemo import tiny_nemo

pytest.importorskip("nemo")
pytestmark = pytest.mark.nemo

CASES = [("onnx", "ctc"), ("onnx", "hybrid"), ("onnx", "tdt"), ("onnx-asr", "ctc"), ("onnx-asr", "rnnt"),
         ("sherpa-onnx", "tdt")]  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def write(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_nemo(tmp_path_factory.mktemp("models") / f"{kind}.nemo", kind)
        return made[kind]

    return write


def modules(name: str) -> tuple[Any, Any]:
    (chosen,) = [known for known in FORMATS if known.name == name]
    return (
        importlib.import_module(chosen.modules["nemo"].converter),
        importlib.import_module(str(chosen.modules["nemo"].runtime)),
    )


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_reads_what_nemo_reads(name: str, kind: str, sources: Any, tmp_path: Path) -> None:
    source, (converter, runtime) = sources(kind), modules(name)
    settings = json.loads(json.dumps(converter.convert(source, tmp_path, "fp32")))
    assert converter.problems(source, tmp_path, settings) == []
    adapter = NeMoAdapter(str(source))
    utterances = [clip(seconds, seed=seed) for seed, seconds in enumerate((1.0, 2.34567, 3.1))]
    expected = [adapter.transcribe(adapter.collator()([utterance]))[0] for utterance in utterances]
    assert any(expected)
    model = runtime.load(tmp_path, settings, 1)
    assert [h.text for h in model.transcribe([u.waveform.numpy() for u in utterances])] == expected


def test_hybrid_is_written_with_the_head_that_reads(sources: Any, tmp_path: Path) -> None:
    adapter = NeMoAdapter(str(sources("hybrid")), decoder="ctc")
    adapter.save(tmp_path / "saved")
    converter, runtime = modules("onnx")
    (tmp_path / "out").mkdir()
    settings = converter.convert(tmp_path / "saved", tmp_path / "out", "int8")
    assert settings["kind"] == "ctc"
    assert converter.problems(tmp_path / "saved", tmp_path / "out", settings) == []
    assert runtime.load(tmp_path / "out", settings, 1).transcribe([clip(1.0).waveform.numpy()])[0].text


def test_refuses_files_of_another_model(sources: Any, tmp_path: Path) -> None:
    converter, runtime = modules("sherpa-onnx")
    settings = converter.convert(sources("ctc"), tmp_path, "fp32")
    assert any("tokens.txt" in problem for problem in converter.problems(sources("ctc-characters"), tmp_path, settings))
    (tmp_path / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes()[:1000])
    assert any("model.onnx" in problem for problem in converter.problems(sources("ctc"), tmp_path, settings))
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ModelError, match="model.onnx is missing"):
        runtime.load(tmp_path, settings, 1)


def test_refuses_other_features(tmp_path: Path) -> None:
    source = tiny_nemo(tmp_path / "other.nemo", "ctc", preprocessor__normalize="all_features")
    with pytest.raises(ModelError, match="'all_features'"):
        modules("onnx")[0].convert(source, tmp_path, "int8")
    shutil.rmtree(tmp_path)
