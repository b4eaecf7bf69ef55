import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from asr_lightning.adapters import saved
from asr_lightning.adapters.toy import ToyAdapter


def test_saved_folder_keeps_its_options(tmp_path: Path) -> None:
    ToyAdapter(max_seconds=7).save(str(tmp_path))
    assert saved.load(tmp_path).limits.max_seconds == 7
    assert saved.load(tmp_path, max_seconds=9).limits.max_seconds == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no asr_lightning.json"),
        ("{", "cannot be read"),
        ("[]", "holds no settings"),
        (json.dumps({"adapter": "asr_lightning.adapters.toy.ToyAdapter"}), "cannot be read"),
        (json.dumps({"adapter": "no.such.Adapter", "init_args": {}}), "no adapter no.such.Adapter"),
        (json.dumps({"adapter": "subprocess.Popen", "init_args": {"shell": True}}), "do not trust this folder"),
        (json.dumps({"adapter": "os.system", "init_args": {}}), "do not trust this folder"),
    ],
)
def test_bad_folder_gets_a_clear_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / saved.FILE_NAME).write_text(content)
    with pytest.raises(ValueError, match=message):
        saved.load(tmp_path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640)])
def test_whoever_may_read_the_folder_may_read_the_weights(tmp_path: Path, umask: int, mode: int) -> None:
    """safetensors writes 0600, with which a web server, a container or a second user could not load the model."""
    private = tmp_path / "private"
    private.write_text("not in the folder")
    private.chmod(0o600)
    folder = tmp_path / "model"
    earlier = os.umask(umask)
    try:
        ToyAdapter().save(folder)
        save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
        (folder / "link").symlink_to(private)
        saved.describe(folder, ToyAdapter(), {})
    finally:
        os.umask(earlier)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"toy.pt": mode, "model.safetensors": mode, saved.FILE_NAME: mode, "link": 0o600}


def write(text: str):
    return lambda directory: (directory / "weights").write_text(text)


def test_a_failed_save_keeps_the_old_model(tmp_path: Path) -> None:
    target = tmp_path / "model"
    saved.replace(target, write("old"))

    def fail(directory: Path) -> None:
        (directory / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        saved.replace(target, fail)
    assert (target / "weights").read_text() == "old"
    saved.replace(target, write("new"))
    assert (target / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_renames_is_repaired(tmp_path: Path) -> None:
    (tmp_path / "model.previous").mkdir()
    (tmp_path / "model.previous" / "weights").write_text("old")

    def look(directory: Path) -> None:
        assert (tmp_path / "model" / "weights").read_text() == "old"
        write("new")(directory)

    saved.replace(tmp_path / "model", look)
    assert (tmp_path / "model" / "weights").read_text() == "new"
