"""What a ``.nemo`` file may hold. Needs no NeMo: the files are written by hand, and refused before NeMo sees them."""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_lightning.adapters.nemo.archive import unpack
from asr_lightning.adapters.shared.hub import SourceError

ASR = "nemo.collections.asr"
CONFIG: dict[str, Any] = {
    "target": f"{ASR}.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
    "preprocessor": {"_target_": f"{ASR}.modules.AudioToMelSpectrogramPreprocessor"},
    "encoder": {"_target_": f"{ASR}.modules.ConformerEncoder", "d_model": 32},
    "decoder": {"_target_": f"{ASR}.modules.RNNTDecoder"},
    "aux_ctc": {"decoder": {"_target_": f"{ASR}.modules.ConvASRDecoder"}, "decoding": {"strategy": "greedy"}},
    "tokenizer": {"dir": "/where/it/was/made", "type": "bpe", "model_path": "nemo:t.model", "vocab_path": "nemo:v.txt"},
    "decoding": {"strategy": "greedy_batch", "greedy": {"ngram_lm_model": None, "max_symbols": 10}},
}
FILES = {"model_weights.ckpt": b"weights", "t.model": b"pieces", "v.txt": b"words"}


def write(path: Path, config: Any = CONFIG, mode: str = "w", extra: Callable[[tarfile.TarFile], None] | None = None,
          without: str = "") -> Path:  # fmt: skip
    """A ``.nemo`` file with ``config``; ``extra`` adds what it likes."""
    files = {"model_config.yaml": config if isinstance(config, bytes) else yaml.safe_dump(config).encode(), **FILES}
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            if name != without:
                add(archive, f"./{name}", content)
        if extra:
            extra(archive)
    return path


