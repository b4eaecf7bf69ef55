"""Measures word error rates before and after, over voices, models and seeds, with the default recipe of ``specialize``.

    python benchmarks/quality.py                     every row that can be made here; stored runs are not repeated
    python benchmarks/quality.py --table             only the table of the stored runs
    python benchmarks/quality.py --voices ocean --models whisper-tiny.en --seeds 1
    python benchmarks/quality.py --clips 10          ten clips to train and choose on, the same test clips
    python benchmarks/quality.py --peer              also the predecessor's recipe on Hugging Face's trainer (an hour)

Each run is a fresh process and one JSON line in ``benchmarks/results/quality.jsonl`` with the errors of every test
clip, so that an interrupted series can be continued, and the table can be made again without training. Voices of real
people are not part of this repository: put or link their folders under ``runs/human`` (or another folder, with
``--human``). A voice whose folder does not exist is skipped, and a line says so. ``runs/second_speaker`` is made by
``benchmarks/second_speaker/make_clips.py``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/quality.jsonl"
HUMAN = ROOT / "runs/human"
DRAWS = 10_000


@dataclass(frozen=True)
class Voice:
    """A data set of one voice.

    Attributes:
        name: Name in the table.
        folder: Its folder, relative to the repository or to the folder of human voices.
        human: Whether a person speaks.
        models: Names of the models that are measured on it.
        language: Language that a multilingual model is told.
    """

    name: str
    folder: str
    human: bool
    models: tuple[str, ...]
    language: str | None = None

    @property
    def word(self) -> str:
        """Name of the voice on the command line and in results."""
        return self.name.split(",")[0]

    def init_args(self, model: str) -> dict[str, str]:
        """Return the options of the adapter that the language requires."""
        multilingual = model.startswith("whisper") and not model.endswith(".en")
        return {"language": self.language or "en"} if multilingual else {}

    def path(self, human: Path) -> Path:
        """Return the folder of the clips, given the folder of human voices."""
        return human / self.folder if self.human and not self.folder.startswith("examples") else ROOT / self.folder


ENGLISH = ("whisper-tiny.en", "moonshine-tiny")
VOICES = (
    Voice("kerstin, German woman", "kerstin_de", True, ("whisper-base",), "de"),
    Voice("ocean, Mandarin accent", "ocean_adults", True, ENGLISH),
    Voice("carlo, Italian man, prompts", "examples/italian_prompts/clips", True, ("whisper-base",), "it"),
    Voice("sample, German accent", "examples/german_accent/clips", False, ENGLISH),
    Voice("second, Japanese accent", "runs/second_speaker/clips", False, ENGLISH),
)


@dataclass(frozen=True)
class Run:
    """The fields that identify a run.

    Attributes:
        arm: Recipe: ours, peer, or the name of an earlier recipe of ours.
        voice: First word of the voice's name.
        model: Name of the model.
        seed: Seed of every random choice.
        clips: Number of clips to train and choose on; None means all.
    """

    arm: str
    voice: str
    model: str
    seed: int
    clips: int | None = None


@dataclass(frozen=True)
class Result(Run):
    """A run and its results.

    Attributes:
        errors: ``[reference words, errors before, errors after]`` of each test clip; empty if only rates were stored.
        before: Corpus WER on test of the untouched model in its native mode.
        after: Corpus WER on test of the model that was handed over.
        alpha: Share of the specialized weights; 0 is the untouched model.
        chosen: The weights that were chosen, in words.
        canary: WER before and after, and the change with its interval, by mode.
        candidates: Alpha and dev WER of every candidate.
        seconds: Duration of the whole run, of training and of validation.
        note: Options of the run, or whatever else a reader must know.
    """

    errors: list[list[int]] = field(default_factory=list)
    before: float = 0.0
    after: float = 0.0
    alpha: float = 1.0
    chosen: str = ""
    canary: dict[str, dict[str, float]] = field(default_factory=dict)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def cut(self) -> float:
        """Share of the errors that were removed."""
        return 1 - self.after / self.before

    @property
    def run(self) -> Run:
        """The fields that identify this run."""
        return Run(self.arm, self.voice, self.model, self.seed, self.clips)


def stored() -> dict[Run, Result]:
    """Return every stored result by its run."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {result.run: result for result in (Result(**json.loads(line)) for line in lines)}


