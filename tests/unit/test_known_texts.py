"""Stored texts of an untouched model equal computed ones, belong to this model and input, and never fail a run."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr_lightning.adapters import registry
from asr_lightning.adapters.moonshine import MoonshineAdapter
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.datamodules.canary import ENGLISH, Canary
from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring import cache, known_texts
from asr_lightning.scoring.comparison import Comparison
from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.evaluation import evaluate, transcribe_all
from asr_lightning.scoring.known_texts import KnownTexts, TextStore, find_known_texts, input_hash, model_hash
from asr_lightning.scoring.text import basic
from asr_lightning.types import SpeechBatch
from tests.tiny_hf import tiny_moonshine
from tests.tiny_models import clip, tiny_whisper

LENGTHS = (1.0, 0.7, 1.3, 0.4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny", multilingual=True))


@pytest.fixture
def whisper(source: str) -> WhisperAdapter:
    return WhisperAdapter(source, language="en")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "texts"


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after whose call no text can be computed."""

    def forbid() -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("a text is computed that is known")

        monkeypatch.setattr(WhisperAdapter, "transcribe", refuse)
        monkeypatch.setattr(WhisperAdapter, "loss", refuse)

    return forbid


def batches(adapter: ASRAdapter, first: int = 0, text: str = "open the window") -> list[SpeechBatch]:
    clips = [clip(seconds, text, f"clip{n}", seed=first + n) for n, seconds in enumerate(LENGTHS)]
    return [adapter.collator()(clips[:2]), adapter.collator()(clips[2:])]


def num_unknown(adapter: ASRAdapter, batches: list[SpeechBatch]) -> int:
    """The number of batches whose texts are not stored yet."""
    known = find_known_texts(adapter, "cpu")
    (store,) = known.stores
    return sum(not store.path("loss and text", batch).exists() for batch in batches)


def test_a_second_run_has_the_same_texts_and_loss_and_computes_nothing(
    whisper: WhisperAdapter, source: str, store: Path, never: Callable[[], None]
) -> None:
    native = whisper.native()
    without = evaluate(native, batches(native))
    first = evaluate(native, batches(native), known=find_known_texts(native, "cpu"))
    again = WhisperAdapter(source, language="en", spec_augment=SpecAugment(2), label_smoothing=0.1).native()
    new_batches, known = batches(again), find_known_texts(again, "cpu")
    never()
    second = evaluate(again, new_batches, known=known)
    assert without == first == second, "to the last bit; options of training do not affect texts"
    assert any(transcript.hypothesis for transcript in second.transcripts)
    assert len(list(store.iterdir())) == 2


def test_files_are_private_and_name_no_clip(whisper: WhisperAdapter, store: Path) -> None:
    evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu"))
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    for path in store.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert set(json.loads(path.read_text())) == {"texts", "loss", "weight"}
        assert "clip" not in path.read_text()


def test_everything_that_decides_a_text_changes_the_key(whisper: WhisperAdapter, source: str, store: Path) -> None:
    evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu"))
    assert num_unknown(whisper, batches(whisper)) == 0
    assert num_unknown(whisper, batches(whisper, first=1)) == 2, "other recordings"
    assert num_unknown(whisper, batches(whisper, text="shut the window")) == 2, "the loss is another"
    assert num_unknown(whisper, [whisper.collator()([clip(seed=0, uid="clip0")])]) == 1, "another batch"
    others = {
        "window": whisper.native(),
        "language": WhisperAdapter(source, language="de"),
        "task": WhisperAdapter(source, language="en", task="translate"),
        "cap": WhisperAdapter(source, language="en", max_tokens_per_second=9.0),
        "margin": WhisperAdapter(source, language="en", margin_seconds=0.5),
    }
    for name, other in others.items():
        assert num_unknown(other, batches(whisper)) == 2, name
    torch.set_float32_matmul_precision("high" if torch.get_float32_matmul_precision() == "highest" else "highest")
    try:
        assert num_unknown(whisper, batches(whisper)) == 2, "products of matrices are rounded another way"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_smallest_change_of_any_weight_is_another_model(whisper: WhisperAdapter) -> None:
    before = model_hash(whisper)
    for parameter in [*whisper.model.parameters()][::9]:
        first = parameter.detach().view(-1)
        kept = first[0].item()
        first[0] = torch.nextafter(first[0], first[0] + 1)
        assert model_hash(whisper) != before
        first[0] = kept
    assert model_hash(whisper) == before
    whisper.model.half()
    assert model_hash(whisper) != before


def test_tokens_and_layers_that_no_weight_shows_are_another_model(whisper: WhisperAdapter) -> None:
    hashes = {model_hash(whisper)}
    whisper.model.config.decoder_attention_heads = 4
    hashes.add(model_hash(whisper))
    whisper.rules = replace(whisper.rules, suppress=(*whisper.rules.suppress, 30))
    hashes.add(model_hash(whisper))
    whisper.processor.tokenizer.add_tokens(["anew"])
    hashes.add(model_hash(whisper))
    assert len(hashes) == 4


