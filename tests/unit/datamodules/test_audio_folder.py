from __future__ import annotations

import hashlib
import importlib.util
import sys

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser

from asr_lightning.adapters.toy import ToyCollator
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.datamodules.augment import Augmentation
from asr_lightning.errors import DataError
from asr_lightning.types import AudioLimits, SpeechBatch

PARTS = ("audio_folder", "augment", "augment_audio", "dataset", "sampler")
VARIED = Augmentation((0.9, 1.0, 1.1), 0.1, 0.1)


class PadCollator:
    """The smallest collator: zero-padded samples, one target per word."""

    def check(self, texts, seconds) -> None:
        assert texts.keys() == seconds.keys()

    def __call__(self, utterances):
        waveforms = [utterance.waveform for utterance in utterances]
        lengths = torch.tensor([len(utterance.text.split()) for utterance in utterances])
        return SpeechBatch.of(
            utterances,
            inputs={"samples": torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)},
            targets=torch.zeros(len(utterances), int(lengths.max()), dtype=torch.long),
            target_lengths=lengths,
        )


class Recorder(pl.LightningModule):
    """Learns one number and records a hash of every training batch."""

    def __init__(self, save_epoch: int | None = None, save_to: str = "") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, tuple[str, ...], str]] = []
        self.validated: list[str] = []
        self.save_epoch, self.save_to = save_epoch, save_to

    def training_step(self, batch, _):
        samples = batch.inputs["samples"]
        digest = hashlib.sha256(samples.numpy().tobytes()).hexdigest()
        self.seen.append((self.current_epoch, batch.uids, digest))
        return (self.weight - samples.abs().mean()) ** 2

    def validation_step(self, batch, _):
        self.validated += batch.uids

    def on_train_epoch_end(self):
        if self.current_epoch + 1 == self.save_epoch:
            self.trainer.save_checkpoint(self.save_to)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def data(folder, **options):
    options = {"batch_size": 3, "collator": PadCollator(), "limits": AudioLimits(sample_rate=8000), **options}
    return AudioFolderDataModule(str(folder), **options)


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **quiet, **options)


def test_mixed_folder_end_to_end(mixed_folder):
    datamodule = data(mixed_folder, limits=AudioLimits(sample_rate=16_000), augmentation=VARIED)
    module = Recorder()
    trainer(max_epochs=2).fit(module, datamodule)
    splits = datamodule.splits
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 9, "dev": 2, "test": 1}
    assert datamodule.num_clips == 12
    for epoch in range(2):
        seen = [uid for at, uids, _ in module.seen for uid in uids if at == epoch]
        assert sorted(seen) == [row.uid for row in splits["train"]]
    assert sorted(module.validated) == sorted(2 * [row.uid for row in splits["dev"]])
    assert len({digest for *_, digest in module.seen}) == len(module.seen)  # new samples in the second epoch


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("save_epoch", [1, 2])
def test_resumed_run_sees_what_an_uninterrupted_one_sees(make_folder, tmp_path, save_epoch, num_workers):
    folder, checkpoint = make_folder(12), str(tmp_path / "resume.ckpt")
    whole = Recorder(save_epoch, checkpoint)
    trainer(max_epochs=3).fit(whole, data(folder, augmentation=VARIED))
    assert len(whole.seen) == 9
    resumed = Recorder()
    again = data(folder, augmentation=VARIED, num_workers=num_workers)
    trainer(max_epochs=3).fit(resumed, again, ckpt_path=checkpoint)
    assert [seen[:2] for seen in resumed.seen] == [seen[:2] for seen in whole.seen[3 * save_epoch :]]
    if not num_workers:  # a worker computes on one thread, and samples differ by 1e-7 with the number of threads
        assert resumed.seen == whole.seen[3 * save_epoch :]
        assert torch.equal(resumed.weight, whole.weight)


def test_workers_change_nothing(make_folder):
    """The epoch reaches a spawned worker, which holds no cached samples."""
    folder = make_folder(12)
    loaders = [
        data(folder, augmentation=VARIED, num_workers=number, collator=ToyCollator()).train_dataloader()
        for number in (0, 1)
    ]
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for alone, helped in zip(*loaders, strict=True):
            assert alone.uids == helped.uids
            # One thread instead of two adds up in another order.
            torch.testing.assert_close(alone.inputs["features"], helped.inputs["features"], atol=1e-4, rtol=1e-4)


