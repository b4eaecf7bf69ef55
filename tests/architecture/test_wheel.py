"""The built wheel holds the package, its help pages and its type marker, and none of the repository's other files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"asr_lightning", "asr_lightning-0.1.0.dist-info"}
    data = ("py.typed", "cli/help/fit.txt", "reports/templates/report.html.j2", "replay_clips/jf_nezumi_02.ogg")
    assert {f"asr_lightning/{name}" for name in data} <= set(names)
    for language, least in {"en": 200, "es": 100, "fr": 100, "ru": 100}.items():
        canary = [name for name in names if name.startswith(f"asr_lightning/canary_clips/{language}/")]
        assert sum(name.endswith(".ogg") for name in canary) >= least
        assert f"asr_lightning/canary_clips/{language}/README.md" in canary  # the notices of the recordings' licences
    replayed = [name for name in names if name.startswith("asr_lightning/replay_clips/") and name.endswith(".ogg")]
    assert len(replayed) >= 200
