"""The formats that a model can be exported to: for which families, in which variants, and how close they must be.

A new format is an entry here, a module in ``export/`` with ``convert`` and, where something here can run it, a module in
``runtime/`` with ``load``. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from asr_lightning.errors import OptionError

FLOAT = "fp32"
"""The variant with the weights as they were trained."""

HALF_POINT, ONE_POINT, TWO_POINTS = 0.005, 0.01, 0.02


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: Its name in ``--to``.
        families: Families of models that it takes: whisper, moonshine, ctc, transducer, nemo.
        variants: Variants of the weights, the default first, each with the largest WER by which it may be worse than
            the model in torch, as a fraction.
        converter: Module with ``convert(source: Path, target: Path, variant: str) -> Mapping[str, object]``, which
            returns the settings that belong to the weights; a mapping if families have modules of their own.
        runtime: Module with ``load(folder: Path, settings: Mapping[str, object], threads: int) -> RuntimeModel``, or a
            mapping as for ``converter``; None if nothing here can run the format.
        packages: Packages that this runtime needs.
        same_text: Share of texts that must equal those of torch where the variant is ``fp32``; 0 for runtimes that
            compute features or search in another way.
        used_by: What reads the format, for people.
    """

    name: str
    families: tuple[str, ...]
    variants: Mapping[str, float]
    converter: str | Mapping[str, str]
    runtime: str | Mapping[str, str] | None
    packages: tuple[str, ...]
    same_text: float
    used_by: str

    def converter_for(self, family: str) -> str:
        """Return the module that converts models of ``family``."""
        return self.converter if isinstance(self.converter, str) else self.converter[family]

    def runtime_for(self, family: str) -> str | None:
        """Return the module that loads models of ``family``; None if nothing here can run them."""
        modules = self.runtime
        return modules if modules is None or isinstance(modules, str) else modules.get(family)

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


FORMATS: tuple[Format, ...] = (
    Format(
        "ctranslate2",
        ("whisper", "ctc"),
        {"int8": TWO_POINTS, "float16": HALF_POINT, "fp32": HALF_POINT},
        {
            "whisper": "asr_lightning.export.ctranslate2",
            "ctc": "asr_lightning.export.ctranslate2_wav2vec2",
        },
        {
            "whisper": "asr_lightning.runtime.ctranslate2",
            "ctc": "asr_lightning.runtime.ctranslate2_wav2vec2",
        },
        ("ctranslate2", "tokenizers"),
        0.95,
        "faster-whisper, whisper-ctranslate2, WhisperX, wyoming-faster-whisper",
    ),
    Format(
        "onnx",
        ("moonshine", "ctc", "transducer", "nemo"),
        {"int8": TWO_POINTS, FLOAT: HALF_POINT},
        {
            "moonshine": "asr_lightning.export.onnx_moonshine",
            **dict.fromkeys(("ctc", "transducer", "nemo"), "asr_lightning.export.onnx_labels"),
        },
        {
            "moonshine": "asr_lightning.runtime.onnx_moonshine",
            **dict.fromkeys(("ctc", "transducer", "nemo"), "asr_lightning.runtime.onnx_labels"),
        },
        ("onnxruntime", "tokenizers"),
        0.95,
        "onnxruntime on any device, and asr_lightning itself without torch",
    ),
    Format(
        "sherpa-onnx",
        ("moonshine", "ctc", "transducer", "nemo"),
        {"int8": TWO_POINTS, FLOAT: ONE_POINT},
        {
            "moonshine": "asr_lightning.export.sherpa_moonshine",
            **dict.fromkeys(("ctc", "transducer", "nemo"), "asr_lightning.export.sherpa_labels"),
        },
        dict.fromkeys(("moonshine", "ctc", "transducer", "nemo"), "asr_lightning.runtime.sherpa_onnx"),
        ("sherpa_onnx",),
        0.0,
        "sherpa-onnx, which has apps and libraries for phones, desktops, boards and the browser",
    ),
    Format(
        "onnx-asr",
        ("ctc", "transducer", "nemo"),
        {"int8": TWO_POINTS, FLOAT: ONE_POINT},
        "asr_lightning.export.onnx_asr",
        "asr_lightning.runtime.onnx_asr",
        ("onnx_asr",),
        0.0,
        "onnx-asr, a Python package that needs onnxruntime and numpy alone",
    ),
    Format(
        "moonshine-voice",
        ("moonshine",),
        {"int8": TWO_POINTS, FLOAT: ONE_POINT},
        "asr_lightning.export.moonshine_voice",
        "asr_lightning.runtime.moonshine_voice",
        ("moonshine_voice",),
        0.0,
        "Moonshine's own runtime for Python, iOS, Android, macOS, Windows and Linux",
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
