"""Whisper in the three ONNX formats: the texts of the runtimes against torch's, and the gate apart from texts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from asr_lightning.adapters import registry
from asr_lightning.errors import MissingExtraError, ModelError
from asr_lightning.export.graphs import building as onnx_graph
from asr_lightning.export.whisper import onnx as onnx_whisper
from asr_lightning.export.whisper import sherpa_onnx as sherpa_whisper
from asr_lightning.export.whisper import transformers_js
from asr_lightning.runtime.contract import Decoding
from asr_lightning.runtime.whisper import onnx as onnx_runtime
from asr_lightning.runtime.whisper import sherpa_onnx as sherpa_runtime
from asr_lightning.runtime.whisper import transformers_js as js_runtime
from tests.tiny_models import clip, tiny_whisper

CONVERTERS: dict[str, Any] = {"onnx": onnx_whisper, "sherpa-onnx": sherpa_whisper, "transformers.js": transformers_js}
CLIPS = [clip(seconds, seed=seed) for seed, seconds in enumerate((0.3, 1.0, 2.7))]
NATIVE = Decoding(native=True)


class Model(NamedTuple):
    """A specialized model in torch and its folder."""

    adapter: Any
    folder: Path

    def texts(self, native: bool) -> list[str]:
        adapter = self.adapter.native() if native else self.adapter
        return [adapter.transcribe(adapter.collator()([item]))[0] for item in CLIPS]


@pytest.fixture(scope="module", params=["multilingual", "english"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp(request.param)
    is_multilingual = request.param == "multilingual"
    options = {"language": "de"} if is_multilingual else {}
    adapter = registry.build(str(tiny_whisper(folder / "tiny", is_multilingual)), **options)
    adapter.save(folder / "saved")
    return Model(adapter, folder / "saved")


class Exported(NamedTuple):
    """A folder in a format, and its settings as ``export.json`` gives them back."""

    folder: Path
    settings: dict[str, Any]


def _export(source: Path, target: Path, name: str, variant: str) -> Exported:
    target.mkdir(parents=True)
    return Exported(target, json.loads(json.dumps(CONVERTERS[name].convert(source, target, variant))))


@pytest.fixture(scope="module")
def pair(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(model.folder, tmp_path_factory.mktemp("pair") / "sherpa", "sherpa-onnx", "fp32")


def _read(runtime: Any, decoding: Decoding = Decoding()) -> list[str]:  # noqa: B008 - frozen
    return [found.text for found in runtime.transcribe([item.waveform.numpy() for item in CLIPS], decoding)]


def test_onnxruntime_writes_the_texts_of_torch(model: Model, pair: Exported) -> None:
    runtime = onnx_runtime.load(pair.folder, pair.settings, 1)
    assert _read(runtime) == model.texts(native=False)
    assert _read(runtime, NATIVE) == model.texts(native=True)
    assert onnx_whisper.problems(model.folder, pair.folder, pair.settings) == []


def test_sherpa_onnx_reads_the_same_pair(model: Model, pair: Exported) -> None:
    """It cuts texts off earlier. The first clip is left out: its 0.3 s are mostly last frames, which differ."""
    texts = _read(sherpa_runtime.load(pair.folder, pair.settings, 1), NATIVE)
    for text, of_torch in list(zip(texts, model.texts(native=True), strict=True))[1:]:
        assert text
        assert of_torch.startswith(text)
    assert sherpa_whisper.problems(model.folder, pair.folder, pair.settings) == []


def test_sherpa_onnx_hears_silence_where_it_pads_with_zeros(pair: Exported) -> None:
    mel = np.random.default_rng(0).normal(size=(1, 80, 64)).astype(np.float32)
    mel[..., 40:] = 0.0
    padded = mel.copy()
    padded[..., 40:] = max(mel.max() - 2, -1.5)
    encoder = onnxruntime.InferenceSession(str(pair.folder / "encoder.onnx"))
    for heard, wanted in zip(encoder.run(None, {"mel": mel}), encoder.run(None, {"mel": padded}), strict=True):
        assert np.array_equal(heard, wanted)


def test_onnxruntime_tells_words_confidence_and_follows_a_beam(pair: Exported) -> None:
    runtime = onnx_runtime.load(pair.folder, pair.settings, 1)
    samples = CLIPS[2].waveform.numpy()
    greedy, beam = (runtime.transcribe([samples], Decoding(beam, words=True))[0] for beam in (1, 5))
    for found in (greedy, beam):
        assert "".join(word.text for word in found.words).replace(" ", "") == found.text.replace(" ", "")
        assert all(0 <= word.start <= word.end <= 2.7 + 0.02 and 0 < word.confidence <= 1 for word in found.words)
        assert 0 < found.confidence <= 1
    assert beam.confidence >= greedy.confidence


def test_words_are_aligned_by_the_heads_that_sherpa_onnx_aligns_by(pair: Exported) -> None:
    ours, theirs = (module.load(pair.folder, pair.settings, 1) for module in (onnx_runtime, sherpa_runtime))
    samples = CLIPS[1].waveform.numpy()
    mine, other = (runtime.transcribe([samples], Decoding(native=True, words=True))[0] for runtime in (ours, theirs))
    assert other.words
    assert mine.words[0].start == other.words[0].start
    assert other.words[-1].end <= len(samples) / 16_000


@pytest.mark.parametrize("name", ["onnx", "transformers.js"])
def test_quantized_weights_are_close_and_the_embedding_is_stored_once(name: str, model: Model, tmp_path: Path) -> None:
    variant = {"onnx": "int8", "transformers.js": "q8"}[name]
    whole, quantized = (_export(model.folder, tmp_path / kind, name, kind) for kind in ("fp32", variant))
    size, smaller = (sum(path.stat().st_size for path in made.folder.rglob("*.onnx")) for made in (whole, quantized))
    assert smaller < 0.4 * size
    assert CONVERTERS[name].problems(model.folder, quantized.folder, quantized.settings) == []
    if name == "onnx":
        assert all(_read(onnx_runtime.load(quantized.folder, quantized.settings, 1)))


def test_transformers_js_steps_write_the_texts_of_torch(model: Model, tmp_path: Path) -> None:
    """Calls the graphs as its ``decoder_forward`` does: an empty cache first, then its own outputs."""
    made = _export(model.folder, tmp_path / "js", "transformers.js", "fp32")
    sessions = (
        onnxruntime.InferenceSession(str(made.folder / "onnx" / f"{name}.onnx"))
        for name in ("encoder_model", "decoder_model_merged")
    )
    encoder, decoder = sessions
    tokens = onnx_runtime.WhisperTokens(made.folder / "tokenizer.json", made.settings["eos"], None)
    settings = onnx_runtime.WhisperSettings.from_json(made.settings)
    texts = []
    for item in CLIPS:
        samples = item.waveform.numpy()
        mel = onnx_runtime.log_mel(samples, settings.num_frames(len(samples)), settings.num_mels)
        hidden = encoder.run(None, {"input_features": mel[None]})[0]
        texts.append(tokens.text(_as_in_javascript(decoder, hidden, settings, settings.max_tokens(len(samples)))))
    assert texts == model.texts(native=False)


def _as_in_javascript(decoder: Any, hidden: np.ndarray, settings: Any, cap: int) -> list[int]:
    cache = {
        value.name: np.zeros([1, value.shape[1], 0, value.shape[3]], np.float32)
        for value in decoder.get_inputs()
        if value.name.startswith("past")
    }
    outputs = [value.name for value in decoder.get_outputs()]
    fed, written = list(settings.prompt), []
    while len(written) < cap:
        feeds = {"input_ids": np.array([fed]), "encoder_hidden_states": hidden} | cache
        feeds["use_cache_branch"] = np.array([bool(written)])
        found = dict(zip(outputs, decoder.run(outputs, feeds), strict=True))
        forbidden = [*settings.suppress, *(settings.begin_suppress if not written else ())]
        found["logits"][..., forbidden] = -np.inf
        for name in cache:
            if not (written and ".encoder." in name):
                cache[name] = found[name.replace("past_key_values", "present")]
        fed = [int(found["logits"][0, -1].argmax())]
        if fed == [settings.eos]:
            break
        written += fed
    return written


def _change_model(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))


def _tensor(model: onnx.ModelProto, part: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if part in tensor.name)


def _swap(model: onnx.ModelProto) -> None:
    one, other = (_tensor(model, f"layers.{number}.fc1.weight") for number in (0, 1))
    one.raw_data, other.raw_data = other.raw_data, one.raw_data


def _break(model: onnx.ModelProto) -> None:
    tensor = _tensor(model, "fc1.weight")
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _unmerge(model: onnx.ModelProto) -> None:
    matrix = np.zeros((4, 32), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(matrix, "model.encoder.layers.0.self_attn.q_proj.lora_A"))


def _rewire(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    node.attribute[0].i, node.attribute[1].f = -1, 0.1


def _fewer_heads(model: onnx.ModelProto) -> None:
    tensor = _tensor(model, "heads_")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:1], tensor.name))


def _other_vocabulary(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["filler300"], vocabulary["filler301"] = vocabulary["filler301"], vocabulary["filler300"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _encoder(folder: Path) -> Path:
    return next(folder.rglob("encoder*.onnx"))


def _decoder(folder: Path) -> Path:
    return next(folder.rglob("decoder*.onnx"))


SABOTAGE: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "another vocabulary": (_other_vocabulary, "tokenizer.json does not have the vocabulary"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "a broken tokenizer": (lambda folder: _truncate(folder / "tokenizer.json"), "tokenizer.json cannot be read"),
    "no extractor": (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
    "a truncated graph": (lambda folder: _truncate(_decoder(folder)), "decoder.*cannot be read"),
    "no graph": (lambda folder: _encoder(folder).unlink(), "encoder.*is missing"),
    "swapped tensors": (lambda f: _change_model(_encoder(f), _swap), "fc1.weight does not have the values"),
    "not finite": (lambda folder: _change_model(_decoder(folder), _break), "fc1.weight has values that are not finite"),
    "LoRA": (lambda folder: _change_model(_encoder(folder), _unmerge), "lora_A, so that LoRA was not merged"),
    "another operation": (lambda folder: _change_model(_encoder(folder), _rewire), "operations are not those"),
}
PAIR_SABOTAGE: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "alignment heads": (lambda folder: _change_model(_decoder(folder), _fewer_heads), "heads_1 is int64"),
    "metadata": (
        lambda folder: _change_model(_encoder(folder), lambda model: model.metadata_props.pop()),
        "its metadata has None for no_timestamps",
    ),
    "no tokens": (lambda folder: (folder / "tokens.txt").unlink(), "tokens.txt is missing"),
}
CASES = [
    *((name, sabotage) for name in ("onnx", "transformers.js") for sabotage in SABOTAGE),
    *(("sherpa-onnx", sabotage) for sabotage in PAIR_SABOTAGE),
]


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper(tmp_path_factory.mktemp("english") / "tiny", multilingual=False)


@pytest.fixture(scope="module")
def whole(english: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Exported]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: _export(english, folder / name, name, "fp32") for name in CONVERTERS}


@pytest.mark.parametrize(("name", "sabotage"), CASES)
def test_the_gate_refuses(
    name: str, sabotage: str, english: Path, whole: Mapping[str, Exported], tmp_path: Path
) -> None:
    change, message = (SABOTAGE | PAIR_SABOTAGE)[sabotage]
    shutil.copytree(whole[name].folder, tmp_path / "copy")
    change(tmp_path / "copy")
    problems = CONVERTERS[name].problems(english, tmp_path / "copy", whole[name].settings)
    assert len(problems) <= 2
    assert any(re.search(message, problem) for problem in problems), problems


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_gate_refuses_other_settings(name: str, english: Path, whole: Mapping[str, Exported]) -> None:
    folder, settings = whole[name]
    problems = CONVERTERS[name].problems(english, folder, settings | {"alignment_heads": [], "num_mels": 128})
    assert [problem.split(" is ")[0] for problem in problems] == ["the setting num_mels", "the setting alignment_heads"]


def test_an_untouched_model_is_read_in_the_window_alone(whole: Mapping[str, Exported]) -> None:
    """``english`` carries no record of a run."""
    assert whole["onnx"].settings["true_length"] is False
    assert whole["sherpa-onnx"].settings["tail_paddings"] > 2800


def test_large_weights_lie_beside_the_graph(english: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of protobuf has at most 2 GiB, as whisper-large would have in one file."""
    monkeypatch.setattr(onnx_graph, "EXTERNAL_BYTES", 1_000)
    made = _export(english, tmp_path / "large", "onnx", "fp32")
    assert (made.folder / "decoder.onnx.data").stat().st_size > (made.folder / "decoder.onnx").stat().st_size
    assert onnx_whisper.problems(english, made.folder, made.settings) == []
    assert _read(onnx_runtime.load(made.folder, made.settings, 1))
    (made.folder / "decoder.onnx.data").unlink()
    assert "decoder.onnx" in onnx_whisper.problems(english, made.folder, made.settings)[0]


