import json
from pathlib import Path

import pytest

from asr_lightning import saved
from asr_lightning.adapters.toy import ToyAdapter


def test_saved_folder_keeps_its_options(tmp_path: Path) -> None:
    ToyAdapter(max_seconds=7).save(tmp_path)
    assert saved.load(tmp_path).limits.max_seconds == 7
    assert saved.load(tmp_path, max_seconds=9).limits.max_seconds == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no asr_lightning.json"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
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