def test_default_workers_zero(make_folder):
    datamodule = data(make_folder(4))
    assert datamodule.train_dataloader().num_workers == 0
    loader = data(make_folder(4, "again"), num_workers=2).val_dataloader()
    assert loader.multiprocessing_context.get_start_method() == "spawn" and loader.persistent_workers


@pytest.mark.parametrize("name", [f"datamodules.{part}" for part in PARTS])
def test_import_keeps_threads(name, monkeypatch):
    """A fresh copy of each module, because a child process would spend ten seconds on importing lightning."""
    spec = importlib.util.find_spec(f"asr_lightning.{name}")
    copy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, copy)
    before, random_state = torch.get_num_threads(), torch.get_rng_state()
    spec.loader.exec_module(copy)
    assert torch.get_num_threads() == before > 0
    assert torch.equal(torch.get_rng_state(), random_state)


def test_no_float64_in_batch(make_folder):
    datamodule = data(make_folder(6), augmentation=VARIED)
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
        for batch in loader:
            assert batch.inputs["samples"].dtype == batch.seconds.dtype == torch.float32


def test_dev_batches_are_fixed_and_plain(make_folder):
    datamodule = data(make_folder(20), augmentation=VARIED, eval_batch_size=2)
    first, second = list(datamodule.val_dataloader()), list(datamodule.val_dataloader())
    assert [batch.uids for batch in first] == [batch.uids for batch in second]
    assert all(torch.equal(a.inputs["samples"], b.inputs["samples"]) for a, b in zip(first, second, strict=True))
    lengths = [seconds for batch in first for seconds in batch.seconds.tolist()]
    assert lengths == sorted(lengths) and len(lengths) == 4


def test_loader_takes_any_split_and_another_collator(make_folder):
    datamodule = data(make_folder(12), collator=None, augmentation=VARIED)
    with pytest.raises(ValueError, match=r"pass collator=adapter.collator\(\)"):
        datamodule.train_dataloader()
    batches = list(datamodule.loader("train", PadCollator(), distributed=False))
    assert sorted(uid for batch in batches for uid in batch.uids) == [row.uid for row in datamodule.splits["train"]]
    with pytest.raises(ValueError, match="unknown split 'val': choose one of train, dev, test"):
        datamodule.loader("val", PadCollator())


def test_processes_share_the_batches(make_folder):
    folder = make_folder(20)
    seen = []
    for rank in range(2):
        datamodule = data(folder, eval_batch_size=1)
        datamodule.trainer = type("Place", (), {"global_rank": rank, "world_size": 2})()
        seen.append([batch.uids for batch in datamodule.train_dataloader()])
        assert len(list(datamodule.val_dataloader())) == 2
        assert len(list(datamodule.loader("dev", distributed=False))) == 4
    assert len(seen[0]) == len(seen[1]) == 3
    assert len({uid for batches in seen for uids in batches for uid in uids}) == 14


def test_setup_decodes_what_the_stage_needs(make_folder):
    folder = make_folder(6)
    data(folder).prepare_data()
    test_clip = data(folder).splits["test"][0].file_name
    (folder / test_clip).write_bytes(b"broken" * 100)
    data(folder).setup("validate")
    for stage in ("fit", "test"):
        with pytest.raises(ValueError, match=f"1 recordings cannot be used:\n.*{test_clip}"):
            data(folder).setup(stage)


def test_same_seed_same_csvs_and_no_second_write(make_folder):
    folder = make_folder(12)
    data(folder).prepare_data()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    datamodule = data(folder, seed=4)
    datamodule.prepare_data()
    datamodule.setup()
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_every_option_can_be_written_in_yaml(make_folder, tmp_path):
    parser = ArgumentParser()
    parser.add_class_arguments(AudioFolderDataModule, "data")
    (tmp_path / "run.yaml").write_text(
        f"audio_dir: {make_folder(4)}\nbatch_size: 4\nshares: [0.5, 0.3, 0.2]\nrun_dir: runs\n"
        "augmentation:\n  speeds: [0.9, 1.0, 1.1]\n  lead_silence_seconds: 0.2\n"
        "limits:\n  sample_rate: 8000\n  max_seconds: 30.0\n"
    )
    parsed = parser.parse_args([f"--data={tmp_path / 'run.yaml'}"])
    datamodule = parser.instantiate(parsed).data
    assert datamodule.augmentation == Augmentation((0.9, 1.0, 1.1), 0.2)
    assert datamodule.limits == AudioLimits(8000, max_seconds=30.0) and datamodule.shares == (0.5, 0.3, 0.2)


