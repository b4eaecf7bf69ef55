"""Whisper's encoder for Apple's Neural Engine, as whisper.cpp takes it beside its ggml file. Nobody has run it here.

CoreML runs on Apple's devices only, so in place of reading clips the gate computes the written program in torch.
whisper.cpp hands the encoder twice as many frames as ``audio_ctx``, and the Neural Engine wants a fixed shape. So the
shape is that of the 30 s window, as in whisper.cpp's own script: do not set ``audio_ctx``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_lightning.errors import ModelError
from asr_lightning.export.whisper import loading as whisper
from asr_lightning.export.whisper.folder import WhisperFolder
from asr_lightning.export.whisper.openai_layout import setting_problems

FILE_NAME = "ggml-model-encoder.mlpackage"
INPUT, OUTPUT = "logmel_data", "output"
"""The names that ``src/coreml/whisper-encoder-impl.h`` of whisper.cpp has."""
CLOSE = {"fp16": 5e-3, "fp32": 1e-4}
"""Largest relative distance of the program's result from torch's; that of whisper-tiny.en in float16 is 4e-4."""


class _Encoder(nn.Module):
    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor) -> Tensor:
        return self.encoder(features).last_hidden_state


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write ``ggml-model-encoder.mlpackage`` to ``target`` and return the settings for reading audio."""
    ct = _coremltools()
    settings = WhisperFolder(source).settings()
    network = _Encoder(whisper.load(source).model.model.encoder).eval()
    example = torch.zeros(_shape(network.encoder))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of checks of the shape, which is fixed
        program = ct.convert(
            torch.jit.trace(network, example),
            convert_to="mlprogram",
            inputs=[ct.TensorType(name=INPUT, shape=tuple(example.shape))],
            outputs=[ct.TensorType(name=OUTPUT)],
            compute_units=ct.ComputeUnit.ALL,
            compute_precision=ct.precision.FLOAT16 if variant == "fp16" else ct.precision.FLOAT32,
            skip_model_load=True,
        )
    program.save(str(target / FILE_NAME))
    for path in (target / FILE_NAME).rglob("*"):  # coremltools leaves some of them to their owner alone
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {**settings.as_json(), "variant": variant}


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the package in ``target``, as sentences: its program is computed in torch."""
    try:
        folder = WhisperFolder(source)
        encoder = whisper.load(source).model.model.encoder.eval()
        found = list(setting_problems(folder, settings))
        features = torch.randn(_shape(encoder), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = encoder(features).last_hidden_state
            got = run(target / FILE_NAME, features)
        distance = float((got.float() - wanted).norm() / wanted.norm()) if got.shape == wanted.shape else float("inf")
        if not distance <= CLOSE[str(settings.get("variant", "fp16"))]:
            found.append(f"{FILE_NAME} computes another encoder than the model has: the distance is {distance:.3g}")
        return found
    except ModelError as error:
        return [str(error)]
    except Exception as error:  # coremltools fails on damaged packages in many ways
        return [f"{FILE_NAME} cannot be read: {error!r}"]


def run(package: Path, features: Tensor) -> Tensor:
    """Compute the program of ``package`` in torch, in float32.

    Raises:
        ValueError: It has other inputs or operations than an encoder of Whisper.
    """
    ct = _coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    names = [entry.name for entry in (*spec.description.input, *spec.description.output)]
    if names != [INPUT, OUTPUT]:
        raise ValueError(f"it has the inputs and outputs {names}, and whisper.cpp wants {INPUT} and {OUTPUT}")
    if list(spec.description.input[0].type.multiArrayType.shape) != list(features.shape):
        raise ValueError(f"it takes another shape than {list(features.shape)}")
    function = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    main = function.functions["main"]
    values: dict[str, Tensor] = {INPUT: features}
    for operation in main.operations:
        if operation.op_type == "const":
            continue
        inputs = {name: _value(variable, values) for name, variable in operation.inputs.items() if variable is not None}
        if operation.op_type not in OPERATIONS:
            raise ValueError(f"it has the operation {operation.op_type}, which an encoder of Whisper does not have")
        values[operation.outputs[0].name] = OPERATIONS[operation.op_type](inputs)
    return values[main.outputs[0].name]


def _value(variable: Any, values: Mapping[str, Tensor]) -> Any:
    if variable.name in values:
        return values[variable.name]
    constant = variable.val
    is_weight = getattr(constant, "ndim", 0) > 0 and constant.dtype.kind == "f"
    return torch.from_numpy(constant.astype("float32")) if is_weight else constant


def _linear(i: Mapping[str, Any]) -> Tensor:
    return F.linear(i["x"], i["weight"], i.get("bias"))


def _conv(i: Mapping[str, Any]) -> Tensor:
    return F.conv1d(i["x"], i["weight"], i["bias"], stride=int(i["strides"][0]), padding=int(i["pad"][0]))


def _layer_norm(i: Mapping[str, Any]) -> Tensor:
    return F.layer_norm(i["x"], i["gamma"].shape, i["gamma"], i["beta"], float(i["epsilon"]))


def _matmul(i: Mapping[str, Any]) -> Tensor:
    x, y = (i[name].transpose(-1, -2) if i[f"transpose_{name}"] else i[name] for name in ("x", "y"))
    return x @ y


OPERATIONS: dict[str, Callable[[Mapping[str, Any]], Tensor]] = {
    "cast": lambda i: i["x"],
    "conv": _conv,
    "gelu": lambda i: F.gelu(i["x"], approximate="none" if str(i["mode"]) == "EXACT" else "tanh"),
    "transpose": lambda i: i["x"].permute(*map(int, i["perm"])),
    "reshape": lambda i: i["x"].reshape(*map(int, i["shape"])),
    "add": lambda i: i["x"] + i["y"],
    "mul": lambda i: i["x"] * (i["y"] if isinstance(i["y"], Tensor) else float(i["y"])),
    "softmax": lambda i: i["x"].softmax(int(i["axis"])),
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _matmul,
}


def _shape(encoder: Any) -> tuple[int, int, int]:
    return 1, encoder.config.num_mel_bins, 2 * encoder.config.max_source_positions


def _coremltools() -> Any:
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # on Linux it says that it cannot run models
    import coremltools

    return coremltools
