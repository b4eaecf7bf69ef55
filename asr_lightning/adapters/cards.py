"""The models that can be called by a name: facts as their makers publish them, and a recipe for each family.

Data only; loads nothing. Read by ``registry.py``. ``configs/models/`` holds the same recipes for people to copy from;
a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Recipe = Mapping[str, Any]

ADAPTERS = "asr_lightning.adapters"
MEMORY_BASE_GB = 1.5
BYTES_TO_TRAIN = 20
"""Estimate where nothing was measured: the libraries, and for each parameter 4 bytes of weight, 4 of gradient, 8 of
AdamW and 4 of activations. ``benchmarks/families.py`` measures."""


@dataclass(frozen=True)
class ModelCard:
    """One model that ``--model`` knows.

    Attributes:
        name: As given to ``--model``.
        family: Names the recipe.
        adapter: Class path.
        source: The adapter's first argument.
        parameters: Number of weights, in millions.
        licence: Of the weights.
        languages: Codes, or how many.
        restricted: Whether the licence forbids some uses; training then starts with a warning.
        extra: Of this package, that the adapter needs.
        train_gb: Peak memory of training the encoder at batch 8 on a CPU, as measured by ``benchmarks/families.py`` or
            ``benchmarks/nemo_size.py``; None where it was not.
        recipe: Options of ``fit`` on top of the family's; nested as in a configuration file.
    """

    name: str
    family: str
    adapter: str
    source: str
    parameters: float
    licence: str
    languages: str
    restricted: bool = False
    extra: str | None = None
    train_gb: float | None = None
    recipe: Recipe = field(default_factory=dict)

    @property
    def gb_to_train(self) -> float:
        """Memory to train, in GB: measured, or an estimate."""
        return self.train_gb or MEMORY_BASE_GB + self.parameters * BYTES_TO_TRAIN / 1000

    @property
    def gb_to_run(self) -> float:
        """Memory of the weights in float32, in GB; a quarter of it in int8."""
        return self.parameters * 4 / 1000


MULTILINGUAL_VOCABULARY = 51865
"""Smallest vocabulary of a multilingual Whisper; ``.en`` has one less. Source: openai/whisper ``model.py``."""

_FROM_NVIDIA = {
    "model": {"optimizer": {"lr": 3e-5, "warmup": 0.02, "floor": 0.03}},
    "data": {"batch_size": 8},
    "train_only": {"groups": ["encoder"]},
    "folds": "few",
    "trainer": {"max_epochs": 25},
}
_LARGE = {"model": {"optimizer": {"lr": 2e-5, "floor": 0.05}}}

# Medium and larger get worse at the rates of small models: 2.71 to 2.96 WER on one voice. Source: heyitworks.tech.
CAREFUL = {"model": {"optimizer": {"lr": 5e-6}}, "folds": "few"}

_VARIED: dict[str, Any] = {"augmentation": {"speeds": [0.9, 1.0, 1.1], "trail_silence_seconds": 0.5}}
_REPLAY = {"replay": "bundled", "replay_share": 0.5, "replay_least": 60}  # English
_MASKS = {"spec_augment": {"num_time_masks": 4, "time_fraction": 0.08, "num_freq_masks": 2, "freq_bins": 15}}
_WHISPER: dict[str, Any] = {
    "model": {
        "optimizer": {"lr": 1e-4, "layer_decay": 0.7, "fold_rate": 0.3},
        "adapter": {"init_args": {"margin_seconds": 3.0, **_MASKS}},
    },
    "data": {**_VARIED, "epoch_clips": 20},
    "bf16_on_cpu": True,
    "early_stopping": {"patience": 10},  # an end at a high rate misses what the cosine's end gives
    "trainer": {"max_epochs": 20},
}
_DROPS = {"drop_bands": 2, "drop_stretches": 3}  # in place of masks, for a model that reads samples
_MOONSHINE: dict[str, Any] = {
    "model": {"optimizer": {"lr": 2e-4, "fold_rate": 0.3}},
    "data": {"augmentation": {**_VARIED["augmentation"], **_DROPS}, "epoch_clips": 20},
    "bf16_on_cpu": True,
    "early_stopping": {"patience": 10},
    "train_only": {"groups": ["encoder"]},
    "trainer": {"max_epochs": 20},
}

RECIPES: dict[str, Recipe] = {
    "toy": {
        "model": {"optimizer": {"lr": 0.01, "schedule": "constant"}},
        "data": {"batch_size": 4},
        "train_only": {"groups": ["encoder", "head"], "batch_norm": "train"},
        "early_stopping": {"patience": 20},
        "selection": {"canary": "off"},
        "folds": "off",  # the smallest run there is
        "average_steps": {"share": 0.2},
        "trainer": {"max_epochs": 25, "accelerator": "cpu"},
    },
    "whisper": _WHISPER,
    "whisper.en": _WHISPER | {"data": {**_WHISPER["data"], **_REPLAY}},
    "moonshine": _MOONSHINE,
    "moonshine.en": _MOONSHINE | {"data": {**_MOONSHINE["data"], **_REPLAY}},
    "wav2vec2": {
        "model": {"optimizer": {"lr": 3e-5}},
        "data": {"batch_size": 8},
        "train_only": {"groups": ["encoder"]},
        "folds": "few",
        "trainer": {"max_epochs": 25},
    },
    "parakeet": _FROM_NVIDIA,
    "nemo": _FROM_NVIDIA,
}
"""Those of Whisper and Moonshine are the result of docs/recipes.md. lr of wav2vec2 is a place to start: no result on a
few hundred clips is published for it. Models that were not measured in folds are trained in them only with few clips:
there, nothing else can choose."""


def _whisper(
    name: str, parameters: float, languages: str = "99", source: str = "", licence: str = "Apache-2.0", **more: Any
) -> ModelCard:
    source = source or f"openai/{name}"
    family = "whisper.en" if languages == "en" else "whisper"
    return ModelCard(name, family, f"{ADAPTERS}.whisper.WhisperAdapter", source, parameters, licence, languages, **more)


def _moonshine(name: str, parameters: float, languages: str = "en", **more: Any) -> ModelCard:
    english = languages == "en"
    return ModelCard(
        name,
        "moonshine.en" if english else "moonshine",
        f"{ADAPTERS}.moonshine.MoonshineAdapter",
        f"moonshine-ai/{name}",
        parameters,
        "MIT" if english else "Moonshine AI Community License",
        languages,
        restricted=not english,
        **more,
    )


def _ctc(name: str, source: str, parameters: float, licence: str, languages: str, **more: Any) -> ModelCard:
    return ModelCard(
        name, "wav2vec2", f"{ADAPTERS}.hf_ctc.HFCTCAdapter", source, parameters, licence, languages, **more
    )


def _parakeet(name: str, kind: str, parameters: float, languages: str = "en", **more: Any) -> ModelCard:
    adapter = {"ctc": "hf_ctc.HFCTCAdapter", "transducer": "hf_transducer.HFTransducerAdapter"}[kind]
    return ModelCard(
        name, "parakeet", f"{ADAPTERS}.{adapter}", f"nvidia/{name}", parameters, "CC-BY-4.0", languages, recipe=_LARGE,
        **more,
    )  # fmt: skip


def _nemo(name: str, source: str, parameters: float, **more: Any) -> ModelCard:
    return ModelCard(
        name,
        "nemo",
        f"{ADAPTERS}.nemo.NeMoAdapter",
        f"nvidia/{source}",
        parameters,
        "CC-BY-4.0",
        "en",
        extra="nemo",
        **more,
    )


CARDS = (
    ModelCard("toy", "toy", f"{ADAPTERS}.toy.ToyAdapter", "toy", 0.03, "Apache-2.0", "tones"),
    _whisper("whisper-tiny.en", 38, "en", train_gb=1.6),
    _whisper("whisper-tiny", 38, train_gb=1.6),
    _whisper("whisper-base.en", 73, "en", train_gb=2.2),
    _whisper("whisper-base", 73, train_gb=2.2),
    _whisper("whisper-small.en", 242, "en", train_gb=5.4),
    _whisper("whisper-small", 242, train_gb=5.4),
    _whisper("whisper-medium.en", 764, "en", recipe=CAREFUL),
    _whisper("whisper-medium", 764, recipe=CAREFUL),
    _whisper("whisper-large-v3", 1543, "100", recipe=CAREFUL),
    _whisper("whisper-large-v3-turbo", 809, "100", licence="MIT", recipe=CAREFUL),
    _whisper("distil-small.en", 166, "en", "distil-whisper/distil-small.en", "MIT"),
    _whisper("distil-large-v3", 756, "en", "distil-whisper/distil-large-v3", "MIT", recipe=CAREFUL),
    _moonshine("moonshine-tiny", 27, train_gb=1.5),
    _moonshine("moonshine-base", 62, train_gb=2.1),
    _moonshine("moonshine-streaming-tiny", 44, train_gb=1.5),
    _moonshine("moonshine-streaming-small", 140, train_gb=3.2),
    _moonshine("moonshine-streaming-medium", 266, train_gb=5.0),
    *(_moonshine(f"moonshine-tiny-{code}", 27, code) for code in ("ar", "ja", "ko", "uk", "vi", "zh")),
    _ctc("wav2vec2-base-960h", "facebook/wav2vec2-base-960h", 94, "Apache-2.0", "en", train_gb=4.1),
    _ctc("wav2vec2-large-960h-lv60-self", "facebook/wav2vec2-large-960h-lv60-self", 316, "Apache-2.0", "en"),
    _ctc("wav2vec2-large-xlsr-53-german", "jonatasgrosman/wav2vec2-large-xlsr-53-german", 316, "Apache-2.0", "de"),
    _ctc("hubert-large-ls960-ft", "facebook/hubert-large-ls960-ft", 316, "Apache-2.0", "en", train_gb=9.0),
    _ctc("mms-1b-all", "facebook/mms-1b-all", 965, "CC-BY-NC-4.0", "1162", restricted=True),
    _parakeet("parakeet-ctc-0.6b", "ctc", 609, train_gb=13.1),
    _parakeet("parakeet-ctc-1.1b", "ctc", 1063),
    _parakeet("parakeet-rnnt-0.6b", "transducer", 617),
    _parakeet("parakeet-rnnt-1.1b", "transducer", 1070),
    _parakeet("parakeet-tdt-0.6b-v3", "transducer", 627, "25 European", train_gb=14.2),
    _nemo("parakeet-tdt-0.6b-v2", "parakeet-tdt-0.6b-v2", 618, recipe=_LARGE, train_gb=14.5),
    _nemo("parakeet-tdt-ctc-110m", "parakeet-tdt_ctc-110m", 115),
    _nemo("fastconformer-ctc-large", "stt_en_fastconformer_ctc_large", 115, train_gb=4.5),
    _nemo("fastconformer-hybrid-large", "stt_en_fastconformer_hybrid_large_pc", 115, train_gb=4.1),
)
"""Parameters are counted from the configurations, licences are those of the hub's pages, read in November 2026."""

ALIASES = {"parakeet-tdt-0.6b": "parakeet-tdt-0.6b-v3"}
