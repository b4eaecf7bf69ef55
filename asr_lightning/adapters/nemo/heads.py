"""What turns encoder frames into a loss and a text: a CTC head, a transducer (RNNT or TDT), or both.

Chosen once, when a model is loaded, from the parts that it has. NeMo's ``training_step``, ``transcribe`` and ``wer``
are never called. Must never know audio or a trainer. Used by ``adapter.py``.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from asr_lightning.types import LossOutput

GREEDY = {"strategy": "greedy_batch", "compute_timestamps": False, "preserve_alignments": False}
"""All of a batch at once; on the checkpoint's other settings, such as the most symbols a frame, we have no opinion."""


class Head(Protocol):
    """Loss and text from encoder output ``[B, D, F']`` and frames ``[B]``.

    Attributes:
        decoding: NeMo's decoding that ``decode`` uses; its own ``decoding`` may have CUDA graphs.
    """

    decoding: Any

    def loss(self, encoded: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> LossOutput:
        """Mean loss in float32; ``targets`` int64 ``[B, U]`` without -100."""
        ...

    def decode(self, encoded: Tensor, lengths: Tensor) -> list[str]:
        """Greedy text of each row."""
        ...


class CTCHead:
    """A frame-wise classifier: NeMo's ``decoder`` of a CTC model, ``ctc_decoder`` of a hybrid.

    Args:
        decoder: ``[B, D, F']`` to log-probabilities ``[B, F', V + 1]``.
        loss: NeMo's ``CTCLoss``.
        decoding: NeMo's greedy CTC decoding.
    """

    def __init__(self, decoder: nn.Module, loss: Any, decoding: Any) -> None:
        self.decoder, self.criterion, self.decoding = decoder, loss, decoding

    def loss(self, encoded: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> LossOutput:
        """CTC in float32, which has no half precision. Texts that do not fit their frames add 0 and are counted."""
        log_probs = self.decoder(encoder_output=encoded).float()
        # PyTorch has had no CTC for Apple's GPUs (#160829).
        device = "cpu" if log_probs.device.type == "mps" else log_probs.device
        named = {"log_probs": log_probs, "targets": targets, "input_lengths": lengths, "target_lengths": target_lengths}
        with torch.autocast(encoded.device.type, enabled=False):
            loss = self.criterion(**{name: tensor.to(device) for name, tensor in named.items()}).to(log_probs.device)
        infeasible = (frames_needed(targets, target_lengths) > lengths).sum()
        return mean_of(loss, self.criterion.config_reduction, target_lengths, {"infeasible": infeasible.float()})

    def decode(self, encoded: Tensor, lengths: Tensor) -> list[str]:
        """Best label of each frame, repeats and blanks dropped."""
        log_probs = self.decoder(encoder_output=encoded)
        found = self.decoding.ctc_decoder_predictions_tensor(decoder_outputs=log_probs, decoder_lengths=lengths)
        return [hypothesis.text for hypothesis in found]


class TransducerHead:
    """Prediction network and joint, RNNT and TDT alike: the model's own loss makes the difference.

    Args:
        model: A NeMo model with ``decoder``, ``joint`` and ``loss``.
        decoding: NeMo's greedy transducer decoding.
    """

    def __init__(self, model: Any, decoding: Any) -> None:
        self.model, self.decoding = model, decoding

    def loss(self, encoded: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> LossOutput:
        """Transducer loss in float32, through the fused joint where the checkpoint asks for it."""
        model = self.model
        predicted, target_lengths, _ = model.decoder(targets=targets, target_length=target_lengths)
        if model.joint.fuse_loss_wer:  # sub-batches of the joint; equal but for rounding, and smaller
            loss, *_ = model.joint(
                encoder_outputs=encoded,
                decoder_outputs=predicted,
                encoder_lengths=lengths,
                transcripts=targets,
                transcript_lengths=target_lengths,
                compute_wer=False,
            )
        else:
            joint = model.joint(encoder_outputs=encoded, decoder_outputs=predicted).float()
            loss = model.loss(log_probs=joint, targets=targets, input_lengths=lengths, target_lengths=target_lengths)
        return mean_of(loss, model.loss.reduction, target_lengths)

    def decode(self, encoded: Tensor, lengths: Tensor) -> list[str]:
        """Greedy text; with CUDA graphs where ``NeMoAdapter.evaluating`` has switched them on."""
        found = self.decoding.rnnt_decoder_predictions_tensor(encoder_output=encoded, encoded_lengths=lengths)
        return [hypothesis.text for hypothesis in found]


class HybridHead:
    """A transducer and a CTC head over one encoder: ``(1 - ctc_weight)`` of one loss and ``ctc_weight`` of the other.

    Args:
        transducer: One head.
        ctc: The other.
        ctc_weight: Between 0 and 1.
        reader: The one that decodes.
    """

    def __init__(self, transducer: TransducerHead, ctc: CTCHead, ctc_weight: float, reader: Head) -> None:
        self.transducer, self.ctc, self.ctc_weight = transducer, ctc, ctc_weight
        self.decode, self.decoding = reader.decode, reader.decoding

    def loss(self, encoded: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> LossOutput:
        """Both losses, weighted; each alone in ``parts``. A head of weight 0 is not computed."""
        weights = ((self.transducer, "rnnt", 1 - self.ctc_weight), (self.ctc, "ctc", self.ctc_weight))
        outputs = {
            name: (weight, head.loss(encoded, lengths, targets, target_lengths))
            for head, name, weight in weights
            if weight
        }
        total = torch.stack([weight * output.loss for weight, output in outputs.values()]).sum()
        parts = {name: output.loss.detach() for name, (_, output) in outputs.items()}
        _, main = next(iter(outputs.values()))
        return LossOutput(
            total, main.weight, {**parts, **{k: v for _, o in outputs.values() for k, v in o.parts.items()}}
        )


def build_head(model: Any, decoder: str | None, ctc_weight: float | None) -> Head:
    """The head that fits the parts of ``model``.

    Args:
        model: A loaded NeMo model.
        decoder: Which head of a hybrid reads: ``rnnt`` (also TDT) or ``ctc``; None takes the transducer.
        ctc_weight: Share of the CTC loss of a hybrid; None takes the checkpoint's.

    Raises:
        ValueError: The model lacks the head that ``decoder`` or ``ctc_weight`` is about.
    """
    has_joint, is_hybrid = hasattr(model, "joint"), hasattr(model, "ctc_decoder")
    own = "rnnt" if has_joint else "ctc"
    if decoder not in ((None, "rnnt", "ctc") if is_hybrid else (None, own)):
        heads = "rnnt and ctc" if is_hybrid else f"{own} only"
        raise ValueError(f"decoder={decoder!r} does not fit this model, which has {heads}")
    if ctc_weight is not None and not (is_hybrid and 0 <= ctc_weight <= 1):
        raise ValueError(f"ctc_weight={ctc_weight} does not fit: it is a share from 0 to 1, for hybrid models only")
    if not has_joint:
        return CTCHead(model.decoder, model.loss, greedy_decoding(model, "decoding"))
    transducer = TransducerHead(model, greedy_decoding(model, "decoding"))
    if not is_hybrid:
        return transducer
    weight = float(model.ctc_loss_weight if ctc_weight is None else ctc_weight)
    ctc = CTCHead(model.ctc_decoder, model.ctc_loss, greedy_decoding(model, "ctc_decoding"))
    _freeze_unused(model, weight)
    return HybridHead(transducer, ctc, weight, ctc if decoder == "ctc" else transducer)


def _freeze_unused(model: Any, ctc_weight: float) -> None:
    """DDP waits for ever for the gradient of a parameter that no loss uses."""
    unused = {0.0: [model.ctc_decoder], 1.0: [model.decoder, model.joint]}.get(ctc_weight, [])
    for module in unused:
        module.requires_grad_(False)


def greedy_decoding(model: Any, name: str) -> Any:
    """The decoding ``name`` of ``model`` as greedy search; the model keeps its own, which is what ``save`` writes."""
    from omegaconf import OmegaConf

    own = getattr(model, name)
    config = model.cfg.aux_ctc.decoding if name == "ctc_decoding" else model.cfg.decoding
    config = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), GREEDY)
    text = {"tokenizer": own.tokenizer} if hasattr(own, "tokenizer") else {"vocabulary": list(_labels(own))}
    parts = {"decoder": model.decoder, "joint": model.joint} if "RNNT" in type(own).__name__ else {}
    return type(own)(decoding_cfg=config, **parts, **text)


def _labels(decoding: Any) -> list[str]:
    return [decoding.labels_map[number] for number in range(len(decoding.labels_map))]


def mean_of(
    loss: Tensor, reduction: str | None, target_lengths: Tensor, parts: dict[str, Tensor] | None = None
) -> LossOutput:
    """``loss`` as a mean, with the number of terms behind it, so that batches add up as NeMo's reduction means them.

    Args:
        loss: What NeMo's criterion gave.
        reduction: ``mean_batch`` and ``mean`` average utterances, ``mean_volume`` averages tokens; None and ``none``
            give one loss for each utterance, ``sum`` their sum.
        target_lengths: ``[B]``.
        parts: Passed on.
    """
    num_utterances = len(target_lengths)
    if reduction == "mean_volume":
        return LossOutput(loss.float(), int(target_lengths.sum()), parts or {})
    if reduction == "sum":
        loss = loss / num_utterances
    return LossOutput(loss.float().mean(), num_utterances, parts or {})


def frames_needed(targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Least frames ``[B]`` that CTC can write each text in: one a label, and one between equal neighbours."""
    inside = torch.arange(1, targets.shape[1], device=targets.device) < target_lengths[:, None]
    return target_lengths + ((targets[:, 1:] == targets[:, :-1]) & inside).sum(1)