def test_a_saved_copy_is_the_same_model(whisper: WhisperAdapter, tmp_path: Path) -> None:
    """Selection reads the canary with a saved copy, for which the shipped texts must be found."""
    whisper.save(tmp_path)
    assert model_hash(WhisperAdapter(str(tmp_path))) == model_hash(whisper)
    assert model_hash(WhisperAdapter(str(tmp_path)).native()) == model_hash(whisper.native())


def test_moonshine_reads_from_the_store_too(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its texts depend on padding, so a clip is known only in the same batch."""
    folder = tmp_path / "moonshine"
    folder.mkdir()
    adapter = MoonshineAdapter(str(tiny_moonshine(folder)))
    first = evaluate(adapter, batches(adapter), known=find_known_texts(adapter, "cpu"))
    monkeypatch.setattr(MoonshineAdapter, "loss", lambda *_: pytest.fail("known"))
    assert evaluate(adapter, batches(adapter), known=find_known_texts(adapter, "cpu")) == first


DAMAGED = ["", "{", "[]", '{"texts": ["one"]}', '{"texts": [1, 2]}', '{"texts": "ab"}', '{"other": 1}', "\0"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_computed_anew(whisper: WhisperAdapter, store: Path, content: str) -> None:
    first = evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu"))
    for path in store.iterdir():
        path.write_text(content)
    assert evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu")) == first
    assert num_unknown(whisper, batches(whisper)) == 0
    assert all(json.loads(path.read_text())["texts"] for path in store.iterdir())


def test_a_store_that_cannot_be_written_fails_no_run(
    whisper: WhisperAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file is where the folder should be, which is an error for root as well."""
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "asr_lightning"):
        evaluation = evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu"))
    assert evaluation == evaluate(whisper, batches(whisper))
    assert [record.message for record in caplog.records if "cannot be kept" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1, "said once for both batches"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_read(whisper: WhisperAdapter, store: Path, never: Callable[[], None]) -> None:
    first = evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu"))
    store.chmod(0o500)
    other = evaluate(whisper, batches(whisper, first=1), known=find_known_texts(whisper, "cpu"))
    never()
    assert evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu")) == first != other


def test_a_full_disk_leaves_no_temporary_file(
    whisper: WhisperAdapter, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(known_texts.json, "dump", full)
    evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu"))
    assert not list(store.iterdir())


def test_switched_off_nothing_is_read_or_written(
    whisper: WhisperAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert find_known_texts(whisper, "cpu") == KnownTexts()
    evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu"))
    assert not list(tmp_path.iterdir())


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.folder() == Path("/somewhere/asr_lightning")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/nobody")
    assert cache.folder() == Path("/nobody/.cache/asr_lightning")
    monkeypatch.setenv(cache.VARIABLE, "~/texts")
    assert cache.folder() == Path("/nobody/texts")


def test_an_adapter_without_text_options_is_always_computed(store: Path) -> None:
    assert find_known_texts(ToyAdapter(), "cpu") == KnownTexts()


def test_the_oldest_files_are_removed_if_the_store_is_too_large(
    whisper: WhisperAdapter, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(whisper, batches(whisper), known=find_known_texts(whisper, "cpu"))
    old = store / "old.json"
    old.write_text("x" * 1000)
    os.utime(old, (0, 0))
    kept = {path for path in store.iterdir() if path != old}
    monkeypatch.setattr(known_texts, "MAX_BYTES", sum(path.stat().st_size for path in kept))
    find_known_texts(whisper, "cpu")
    assert set(store.iterdir()) == kept


def _write_often(folder: Path, number: int) -> None:
    store = TextStore(folder, "owner", input_hash)
    for turn in range(50):
        store.write(folder / f"{turn % 5}.json", known_texts.BatchResult([f"{number} {turn}", "b"] * 100, 0.5, 2))


@pytest.mark.once
def test_two_processes_write_whole_files(tmp_path: Path, whisper: WhisperAdapter) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(tmp_path / "texts", number)) for number in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        for path in (tmp_path / "texts").glob("?.json"):
            assert len(json.loads(path.read_text())["texts"]) == 200
            seen += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen and {path.name for path in (tmp_path / "texts").iterdir()} == {f"{n}.json" for n in range(5)}


class Folder:
    """A data module of two batches."""

    def loader(self, split: str, collator: Callable[..., SpeechBatch], distributed: bool) -> Iterator[SpeechBatch]:
        clips = [clip(seconds, "open the window", f"{split}{n}", seed=n) for n, seconds in enumerate(LENGTHS)]
        yield from (collator(clips[:2]), collator(clips[2:]))


def test_the_trained_model_is_never_looked_up(whisper: WhisperAdapter, source: str, store: Path) -> None:
    compare = Comparison(Folder())
    tuned = WhisperAdapter(source, language="en")
    first = compare.test(whisper, tuned)
    assert len(list(store.iterdir())) == 2, "test before, natively, and nothing else"
    for path in store.iterdir():
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"texts": ["from the store" for _ in content["texts"]]}))
    second = compare.test(whisper, tuned)
    assert {pair.before for pair in second.pairs} == {"from the store"}
    assert [pair.after for pair in second.pairs] == [pair.after for pair in first.pairs]
    assert second.native is not None and first.native is not None
    assert [pair.after for pair in second.native] == [pair.after for pair in first.native]


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled canary of five clips."""
    folder = tmp_path / "few" / "en"
    folder.mkdir(parents=True)
    for path in sorted(ENGLISH.glob("human_*.txt"))[:5]:
        for suffix in (".txt", ".ogg"):
            (folder / path.name).with_suffix(suffix).write_bytes(path.with_suffix(suffix).read_bytes())
    monkeypatch.setattr("asr_lightning.datamodules.canary.BUNDLED", folder.parent)
    monkeypatch.setattr(known_texts, "SHIPPED", tmp_path / "shipped")
    return folder


def test_shipped_texts_of_the_canary(
    whisper: WhisperAdapter, few: Path, tmp_path: Path, never: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found by the bytes of the files alone, on any machine and with the cache off."""
    canary, native = Canary(few, batch_size=2), whisper.native()
    computed = canary.transcripts(native)
    store = TextStore(tmp_path / "shipped" / "tiny", model_hash(native), canary.batch_hash(16_000))
    assert canary.transcripts(native, known=KnownTexts((store,))) == computed
    monkeypatch.setattr(known_texts, "_environment", lambda device: "another machine")
    never()
    assert Canary(few, batch_size=2).untouched(native) == computed
    with pytest.raises(AssertionError, match="is computed"):
        Canary(few, batch_size=3).untouched(native)
    with (few / "human_0870.ogg").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(AssertionError, match="is computed"):
        Canary(few, batch_size=2).untouched(native)