def test_replay_joins_training_alone(make_folder):
    """General speech is trained on and never scored; its share is of the training clips."""
    folder, general = make_folder(20), make_folder(9, "general")
    datamodule = data(folder, replay=str(general), replay_share=0.5)
    datamodule.setup("fit")
    own = {row.uid for row in datamodule.splits["train"]}
    loader = datamodule.train_dataloader()
    uids = [uid for batch in loader for uid in batch.uids]
    assert len(uids) == len(own) + round(0.5 * len(own)) == len(set(uids))
    assert {uid for uid in uids if not uid.startswith("replay/")} == own
    scored = [uid for split in ("train", "dev", "test") for batch in datamodule.loader(split) for uid in batch.uids]
    assert not any(uid.startswith("replay/") for uid in scored)


def test_few_clips_fill_an_epoch(make_folder):
    """They are repeated, and the share of general speech refers to their number including repetitions."""
    folder, general = make_folder(8), make_folder(12, "general")
    datamodule = data(folder, replay=str(general), replay_share=0.25, epoch_clips=40)
    uids = [uid for batch in datamodule.train_dataloader() for uid in batch.uids]
    assert sum(uid.startswith("replay/") for uid in uids) == 10
    own = [uid for uid in uids if not uid.startswith("replay/")]
    assert len(own) == 40 and set(own) == {row.uid for row in datamodule.splits["train"]}


def test_few_clips_are_joined_by_more_replay(make_folder):
    """For few clips the smallest number of replay clips applies, for many clips the share."""
    folder, general = make_folder(8), make_folder(9, "general")
    for least, drawn in ((7, 7), (1, 2)):
        datamodule = data(folder, replay=str(general), replay_share=0.4, replay_least=least)
        uids = [uid for batch in datamodule.train_dataloader() for uid in batch.uids]
        own = [uid for uid in uids if not uid.startswith("replay/")]
        assert len(uids) - len(own) == max(least, round(0.4 * len(own))) == drawn


def test_replay_folder_is_named_when_it_is_wrong(make_folder, tmp_path):
    with pytest.raises(ValueError, match="no such audio folder"):
        data(make_folder(8), replay=str(tmp_path / "nowhere")).train_dataloader()


def test_csv_files_are_written_when_everything_is_inspected(make_folder):
    folder = make_folder(12)
    good = (folder / "clip003.wav").read_bytes()
    (folder / "clip003.wav").write_bytes(b"")
    for stage in ("fit", "validate", "test", None):
        with pytest.raises(DataError, match="clip003.wav: the file is empty") as error:
            data(folder).setup(stage)
        assert "delete its line" not in str(error.value)
    assert data(folder).num_clips == 12 and not list(folder.glob("*.csv"))
    (folder / "clip003.wav").write_bytes(good)
    data(folder).setup("validate")
    assert len(list(folder.glob("*.csv"))) == 3
    (folder / "clip003.wav").write_bytes(b"")
    listed = "train_files.csv or dev_files.csv or test_files.csv"
    with pytest.raises(
        DataError, match=f"clip003.wav: the file is empty.*\nIf .*, delete its line in {listed} as well"
    ):
        data(folder).setup("fit")


def test_inspection_writes_nothing_and_ignores_an_earlier_run(make_folder, tmp_path):
    folder, run_dir = make_folder(6), tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "dev_files.csv").write_text("uid,file_name,text\nx,gone.wav,some text\n")
    data(folder, run_dir=str(run_dir)).inspect()
    assert not list(folder.glob("*.csv")) and len(list(run_dir.iterdir())) == 1
    with pytest.raises(DataError, match="no file 'gone.wav'"):
        data(folder, run_dir=str(run_dir)).prepare_data()


def test_two_processes_may_make_the_same_split(make_folder):
    folder = make_folder(12)
    one, two, other = data(folder), data(folder), data(folder, seed=5)
    assert one.splits == two.splits != other.splits
    for process in (one, two):
        process.prepare_data()
    with pytest.raises(DataError, match="another process has made a split just now: start again"):
        other.prepare_data()