def add(
    archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    """One member of any kind."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, link
    archive.addfile(member, io.BytesIO(content))


def changed(place: str, value: Any) -> dict[str, Any]:
    """``CONFIG`` with ``value`` at the dotted ``place``."""
    config = copy.deepcopy(CONFIG)
    *parents, last = place.split(".")
    node = config
    for name in parents:
        node = node.setdefault(name, {})
    node[last] = value
    return config


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_sound_file_is_unpacked_whole(tmp_path: Path, mode: str) -> None:
    """Releases before NeMo 1.7 are compressed."""
    folder = tmp_path / "out"
    folder.mkdir()
    assert unpack(write(tmp_path / "m.nemo", mode=mode), folder) == CONFIG
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name in FILES} == FILES


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (lambda a: add(a, "link", kind=tarfile.SYMTYPE, link="/etc/passwd"), "'link' is a link or a device"),
        (lambda a: add(a, "hard", kind=tarfile.LNKTYPE, link="./t.model"), "'hard' is a link or a device"),
        (lambda a: add(a, "pipe", kind=tarfile.FIFOTYPE), "'pipe' is a link or a device"),
        (lambda a: add(a, "/etc/cron.d/x", b"x"), "leads outside"),
        (lambda a: add(a, "../../x", b"x"), "leads outside"),
        (lambda a: add(a, "a/../../x", b"x"), "leads outside"),
        (lambda a: add(a, "..\\x", b"x"), "leads outside"),
        (lambda a: add(a, "../dir", kind=tarfile.DIRTYPE), "link or a device"),
        (lambda a: add(a, "model_config.yaml", b"target: other"), "it holds 'model_config.yaml' twice"),
        (lambda a: add(a, "./t.model", b"other"), "it holds 't.model' twice"),
    ],
)
def test_unsafe_member_is_refused(tmp_path: Path, extra: Callable[[tarfile.TarFile], None], reason: str) -> None:
    refused(tmp_path, write(tmp_path / "m.nemo", extra=extra), f"not safe to load, nothing of it was built: .*{reason}")


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("encoder.hook", {"_target_": "os.system", "command": "id"}, "encoder.hook._target_ asks to build 'os.system'"),
        ("preprocessor._target_", "subprocess.Popen", "asks to build 'subprocess.Popen'"),
        ("decoder._target_", "torch.hub.load", "asks to build 'torch.hub.load'"),
        ("decoder._target_", "nemo.collections.asr.models.ASRModel.from_pretrained", "asks to build"),
        ("train_ds.augmentor", [{"_target_": "builtins.eval"}], r"train_ds.augmentor\[0\]._target_ asks to build"),
        ("encoder.layer", {"cls": "os.system", "params": {}}, "encoder.layer.cls asks to build"),
        ("aux_ctc.decoder._target_", "nemo.utils.exp_manager.exp_manager", "asks to build"),
        ("name", "${oc.env:HOME}", "name is .* looked up on this machine"),
        ("tokenizer.model_path", "/etc/passwd", "tokenizer.model_path is '/etc/passwd', which leads outside"),
        ("tokenizer.vocab_path", "/elsewhere/.ssh/id_rsa", "tokenizer.vocab_path is .* which leads outside"),
        ("tokenizer.spe_tokenizer_vocab", "../v.txt", "which leads outside"),
        ("tokenizer.model_path", "nemo:other.model", "there is no such file in it"),
        ("decoding.greedy.ngram_lm_model", "/data/lm.nemo", "decoding.greedy.ngram_lm_model asks to read"),
        ("aux_ctc.decoding.beam.kenlm_path", "lm.arpa", "kenlm_path asks to read"),
    ],
)
def test_unsafe_configuration_is_refused(tmp_path: Path, place: str, value: Any, reason: str) -> None:
    refused(tmp_path, write(tmp_path / "m.nemo", changed(place, value)), f"nothing of it was built: .*{reason}")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (changed("target", "nemo.collections.tts.models.fastpitch.FastPitchModel"), "FastPitchModel, which this"),
        (changed("target", f"{ASR}.models.classification_models.EncDecFrameClassificationModel"), "cannot train"),
        (changed("target", f"{ASR}.models.aed_multitask_models.EncDecMultiTaskModel"), "takes CTC, transducer"),
        ({"sample_rate": 16_000}, "a model without a name, which this adapter cannot train"),
        (changed("encoder._target_", f"{ASR}.modules.ConvASREncoder"), "a ConvASREncoder for an encoder"),
        (changed("tokenizer.type", "agg"), "a tokenizer of type agg"),
        (changed("tokenizer", None), "a tokenizer of type none"),
        (changed("tokenizer", {"type": "bpe", "dir": "/private"}), "one SentencePiece model"),
        (changed("tokenizer.custom_tokenizer", {"_target_": f"{ASR}.modules.X"}), "a tokenizer class of its own"),
        (b"a: [1, 2", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"just words", "holds no settings"),
    ],
)  # fmt: skip
def test_unsupported_model_is_named(tmp_path: Path, config: Any, reason: str) -> None:
    refused(tmp_path, write(tmp_path / "m.nemo", config), reason)


@pytest.mark.parametrize("name", ["model_config.yaml", "model_weights.ckpt"])
def test_not_a_model(tmp_path: Path, name: str) -> None:
    refused(tmp_path, write(tmp_path / "m.nemo", without=name), f"holds no {name}: it is no .nemo file of a model")


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"\x1f\x8b not gzip"])
def test_not_an_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.nemo").write_bytes(content)
    refused(tmp_path, tmp_path / "m.nemo", "is no .nemo file, or it is cut short")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "m.nemo", extra=lambda a: add(a, "large", bytes(50_000)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(tmp_path, path, "is no .nemo file, or it is cut short")


def test_more_than_the_disk_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    refused(tmp_path, write(tmp_path / "m.nemo"), "has room for 0.0 GB")


def refused(tmp_path: Path, path: Path, reason: str) -> None:
    """``path`` is refused for ``reason``, with its name, and nothing has been written."""
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(SourceError, match=reason) as error:
        unpack(path, folder)
    assert str(path) in str(error.value)
    assert list(folder.iterdir()) == []
