"""The bundled canaries and the Italian sample data set match their READMEs, and the right canary is chosen."""

from __future__ import annotations

import csv
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_lightning.adapters import registry, saved
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.cli import lightning_cli
from asr_lightning.data.audio import decode, load
from asr_lightning.data.folder import scan_folder
from asr_lightning.datamodules import canary
from asr_lightning.datamodules.canary import BUNDLED, ENGLISH, LANGUAGES, Canary, bundled, open_canary
from asr_lightning.scoring.text import basic

ITALIAN = Path(__file__).parents[2] / "examples" / "italian_prompts" / "clips"
LICENCES = {"en": "creativecommons.org/licenses/by-sa/3.0", "es": "creativecommons.org/licenses/by-sa/3.0",
            "fr": "creativecommons.org/licenses/by-sa/3.0", "ru": "creativecommons.org/licenses/by/3.0"}  # fmt: skip


def count_in(readme: Path) -> int:
    """The number of clips that the title of a README states."""
    return int(re.search(r"(\d+) clips", readme.read_text(encoding="utf-8").splitlines()[0])[1])


def test_english_has_200_clips_and_most_are_of_people() -> None:
    english = Canary()
    kinds = [english.kind(uid) for uid in english.references]
    assert len(kinds) >= 200
    assert kinds.count("human") >= 150
    assert kinds.count("synthetic") == 48
    assert f"{kinds.count('human')} human and 48 synthetic" in english.name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_bundled_canary_is_what_its_readme_says(language: str) -> None:
    folder = BUNDLED / language
    rows = scan_folder(folder)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert count_in(folder / "README.md") == len(rows) >= 100
    assert {f"`{row.uid.split('_')[0]}" for row in rows} <= set(re.findall(r"`[a-z]+", readme))  # every voice is named
    assert LICENCES[language] in readme
    assert len({basic(row.text) for row in rows}) == len(rows)
    assert all(len(basic(row.text).split()) >= 3 for row in rows)
    assert sum(path.stat().st_size for path in folder.glob("*.ogg")) < (3.1e6 if language == "en" else 1.75e6)


@pytest.mark.parametrize("folder", [*(BUNDLED / name for name in LANGUAGES), ITALIAN], ids=lambda path: path.name)
def test_every_clip_decodes(folder: Path) -> None:
    for row in scan_folder(folder):
        path = folder / row.file_name
        assert decode(path)[1] in (16_000, 48_000)
        assert 0.8 <= len(load(path, 16_000)) / 16_000 <= 15.0
        assert not re.search(r"[][()<>{}#*@]|[^\W\d]\?[^\W\d]", row.text), row


@pytest.mark.parametrize("spoken", ["es", "ES", "Spanish", "<|es|>", "spa"])
def test_the_language_chooses_the_bundled_canary(spoken: str) -> None:
    opened = open_canary("bundled", spoken)
    assert opened is not None and opened.folder == BUNDLED / "es"
    assert {opened.kind(uid) for uid in opened.references} == {"human"}
    assert "synthetic" not in opened.name


def test_without_a_language_it_is_english() -> None:
    assert bundled(None) == ENGLISH


def test_a_language_without_a_bundled_canary_gets_none_and_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=canary.__name__):
        assert open_canary("bundled", "de") is None
        assert open_canary("bundled", "it") is None  # its only speaker is the sample data set's
    assert sum("--selection.canary FOLDER" in record.getMessage() for record in caplog.records) == 2


def test_a_folder_is_taken_whatever_the_language(tones_once: Path) -> None:
    opened = open_canary(str(tones_once), "de")
    assert opened is not None and opened.folder == tones_once
    assert opened.kind("allison_1") is None


def test_a_clip_that_cannot_be_used_is_named_before_training(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16_000)
    (tmp_path / "a.txt").write_text("nothing to hear")
    with pytest.raises(ValueError, match=r"1 recordings cannot be used:\n.*a\.wav: it is silent"):
        open_canary(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "language", "normalizer"),
    [("bundled", "en", "english"), ("bundled", None, "english"), ("bundled", "fr", None), ("", "English", "english"),
     ("", "de", None), ("", None, None)],
)  # fmt: skip
def test_ways_of_writing_english_numbers_do_not_count(
    name: str, language: str | None, normalizer: str | None, tones_once: Path
) -> None:
    opened = open_canary(name or str(tones_once), language)
    assert opened is not None and opened.normalizer == normalizer


def test_a_run_knows_its_language_before_the_model_is_loaded(tmp_path: Path) -> None:
    assert registry.language("openai/whisper-tiny", "de") == "de"
    assert registry.language("openai/whisper-tiny", None) is None
    assert registry.language("openai/whisper-tiny.en", None) == "en"
    assert registry.language("moonshine-ai/moonshine-tiny-ja", None) == "ja"
    assert registry.language("nvidia/parakeet-tdt-0.6b-v3", None) is None
    saved.describe(tmp_path, ToyAdapter(), {"language": "fr"})
    assert registry.language(str(tmp_path), None) == "fr"
    assert registry.language(str(tmp_path), "ru") == "ru"


class StopError(Exception):
    """Ends a run before its model is loaded."""


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (["--model", "whisper-tiny", "--model.adapter.init_args.language", "fr"], BUNDLED / "fr"),
        (["--model", "whisper-tiny", "--model.adapter.init_args.language", "de"], None),
        (["--model", "whisper-tiny.en"], ENGLISH),
        (["--model", "FOLDER"], BUNDLED / "ru"),
        (["--model", "FOLDER", "--selection.canary", "off"], None),
    ],
)
def test_fit_takes_the_canary_of_its_language(
    options: list[str], folder: Path | None, tones_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops before the model is loaded, since its options alone decide the language."""
    canaries: list[Canary | None] = []

    def stop(run: lightning_cli.ASRCLI) -> None:
        canaries.append(run.runner.canary)
        raise StopError

    monkeypatch.setattr(lightning_cli.ASRCLI, "instantiate_classes", stop)
    record = {"adapter": "asr_lightning.adapters.whisper.WhisperAdapter", "init_args": {"language": "ru"}}
    (tmp_path / saved.FILE_NAME).write_text(json.dumps(record))
    arguments = [str(tmp_path) if option == "FOLDER" else option for option in options]
    with pytest.raises(StopError):
        lightning_cli.main(["fit", *arguments, "--data.audio_dir", str(tones_once), "--run_dir", str(tmp_path / "run")])
    assert [None if taken is None else taken.folder for taken in canaries] == [folder]


def test_the_splits_of_the_italian_sample_share_no_text() -> None:
    splits = {}
    for split, size in {"train": 166, "dev": 74, "test": 49}.items():
        with (ITALIAN / f"{split}_files.csv").open(newline="", encoding="utf-8") as file:
            splits[split] = list(csv.DictReader(file))
        assert len(splits[split]) == size
    texts = [basic(row["text"]) for rows in splits.values() for row in rows]
    assert len(set(texts)) == len(texts) == len(scan_folder(ITALIAN))
    notice = (ITALIAN.parent / "README.md").read_text(encoding="utf-8")
    assert "Carlo Flora" in notice and "creativecommons.org/licenses/by/3.0" in notice
