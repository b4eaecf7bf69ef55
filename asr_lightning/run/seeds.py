"""Several seeds of one run: the average of their models is one more candidate, free when the model is used.

Source: model soups, Wortsman et al. 2022. Knows the contract and no model.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from asr_lightning.adapters import saved
from asr_lightning.callbacks.keep_best import average
from asr_lightning.run.conclusion import Choice, Finished, choose, report
from asr_lightning.run.ends import End, Part
from asr_lightning.run.outcome import Outcome

SECONDS = ("train_seconds", "validation_seconds", "total_seconds")


@dataclass(frozen=True)
class Seed:
    """A run of one seed.

    Attributes:
        number: The seed.
        finished: As it was after training.
        choice: What it hands over.
        outcome: What its files say.
    """

    number: int
    finished: Finished
    choice: Choice
    outcome: Outcome

    @property
    def cost(self) -> tuple[float, float]:
        """Of what it hands over; the lower the better."""
        return self.choice.chosen.cost


def best_of(seeds: Sequence[Seed]) -> Seed:
    """The best on dev, with what it costs others."""
    return min(seeds, key=lambda seed: seed.cost)


def average_of(seeds: Sequence[Seed], run_dir: Path) -> Seed | None:
    """The average of the models that the seeds hand over, if it is no worse on dev than the best of them.

    Where each seed was trained in folds, it is the average fold by fold that reads the clips of a fold. Of equal WERs
    the average is taken: what one seed got by chance is averaged out. Test is read only for one that is taken.

    Args:
        seeds: Of the same model and options.
        run_dir: Gets everything that a run writes, or nothing.

    Returns:
        The average as a run of its own; None if it is worse, if fewer than two seeds hand over a specialized model, or
        if they were not trained on the same clips.
    """
    used = [seed for seed in seeds if seed.choice.chosen.alpha]
    first = seeds[0].finished
    if len(used) < 2 or any(seed.finished.comparison.data.splits != first.comparison.data.splits for seed in seeds):
        return None
    parts = tuple(
        Part(part.data, partial(average, [seed.choice.selection.parts[number] for seed in used]))
        for number, part in enumerate(first.ends[0].parts)
    )
    costs = {name: sum(getattr(seed.outcome.cost, name) for seed in seeds) for name in SECONDS}
    run = replace(
        first,
        run_dir=run_dir,
        settings=replace(first.settings, alphas=()),
        live=saved.load(used[0].finished.run_dir / "model"),
        ends=(End(f"average of {len(used)} seeds", parts),),
        validations=(),
        cost=lambda: replace(first.cost(), **costs),
    )
    run_dir.mkdir(parents=True)
    choice = choose(run, seeds[0].choice.selection.forgetting)
    if not choice.chosen.alpha or choice.chosen.cost[0] > best_of(seeds).cost[0]:
        shutil.rmtree(run_dir)
        return None
    return Seed(first.seed, run, choice, report(run, choice))
