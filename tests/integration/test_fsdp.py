"""With FSDP by Lightning's flag, checkpoints, stored weights and the model are complete for any number of processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_lightning.adapters import saved
from asr_lightning.adapters.toy import ToyAdapter
from tests.integration.test_ddp import fit

# BatchNorm as loaded: in training each process would see its own share of the clips.
PLAIN = ["--model.optimizer.warmup=0", "--train_only.batch_norm=hold", "--early_stopping.patience=99"]
ALONE = ["--trainer.devices=1", "--trainer.accumulate_grad_batches=2"]


def pair(strategy: str) -> list[str]:
    return ["--trainer.devices=2", f"--trainer.strategy={strategy}"]


def last(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


def test_one_fsdp_ddp_one(tones_once: Path, tmp_path: Path) -> None:
    """One process, two with FSDP, two with DDP and one again, for an epoch each, equal one process all the time."""
    fit(tones_once, tmp_path / "alone", *PLAIN, *ALONE, "--trainer.max_epochs=4")
    run_dir = tmp_path / "run"
    states = []
    for epochs, options in enumerate([ALONE, pair("fsdp"), pair("ddp"), ALONE], start=1):
        more = ["--ckpt_path=last"] if states else []
        fit(tones_once, run_dir, *PLAIN, *options, f"--trainer.max_epochs={epochs}", *more)
        states.append(last(run_dir))
    expected, final = last(tmp_path / "alone"), states[-1]
    assert final["global_step"] == expected["global_step"] == 12
    for name, tensor in expected["state_dict"].items():
        torch.testing.assert_close(final["state_dict"][name], tensor, rtol=0, atol=1e-4, msg=name)
    moments = expected["optimizer_states"][0]["state"]
    for state in states:
        whole = {number: {name: t.shape for name, t in parts.items()} for number, parts in moments.items()}
        kept = state["optimizer_states"][0]["state"]
        assert {number: {name: t.shape for name, t in parts.items()} for number, parts in kept.items()} == whole
    assert len(list((run_dir / "checkpoints").glob("*.ckpt"))) == 2


@pytest.mark.once
def test_fsdp_trains_a_part_of_the_model(tones_once: Path, tmp_path: Path) -> None:
    """Frozen weights stay as they were; the stored weights of the trained part and the source's rest make the model."""
    results = fit(
        tones_once, tmp_path / "run", *pair("fsdp"), "--train_only.groups=[encoder]", "--trainer.max_epochs=8"
    )
    assert results["alpha"] > 0 and results["dev"]["wer"]["after"] < results["dev"]["wer"]["before"]
    written, source = saved.load(tmp_path / "run" / "model").model.state_dict(), ToyAdapter().model.state_dict()
    kept = last(tmp_path / "run")["state_dict"]
    assert torch.equal(written["head.weight"], source["head.weight"])
    assert torch.equal(kept["model.head.weight"], source["head.weight"])
    assert not torch.equal(written["encoder.0.weight"], source["encoder.0.weight"])
    assert written.keys() == source.keys()
