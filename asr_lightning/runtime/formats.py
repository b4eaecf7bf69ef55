"""The formats that a model can be exported to: for which families, in which variants, and how close they must be.

A new format is an entry here, a module in ``export/`` with ``convert`` and, where something here can run it, a module
in ``runtime/`` with ``load``. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from asr_lightning.errors import OptionError

FLOAT = "fp32"
"""The variant with the weights as they were trained."""

HALF_POINT, ONE_POINT, TWO_POINTS = 0.005, 0.01, 0.02


class Modules(NamedTuple):
    """The modules of one family in one format.

    Attributes:
        converter: Module with ``convert(source: Path, target: Path, variant: str) -> Mapping[str, object]``, which
            returns the settings that belong to the weights, and ``problems(source, target, settings) -> list[str]``.
        runtime: Module with ``load(folder: Path, settings: Mapping[str, object], threads: int) -> RuntimeModel``; None
            if nothing here can run the format.
    """

    converter: str
    runtime: str | None


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: Its name in ``--to``.
        modules: Its modules by the family of the model: whisper, moonshine, ctc, transducer or nemo.
        variants: Variants of the weights, the default first, each with the largest WER by which it may be worse than
            the model in torch, as a fraction.
        packages: Packages that its runtime needs.
        same_text: Share of texts that must equal those of torch where the variant is ``fp32``; 0 for runtimes that
            compute features or search in another way.
        used_by: What reads the format, for people.
        note: What a user must know, such as that nobody has run the format; empty if there is nothing.
    """

    name: str
    modules: Mapping[str, Modules]
    variants: Mapping[str, float]
    packages: tuple[str, ...]
    same_text: float
    used_by: str
    note: str = ""

    @property
    def families(self) -> tuple[str, ...]:
        """Families of models that it takes."""
        return tuple(self.modules)

    @property
    def default(self) -> str:
        """The variant that is made if none is named."""
        return next(iter(self.variants))


class Target(NamedTuple):
    """A format and one of its variants."""

    format: Format
    variant: str

    @property
    def name(self) -> str:
        """Its name in ``--to``, and of the folder that it is written to with ``-`` for the colon."""
        return f"{self.format.name}:{self.variant}"

    @property
    def folder(self) -> str:
        """Name of the folder that it is written to."""
        return f"{self.format.name}-{self.variant}"

    @property
    def tolerance(self) -> float:
        """Largest WER by which it may be worse than the model in torch, as a fraction."""
        return self.format.variants[self.variant]


def _modules(converter: str, runtime: str | None, *families: str) -> dict[str, Modules]:
    """The same modules for each of ``families``."""
    own = Modules(f"asr_lightning.export.{converter}", f"asr_lightning.runtime.{runtime}" if runtime else None)
    return dict.fromkeys(families, own)


_LABELS = ("ctc", "transducer", "nemo")

