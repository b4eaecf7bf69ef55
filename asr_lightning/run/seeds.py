"""Several seeds of one run. The average of their models is one more candidate, and costs nothing when it is used.

Source: model soups, Wortsman et al. 2022. Knows the adapter contract and no model.
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
    """The run of one seed.

    Attributes:
        number: The seed.
        finished: The run after training.
        choice: The weights that were chosen.
        outcome: The result of the run.
    """

    number: int
    finished: Finished
    choice: Choice
    outcome: Outcome

    @property
    def cost(self) -> tuple[float, float]:
        """Cost of the chosen weights; the lower the better."""
        return self.choice.chosen.cost


def best_of(seeds: Sequence[Seed]) -> Seed:
    """The seed whose chosen weights have the lowest cost: WER on dev, and what the canary loses."""
    return min(seeds, key=lambda seed: seed.cost)


def average_of(seeds: Sequence[Seed], run_dir: Path) -> Seed | None:
    """The average of the chosen weights of all seeds, if its WER on dev is no higher than that of the best seed.

    If the seeds were trained in folds, the clips of each fold are read by the average of the models of that fold. An
    average with the same WER as the best seed is preferred, since it depends less on chance. The test clips are read
    only if the average is taken.

    Args:
        seeds: Runs of the same model with the same options.
        run_dir: Folder for the files of the average; it is removed again if the average is not taken.

    Returns:
        The average as a run of its own. None if its WER is higher, if fewer than two seeds chose a specialized model,
        or if the seeds were not trained on the same clips.
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
        can_choose_again=False,
    )
    run_dir.mkdir(parents=True)
    choice = choose(run, seeds[0].choice.selection.forgetting)
    if not choice.chosen.alpha or choice.chosen.cost[0] > best_of(seeds).cost[0]:
        shutil.rmtree(run_dir)
        return None
    return Seed(first.seed, run, choice, report(run, choice))
