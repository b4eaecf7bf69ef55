"""Nothing in a run folder is overwritten."""

from __future__ import annotations

from pathlib import Path

from asr_lightning.run.folder import RESULTS, set_aside, set_aside_results, write_anew


def test_other_content_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    for text in ("one", "one", "two", "three"):
        write_anew(path, lambda fresh, text=text: fresh.write_text(text))  # type: ignore[misc]
    names = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert names == {"test.json": "three", "test-2.json": "one", "test-3.json": "two"}


def test_results_are_set_aside_together(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    set_aside_results(tmp_path)
    assert not (tmp_path / "earlier").exists(), "a run that was killed before its results has none to keep"
    for choice in ("earlier", "earlier-2"):
        (tmp_path / "model").mkdir(exist_ok=True)
        for name in RESULTS[1:]:
            (tmp_path / name).write_text(choice)
        set_aside_results(tmp_path)
        assert sorted(path.name for path in (tmp_path / choice).iterdir()) == sorted(RESULTS)
        assert (tmp_path / choice / "results.json").read_text() == choice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier", "earlier-2"]


def test_a_kill_while_results_are_set_aside_loses_none(tmp_path: Path) -> None:
    """The rest follows into the same folder."""
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "model").mkdir()
    (tmp_path / "results.json").write_text("{}")
    set_aside_results(tmp_path)
    assert sorted(path.name for path in (tmp_path / "earlier").iterdir()) == ["model", "results.json"]


def test_stopped_seeds_are_set_aside_together(tmp_path: Path) -> None:
    """As Ctrl-C says: not one by one among the seeds of the next start."""
    run_dir = tmp_path / "run"
    (run_dir / "seed-0").mkdir(parents=True)
    set_aside(run_dir)
    assert run_dir.is_dir(), "no run was there"
    (run_dir / "seed-0" / "config.yaml").touch()
    set_aside(run_dir)
    assert not run_dir.exists() and (tmp_path / "run-2" / "seed-0" / "config.yaml").exists()