def store(result: Result) -> None:
    """Append the result as one line."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")


def measure(run: Run, voice: Voice, human: Path, options: Sequence[str]) -> Result:
    """Do one run, and return its result."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = voice.path(human).resolve()
        if run.clips is not None:
            folder = fewer(folder, run.clips, run.seed, Path(temporary) / "clips")
        if run.arm == "peer":
            return peer_result(run, folder)
        run_dir = Path(temporary) / "run"
        language = [f"--{name}={value}" for name, value in voice.init_args(run.model).items()]
        command = [
            *(sys.executable, "-m", "asr_lightning", "specialize", str(folder), "--model", run.model),
            *("--run_dir", str(run_dir), "--seed", str(run.seed), *language, *options),
        ]
        subprocess.run(command, check=True, cwd=ROOT)
        report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    return result_of(run, report, " ".join(options))


def result_of(run: Run, report: dict[str, Any], note: str) -> Result:
    """Return the result that a report contains."""
    from asr_lightning.scoring.text import basic

    chosen = next(candidate for candidate in report["candidates"] if candidate["chosen"])
    utterances = sorted(report["utterances"], key=lambda utterance: utterance["uid"])
    return Result(
        **asdict(run),
        errors=[[len(basic(u["reference"]).split()), u["before"]["errors"], u["after"]["errors"]] for u in utterances],
        before=report["test"]["before"]["wer"],
        after=report["test"]["after"]["wer"],
        alpha=chosen["alpha"],
        chosen=chosen["name"],
        canary={
            mode: {"before": part["before"]["wer"], "after": part["after"]["wer"], **part["change"]}
            for mode, part in report["canary"]["modes"].items()
        },
        candidates=[
            {name: candidate[name] for name in ("name", "alpha", "dev_wer", "canary_wer", "note")}
            for candidate in report["candidates"]
        ],
        seconds={name: value for name, value in report["cost"].items() if name.endswith("seconds")},
        note=note,
    )


def peer_result(run: Run, folder: Path) -> Result:
    """Do one run with the predecessor's recipe on Hugging Face's trainer."""
    import peer

    from asr_lightning.scoring.edits import count_edits
    from asr_lightning.scoring.text import basic

    training, texts = peer.run(folder, run.seed, peer.RECIPE["num_train_epochs"])
    pairs = [[count_edits(p.reference, text, basic).words for text in (p.before, p.after)] for p in texts]
    errors = [[before.reference, before.errors, after.errors] for before, after in pairs]
    words, before, after = np.sum(errors, axis=0)
    seconds = {name: value for name, value in training.items() if name.endswith("seconds")}
    return Result(**asdict(run), errors=errors, before=before / words, after=after / words, seconds=seconds)


