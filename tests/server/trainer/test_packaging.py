"""An archive can be downloaded only if it was read back and equals the trained model (P9)."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from asr_lightning.adapters import saved
from asr_lightning.job_folder import packaging
from asr_lightning.job_folder.digests import digest_of
from asr_lightning.job_folder.failure import ExportVerificationError, failure_of


@pytest.fixture
def run_dir(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed / "run", tmp_path / "run"))


def expected(run_dir: Path) -> dict[str, str]:
    """Hashes of the toy's model, which is a flat folder."""
    return {f"model/{path.name}": digest_of(path) or "" for path in (run_dir / "model").iterdir()}


def test_the_archive_holds_a_model_that_loads(run_dir: Path, tmp_path: Path) -> None:
    digests = packaging.package(run_dir, tmp_path / "artifacts")
    assert sorted(digests) == ["SHA256SUMS", "model.tar.gz", "report.html", "report.json"]
    with tarfile.open(tmp_path / "artifacts" / "model.tar.gz") as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "out", filter="data")
    assert names == sorted(names)
    assert names == [
        "README.md", "model/asr_lightning.json", "model/toy.pt", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    assert saved.load(tmp_path / "out" / "model").source == str(tmp_path / "out" / "model")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "Treat all of this as personal data" in readme and "licence of its weights: Apache-2.0" in readme


def test_the_same_run_gives_the_same_bytes_and_replaces_what_was_there(run_dir: Path, tmp_path: Path) -> None:
    once = packaging.package(run_dir, tmp_path / "artifacts")
    (tmp_path / "artifacts" / "stray").touch()
    assert packaging.package(run_dir, tmp_path / "artifacts") == once
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == set(once)
    assert not list(tmp_path.glob("artifacts.*"))


@pytest.mark.parametrize("damage", ["cut off", "a bit", "a member less", "a member more", "a link"])
def test_a_wrong_archive_is_found(damage: str, run_dir: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    members = {f"model/{path.name}": path for path in sorted((run_dir / "model").iterdir())}
    packaging.pack(members, archive)  # type: ignore[arg-type]
    packaging.verify(archive, expected(run_dir))
    content = bytearray(archive.read_bytes())
    archive.unlink()
    if damage == "cut off":
        archive.write_bytes(content[:-20])
    elif damage == "a bit":
        content[len(content) // 2] ^= 4
        archive.write_bytes(content)
    elif damage == "a link":
        with tarfile.open(archive, "w:gz") as tar:
            for name, path in members.items():
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path)
                tar.addfile(entry)
    else:
        changed = dict(list(members.items())[1:]) if damage == "a member less" else members | {"model/more": archive}
        if damage == "a member more":
            changed["model/more"] = run_dir / "report.md"
        packaging.pack(changed, archive)  # type: ignore[arg-type]
    with pytest.raises(ExportVerificationError) as error:
        packaging.verify(archive, expected(run_dir))
    assert failure_of(error.value, tmp_path).code == "export_verification_failed"


def test_nothing_is_handed_out_where_packing_fails(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASR_FAULT", "training.packed:enospc")
    with pytest.raises(OSError, match="No space left"):
        packaging.package(run_dir, tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()