FORMATS: tuple[Format, ...] = (
    Format(
        "ctranslate2",
        _modules("whisper.ctranslate2", "whisper.ctranslate2", "whisper")
        | _modules("labels.ctranslate2", "labels.ctranslate2", "ctc"),
        {"int8": TWO_POINTS, "float16": HALF_POINT, FLOAT: HALF_POINT},
        ("ctranslate2", "tokenizers"),
        0.95,
        "faster-whisper, whisper-ctranslate2, WhisperX, wyoming-faster-whisper",
    ),
    Format(
        "ggml",
        _modules("whisper.ggml", "whisper.whisper_cpp", "whisper"),
        {"q8_0": TWO_POINTS, "f16": ONE_POINT, "q5_1": TWO_POINTS},
        ("pywhispercpp",),
        0.0,
        "whisper.cpp and the apps built on it, on Android, iPhone and computers",
        "whisper-cli needs -nfa beside -ac: flash attention also reads what lies behind a short context in memory.",
    ),
    Format(
        "onnx",
        _modules("whisper.onnx", "whisper.onnx", "whisper")
        | _modules("moonshine.onnx", "moonshine.onnx", "moonshine")
        | _modules("labels.onnx", "labels.onnx", *_LABELS),
        {"int8": TWO_POINTS, FLOAT: HALF_POINT},
        ("onnxruntime", "tokenizers"),
        0.95,
        "onnxruntime on any device, and asr_lightning itself without torch",
    ),
    Format(
        "sherpa-onnx",
        _modules("whisper.sherpa_onnx", "whisper.sherpa_onnx", "whisper")
        | _modules("moonshine.sherpa_onnx", "sherpa_onnx", "moonshine")
        | _modules("labels.sherpa_onnx", "sherpa_onnx", *_LABELS),
        {"int8": TWO_POINTS, FLOAT: ONE_POINT},
        ("sherpa_onnx",),
        0.0,
        "sherpa-onnx, which has apps and libraries for phones, desktops, boards and the browser",
    ),
    Format(
        "transformers.js",
        _modules("whisper.transformers_js", "whisper.transformers_js", "whisper"),
        {"q8": TWO_POINTS, FLOAT: HALF_POINT},
        (),
        0.95,
        "transformers.js in web pages and Node",
    ),
    Format(
        "onnx-asr",
        _modules("labels.onnx_asr", "labels.onnx_asr", *_LABELS),
        {"int8": TWO_POINTS, FLOAT: ONE_POINT},
        ("onnx_asr",),
        0.0,
        "onnx-asr, a Python package that needs onnxruntime and numpy alone",
    ),
    Format(
        "moonshine-voice",
        _modules("moonshine.moonshine_voice", "moonshine.moonshine_voice", "moonshine"),
        {"int8": TWO_POINTS, FLOAT: ONE_POINT},
        ("moonshine_voice",),
        0.0,
        "Moonshine's own runtime for Python, iOS, Android, macOS, Windows and Linux",
    ),
    Format(
        "openai",
        _modules("whisper.openai", "whisper.openai", "whisper"),
        {"fp16": ONE_POINT, FLOAT: ONE_POINT},
        ("whisper",),
        0.0,
        "openai-whisper and tools that take its .pt files",
        "It is read in the 30 s window, the only one that openai-whisper knows.",
    ),
    Format(
        "mlx",
        _modules("whisper.mlx", None, "whisper"),
        {"fp16": ONE_POINT, FLOAT: ONE_POINT},
        (),
        0.0,
        "mlx_whisper on Apple's computers",
        "No text was read with it: its files were compared with the model. mlx_whisper reads in the 30 s window only.",
    ),
    Format(
        "coreml",
        _modules("whisper.coreml", None, "whisper"),
        {"fp16": ONE_POINT, FLOAT: ONE_POINT},
        (),
        0.0,
        "whisper.cpp on Apple's devices, as the encoder beside the file of --to ggml",
        "Never run: CoreML runs on Apple's devices only. On a Mac, compile it with `xcrun coremlc compile "
        "ggml-model-encoder.mlpackage .`, put what that writes beside ggml-model.bin, and run whisper.cpp without -ac.",
    ),
)
"""All formats, in the order in which ``--help`` lists them."""


def parse(names: str) -> list[Target]:
    """Return the targets that ``names`` such as ``ctranslate2,ggml:q5_1`` stand for, without repetitions.

    Raises:
        OptionError: There is no such format or variant.
    """
    known = {known.name: known for known in FORMATS}
    targets: dict[str, Target] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        format_name, _, variant = name.partition(":")
        if format_name not in known:
            raise OptionError(f"there is no format {format_name!r}: give --to one of {', '.join(known)}", "to")
        chosen = known[format_name]
        if variant and variant not in chosen.variants:
            raise OptionError(
                f"{format_name} has no variant {variant!r}: give --to {format_name}:"
                f"{f', {format_name}:'.join(chosen.variants)}",
                "to",
            )
        target = Target(chosen, variant or chosen.default)
        targets[target.name] = target
    if not targets:
        raise OptionError(f"name a format, as in --to {FORMATS[0].name}", "to")
    return list(targets.values())