def fewer(folder: Path, clips: int, seed: int, target: Path) -> Path:
    """Fill ``target`` with links to a random choice of train and dev clips of ``folder`` and to all its test clips."""
    from asr_lightning.data.manifest import CSV_NAMES, read_manifest, write_manifests

    splits = {split: [entry.row for entry in read_manifest(folder / name, folder)] for split, name in CSV_NAMES.items()}
    drawn = random.Random(seed).sample([*splits["train"], *splits["dev"]], clips)
    num_dev = max(1, clips // 5)
    splits = {"train": drawn[num_dev:], "dev": drawn[:num_dev], "test": splits["test"]}
    for name in (row.file_name for rows in splits.values() for row in rows):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        for path in (Path(name), Path(name).with_suffix(".txt")):
            if (folder / path).exists():
                (target / path).symlink_to(folder / path)
    write_manifests(target, splits)
    return target


def interval(results: Sequence[Result]) -> tuple[float, float]:
    """Return the 95 % interval of the mean cut over seeds: test clips are resampled, the same ones for every seed."""
    counts = np.array([result.errors for result in results if result.errors])
    if counts.size == 0:
        return float("nan"), float("nan")
    clips = counts.shape[1]
    drawn = np.random.default_rng(0).integers(clips, size=(DRAWS, clips))
    sums = counts[:, drawn].sum(axis=2)
    cuts = 1 - sums[..., 2] / np.maximum(sums[..., 1], 1)
    low, high = np.percentile(cuts.mean(axis=0), [2.5, 97.5])
    return float(low), float(high)


HEADER = (
    f"{'voice, model':54}{'seeds':>6}{'before':>8}{'after':>8}{'cut':>7}  {'95 % interval':16}"
    f"{'dev: before, after':>20}  {'alpha':14}{'canary, points':24}{'its human part':24}"
).rstrip()


def row(name: str, results: Sequence[Result]) -> str:
    """Format a row of the table with the means over seeds."""
    before, after, cut = (np.mean([getattr(r, what) for r in results]) for what in ("before", "after", "cut"))
    low, high = interval(results)
    between = "" if np.isnan(low) else f"{low:.1%} to {high:.1%}"
    alphas = " ".join(f"{result.alpha:g}" for result in results)
    return (
        f"{name:54}{len(results):>6}{before:>8.1%}{after:>8.1%}{cut:>7.1%}  {between:16}{dev(results):>20}"
        f"  {alphas:14}{canary(results, human=False):24}{canary(results, human=True):24}"
    ).rstrip()


def dev(results: Sequence[Result]) -> str:
    """Format the mean WER on dev before and after.

    In folds, dev is every clip of train and dev, each transcribed by a model that was not trained on it.
    """
    pairs = [
        (result.candidates[0]["dev_wer"], min(c["dev_wer"] for c in result.candidates if c["alpha"] == result.alpha))
        for result in results
        if result.candidates
    ]
    return "" if not pairs else "{:.1%}, {:.1%}".format(*np.mean(pairs, axis=0))


def canary(results: Sequence[Result], human: bool) -> str:
    """Format the mean change in points, with the mean ends of its intervals, in the mode that the model is used in."""
    parts = [part for part in (canary_part(result, human) for result in results) if part]
    if not parts:
        return ""
    change, low, high = (100 * np.mean([part[end] for part in parts]) for end in ("difference", "low", "high"))
    return f"{change:+.1f} ({low:+.1f} to {high:+.1f})"


def canary_part(result: Result, human: bool) -> dict[str, float] | None:
    """Return the canary's entry for the mode that the model is used in: of all clips, or of human ones only."""
    mode = next(iter(result.canary), "")
    return result.canary.get(f"{mode}, human speech" if human else mode)


OTHERS = "\nother recipes that were tried (docs/recipes.md)"


def table(stored_results: Iterable[Result]) -> None:
    """Print the table: human voices first, the peer below ours, and other recipes at the end."""
    by_row: dict[tuple[str, str, str, int | None], list[Result]] = {}
    for result in stored_results:
        by_row.setdefault((result.voice, result.model, result.arm, result.clips), []).append(result)
    print(f"\ncorpus WER on test, normalizer basic; before is the untouched model as its makers use it\n{HEADER}")
    rows = sorted(by_row.items(), key=lambda item: ([v.word for v in VOICES].index(item[0][0]), str(item[0])))
    voices = {voice.word: voice for voice in VOICES}
    for is_other in (False, True):
        if is_other:
            print(OTHERS)
        for (name, model, arm, clips), results in rows:
            if (arm not in ("ours", "peer")) == is_other:
                voice, size = voices[name], "" if clips is None else f", {clips} clips"
                kind = "human" if voice.human else "synthetic"
                label = f"{kind}: {voice.name}" if arm == "ours" else f"{arm} on {voice.name}"
                print(row(f"{label}{size}, {model.removeprefix('whisper-')}", results))
    print()
    kept = [r for results in by_row.values() for r in results if r.arm == "ours" and not r.alpha]
    print(f"runs that kept the untouched model: {len(kept)}")
    costs = [r.seconds for results in by_row.values() for r in results if r.arm == "ours" and r.clips is None]
    shares = [1 - cost["train_seconds"] / cost["total_seconds"] for cost in costs if cost]
    if shares:
        print(f"share of a run's time that is not training: {min(shares):.0%} to {max(shares):.0%}")


def main() -> None:
    """Do the runs that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [voice.word for voice in VOICES]
    parser.add_argument("--voices", nargs="+", default=names, choices=names)
    parser.add_argument("--models", nargs="+", help="measure only these models")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--clips", type=int, help="train and choose on this many clips, drawn at random")
    parser.add_argument("--human", type=Path, default=HUMAN, help="folder of the human voices (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--peer", action="store_true", help="add the peer, seed 0, with whisper-tiny.en")
    options, specialize_options = parser.parse_known_args()
    known = stored()
    for voice in (voice for voice in VOICES if voice.word in options.voices and not options.table):
        if not voice.path(options.human).is_dir():
            print(f"{voice.name}: skipped, since {voice.path(options.human)} does not exist")
            continue
        name = voice.word
        models = [model for model in voice.models if model in (options.models or voice.models)]
        runs = [Run("ours", name, model, seed, options.clips) for model in models for seed in options.seeds]
        runs += [Run("peer", name, "whisper-tiny.en", 0)] if options.peer and "whisper-tiny.en" in models else []
        for run in (run for run in runs if run not in known):
            print(f"running {run}", flush=True)
            known[run] = measure(run, voice, options.human, specialize_options)
            store(known[run])
    table(known.values())


if __name__ == "__main__":
    main()
