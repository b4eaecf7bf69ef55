"""The models that have a name: facts as their makers publish them, and a training recipe for each family.

Holds data only and imports nothing heavy; ``registry.py`` reads it. ``configs/models/`` has the same recipes as files
that people can copy; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Recipe = Mapping[str, Any]
"""Options of ``fit``, nested as in a configuration file."""

ADAPTERS = "asr_lightning.adapters"
MEMORY_BASE_GB = 1.5
BYTES_TO_TRAIN = 20
"""Estimate of the memory for training a model that was not measured: the libraries, and for each parameter 4 bytes of
weight, 4 of gradient, 8 of AdamW and 4 of activations. ``benchmarks/families.py`` measures."""


@dataclass(frozen=True)
class ModelCard:
    """One model that ``--model`` knows.

    Attributes:
        name: Name of the model, as given to ``--model``.
        family: Name of the family, which has a recipe.
        adapter: Class path of the adapter.
        source: First argument of the adapter.
        parameters: Number of weights, in millions.
        licence: Licence of the weights.
        languages: Code of the language, or the number of languages.
        restricted: Whether the licence forbids some uses; training then starts with a warning.
        extra: Extra of this package that the adapter needs.
        train_gb: Peak memory in GB of training the encoder at batch 8 on a CPU, as measured by
            ``benchmarks/families.py`` or ``benchmarks/nemo_size.py``; None if it was not measured.
        recipe: Options of ``fit`` that override the family's recipe.
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
        """Memory for training, in GB: measured or estimated."""
        return self.train_gb or MEMORY_BASE_GB + self.parameters * BYTES_TO_TRAIN / 1000

    @property
    def gb_to_run(self) -> float:
        """Memory of the weights in float32, in GB; a quarter of it in int8."""
        return self.parameters * 4 / 1000


MULTILINGUAL_VOCABULARY = 51865
"""Size of the smallest vocabulary of a multilingual Whisper; that of an English-only one is smaller by one. Source:
openai/whisper ``model.py``."""
ENGLISH_END = 50256
"""Id of the token that ends a text in English-only Whispers; that of multilingual ones is greater by one. Unlike the
size of the vocabulary it stays as it is when tokens are added. Source: openai/whisper ``tokenizer.py``."""

_FROM_NVIDIA = {
    "model": {"optimizer": {"lr": 3e-5, "warmup": 0.02, "floor": 0.03}},
    "data": {"batch_size": 8},
    "train_only": {"groups": ["encoder"]},
    "folds": "few",
    "trainer": {"max_epochs": 25},
}
_LARGE = {"model": {"optimizer": {"lr": 2e-5, "floor": 0.05}}}

# Medium and larger models get worse at the rates of small ones: 2.71 to 2.96 WER on one voice. Source: heyitworks.tech.
CAREFUL = {"model": {"optimizer": {"lr": 5e-6}}, "folds": "few"}

_AUGMENTATION = {"speeds": [0.9, 1.0, 1.1], "trail_silence_seconds": 0.5}
_DROPS = {"drop_bands": 2, "drop_stretches": 3}  # the counterpart of masks for models that read samples
_REPLAY = {"replay": "bundled", "replay_share": 0.5, "replay_least": 60}  # the bundled replay is English
_MASKS = {"num_time_masks": 4, "time_fraction": 0.08, "num_freq_masks": 2, "freq_bins": 15}
_WHISPER_DATA = {"augmentation": _AUGMENTATION, "epoch_clips": 20}
_WHISPER = {
    "model": {
        "optimizer": {"lr": 1e-4, "layer_decay": 0.7, "fold_rate": 0.3},
        "adapter": {"init_args": {"margin_seconds": 3.0, "spec_augment": _MASKS}},
    },
    "data": _WHISPER_DATA,
    "bf16_on_cpu": True,
    "early_stopping": {"patience": 10},  # stopping while the rate is high would miss the gain at the cosine's end
    "trainer": {"max_epochs": 20},
}
_MOONSHINE_DATA = {"augmentation": _AUGMENTATION | _DROPS, "epoch_clips": 20}
_MOONSHINE = {
    "model": {"optimizer": {"lr": 2e-4, "fold_rate": 0.3}},
    "data": _MOONSHINE_DATA,
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
        "selection": {"canary": "off", "min_probability": 0.7},  # twelve phrases prove nothing
        "folds": "off",  # the smallest run there is
        "average_steps": {"share": 0.2},
        "trainer": {"max_epochs": 25, "accelerator": "cpu"},
    },
    "whisper": _WHISPER,
    "whisper.en": _WHISPER | {"data": _WHISPER_DATA | _REPLAY},
    "moonshine": _MOONSHINE,
    "moonshine.en": _MOONSHINE | {"data": _MOONSHINE_DATA | _REPLAY},
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
"""Recipes by family. Those of Whisper and Moonshine result from the experiments in docs/recipes.md. The learning rate
of wav2vec2 is a starting point: nobody has published one for a few hundred clips. Families that were not measured in
folds train in folds only if there are few clips, since then nothing else can choose the weights."""


def _whisper(
    name: str, parameters: float, languages: str = "99", source: str = "", licence: str = "Apache-2.0", **fields: Any
) -> ModelCard:
    source = source or f"openai/{name}"
    family = "whisper.en" if languages == "en" else "whisper"
    adapter = f"{ADAPTERS}.whisper.WhisperAdapter"
    return ModelCard(name, family, adapter, source, parameters, licence, languages, **fields)


def _moonshine(name: str, parameters: float, languages: str = "en", **fields: Any) -> ModelCard:
    is_english = languages == "en"
    return ModelCard(
        name,
        "moonshine.en" if is_english else "moonshine",
        f"{ADAPTERS}.moonshine.MoonshineAdapter",
        f"moonshine-ai/{name}",
        parameters,
        "MIT" if is_english else "Moonshine AI Community License",
        languages,
        restricted=not is_english,
        **fields,
    )


def _ctc(name: str, source: str, parameters: float, licence: str, languages: str, **fields: Any) -> ModelCard:
    return ModelCard(
        name, "wav2vec2", f"{ADAPTERS}.hf_ctc.HFCTCAdapter", source, parameters, licence, languages, **fields
    )


def _parakeet(name: str, kind: str, parameters: float, languages: str = "en", **fields: Any) -> ModelCard:
    adapter = {"ctc": "hf_ctc.HFCTCAdapter", "transducer": "hf_transducer.HFTransducerAdapter"}[kind]
    return ModelCard(
        name, "parakeet", f"{ADAPTERS}.{adapter}", f"nvidia/{name}", parameters, "CC-BY-4.0", languages, recipe=_LARGE,
        **fields,
    )  # fmt: skip


def _nemo(name: str, source: str, parameters: float, **fields: Any) -> ModelCard:
    return ModelCard(
        name,
        "nemo",
        f"{ADAPTERS}.nemo.NeMoAdapter",
        f"nvidia/{source}",
        parameters,
        "CC-BY-4.0",
        "en",
        extra="nemo",
        **fields,
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
"""Parameters are counted from the configurations; licences are those on the hub's pages, as read in November 2026."""

ALIASES = {"parakeet-tdt-0.6b": "parakeet-tdt-0.6b-v3"}
