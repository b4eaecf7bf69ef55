"""The file that NeMoAdapter reads and the one that it writes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.adapters.shared.masks import SpecAugment
from tests.tiny_nemo import KINDS, tiny_nemo

pytestmark = pytest.mark.nemo


def _member(path: Path, suffix: str) -> bytes:
    with tarfile.open(path) as archive:
        (name,) = [name for name in archive.getnames() if name.endswith(suffix)]
        return archive.extractfile(name).read()


def test_vocabulary_untouched(make_nemo, nemo_files: dict[str, Path], tmp_path: Path) -> None:
    """The saved tokenizer has the bytes of the source's."""
    make_nemo("tdt").save(tmp_path)
    assert _member(tmp_path / "model.nemo", "tokenizer.model") == _member(nemo_files["tdt"], "tokenizer.model")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_file_has_no_duplicate_member(make_nemo, kind: str, tmp_path: Path) -> None:
    """The last of two members wins when a tar is read, which hides one of them. Saved twice, as a run does."""
    adapter = make_nemo(kind)
    for directory in (tmp_path / "first", tmp_path / "second"):
        directory.mkdir()
        adapter.save(directory)
        with tarfile.open(directory / "model.nemo") as archive:
            names = archive.getnames()
        assert len(names) == len(set(names)) == 6


def test_save_needs_no_source(tmp_path: Path) -> None:
    """The checkpoint may be moved while the run goes on."""
    path = tiny_nemo(tmp_path / "m.nemo", "ctc")
    adapter = NeMoAdapter(str(path))
    path.unlink()
    (tmp_path / "out").mkdir()
    adapter.save(tmp_path / "out")
    assert NeMoAdapter(str(tmp_path / "out")).limits == adapter.limits


def test_saved_configuration_is_the_sources(make_nemo, nemo_files: dict[str, Path], tmp_path: Path) -> None:
    """What we need for training, such as greedy decoding, does not leak into the user's model."""
    import yaml

    make_nemo("hybrid", spec_augment=SpecAugment(1), decoder="ctc").save(tmp_path)
    before, after = (
        yaml.safe_load(_member(path, "model_config.yaml")) for path in (nemo_files["hybrid"], tmp_path / "model.nemo")
    )
    assert {k: v for k, v in after.items() if k != "nemo_version"} == {
        k: v for k, v in before.items() if k != "nemo_version"
    }


def test_options_come_back_from_the_folder(make_nemo, tmp_path: Path) -> None:
    make_nemo("hybrid", decoder="ctc", ctc_weight=0.6, max_seconds=12.5).save(tmp_path)
    again = NeMoAdapter(str(tmp_path))
    assert again.options.decoder == "ctc" and again.head.ctc_weight == 0.6
    assert again.limits.max_seconds == 12.5


def test_longest_clip_is_the_checkpoints(tmp_path: Path) -> None:
    manifest = {"manifest_filepath": None, "max_duration": 16.7, "defer_setup": True}
    adapter = NeMoAdapter(str(tiny_nemo(tmp_path / "m.nemo", "ctc", train_ds=manifest)))
    assert adapter.limits.max_seconds == 16.7


def with_weights(path: Path, weights: bytes, target: Path) -> Path:
    """A copy of ``path`` that holds other weights."""
    with tarfile.open(path) as source, tarfile.open(target, "w") as archive:
        for member in (member for member in source if member.isreg()):
            file = io.BytesIO(weights) if member.name.endswith(".ckpt") else source.extractfile(member)
            member.size = len(weights) if member.name.endswith(".ckpt") else member.size
            archive.addfile(member, file)
    return target


def test_weights_that_run_code_are_refused(nemo_files: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    """A pickle in the place of tensors, with the variable set that lets plain NeMo load it."""
    import pickle

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "mark"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (mark,))

    path = with_weights(nemo_files["ctc"], pickle.dumps(Payload()), tmp_path / "m.nemo")
    with pytest.raises(ValueError, match="the weights in .* cannot be read"):
        NeMoAdapter(str(path))
    assert not mark.exists()


def test_weights_of_another_model_are_named(nemo_files: dict[str, Path], tmp_path: Path) -> None:
    path = with_weights(nemo_files["ctc"], _member(nemo_files["tdt"], ".ckpt"), tmp_path / "m.nemo")
    with pytest.raises(ValueError, match=r"NeMo cannot build the model in .*m\.nemo \(RuntimeError"):
        NeMoAdapter(str(path))