def test_a_damaged_graph_is_named(whole: Mapping[str, Exported], tmp_path: Path) -> None:
    shutil.copytree(whole["onnx"].folder, tmp_path / "copy")
    _truncate(tmp_path / "copy" / "decoder.onnx")
    with pytest.raises(ModelError, match=r"decoder\.onnx cannot be read.*export the model again"):
        onnx_runtime.load(tmp_path / "copy", whole["onnx"].settings, 1)


def test_transformers_js_says_what_to_install(
    whole: Mapping[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(js_runtime.VARIABLE, str(tmp_path))
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    with pytest.raises(MissingExtraError, match="npm install --global @huggingface/transformers"):
        js_runtime.load(*whole["transformers.js"], 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="needs Node"):
        js_runtime.load(*whole["transformers.js"], 1)


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in the folder that the environment names, else installed into a folder of this test."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    if os.environ.get(js_runtime.VARIABLE):
        return Path(os.environ[js_runtime.VARIABLE])
    if not os.environ.get("ASR_TEST_SLOW"):
        pytest.skip("half a minute, most of it an installation of 400 MB: ASR_TEST_SLOW=1 runs it")
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", js_runtime.PACKAGE.as_posix()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"the registry of npm cannot be reached: {done.stderr[-200:]}")
    return folder / "node_modules"


def test_transformers_js_in_node_writes_the_texts_of_torch(
    model: Model, node_modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(js_runtime.VARIABLE, str(node_modules))
    made = _export(model.folder, tmp_path / "js", "transformers.js", "fp32")
    runtime = js_runtime.load(*made, 1)
    assert _read(runtime) == model.texts(native=False)
    assert _read(runtime, NATIVE) == model.texts(native=True)
    (made.folder / "config.json").unlink()
    with pytest.raises(ModelError, match="in Node reports"):
        js_runtime.load(*made, 1)