def test_the_script_makes_what_a_run_finds(
    few: Path, tmp_path: Path, never: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts are found, and all users may read the files."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from make_canary_texts import make

    model = tiny_whisper(tmp_path / "tiny.en", multilingual=False)
    wer = make(str(model), tmp_path / "shipped" / model.name, Canary(few))
    made = list((tmp_path / "shipped" / "tiny.en").iterdir())
    assert len(made) == 1 and stat.S_IMODE(made[0].stat().st_mode) == 0o644
    native = WhisperAdapter(str(model)).native()
    never()
    assert score(Canary(few).untouched(native), basic).wer == wer


def test_another_folder_has_no_shipped_texts(whisper: WhisperAdapter, few: Path, tmp_path: Path, store: Path) -> None:
    other = Path(few).rename(tmp_path / "own")
    Canary(other).untouched(whisper)
    assert list(store.iterdir())
    assert [texts.folder for texts in find_known_texts(whisper, "cpu").stores] == [store]


@pytest.mark.parametrize("text", ["open the window", "Ärger 東京 \ud7ff <|en|>", "word " * 500])
def test_a_draft_changes_no_text(source: str, few: Path, text: str) -> None:
    """Even if the draft is wrong, or longer than the decoder allows."""
    for adapter in (WhisperAdapter(source, language="en"), WhisperAdapter(source, language="en").native()):
        canary = Canary(few)
        without = canary.transcripts(adapter)
        assert canary.transcripts(adapter, drafts=without) == without
        drafts = [Transcript(uid, reference, text) for uid, reference, _ in without]
        assert canary.transcripts(adapter, drafts=drafts) == without


def test_texts_without_a_loss_are_stored_apart(whisper: WhisperAdapter, store: Path) -> None:
    known = find_known_texts(whisper, "cpu")
    list(transcribe_all(whisper, batches(whisper), known=known))
    evaluation = evaluate(whisper, batches(whisper), known=known)
    assert evaluation.loss == evaluate(whisper, batches(whisper)).loss > 0
    assert len(list(store.iterdir())) == 4


@pytest.mark.once
@pytest.mark.parametrize("name", ["whisper-tiny.en", "moonshine-tiny"])
def test_texts_of_named_models_are_shipped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real weights read no clip of the canary. After a change of the clips run benchmarks/make_canary_texts.py."""
    monkeypatch.setenv("ASR_LIGHTNING_CACHE", "off")
    native = registry.build(name).native()

    def refuse(batch):
        raise AssertionError("a text is computed")

    monkeypatch.setattr(native, "transcribe", refuse)
    assert len(Canary().untouched(native)) >= 200
