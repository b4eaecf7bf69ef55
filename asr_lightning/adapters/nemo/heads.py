"""Heads turn encoder frames into a loss and a text: a CTC head, a transducer (RNNT or TDT), or both.

When a model is loaded, its parts decide which head it gets. NeMo's ``training_step``, ``transcribe`` and ``wer`` are
never called. Knows no audio and no trainer. Used by ``adapter.py``.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from asr_lightning.types import LossOutput

GREEDY = {"strategy": "greedy_batch", "compute_timestamps": False, "preserve_alignments": False}
"""Decode a whole batch at once. The checkpoint's other settings, such as the cap on symbols per frame, stay."""


class Head(Protocol):
    """Makes loss and text of the encoder's output ``[B, D, F']`` and its number of frames ``[B]``.

    Attributes:
        decoding: NeMo's decoding object that ``decode`` uses; its attribute ``decoding`` may have CUDA graphs.
    """

    decoding: Any

    def loss(self, encoded: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> LossOutput:
        """Return the mean loss in float32; ``targets`` are int64 ``[B, U]`` without -100."""
        ...

    def decode(self, encoded: Tensor, lengths: Tensor) -> list[str]:
        """Decode each row greedily."""
        ...


class CTCHead:
    """A frame-wise classifier: NeMo's ``decoder`` of a CTC model, or ``ctc_decoder`` of a hybrid.

    Args:
        decoder: Layer from ``[B, D, F']`` to log-probabilities ``[B, F', V + 1]``.
        loss: NeMo's ``CTCLoss``.
        decoding: NeMo's greedy CTC decoding.
    """

    def __init__(self, decoder: nn.Module, loss: Any, decoding: Any) -> None:
        self.decoder, self.criterion, self.decoding = decoder, loss, decoding

    def loss(self, encoded: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> LossOutput:
        """Return the CTC loss in float32. Texts that need more frames than they have add 0, and are counted."""
        log_probs = self.decoder(encoder_output=encoded).float()
        # PyTorch has no CTC kernel for Apple silicon (#160829).
        device = "cpu" if log_probs.device.type == "mps" else log_probs.device
        inputs = {
            "log_probs": log_probs,
            "targets": targets,
            "input_lengths": lengths,
            "target_lengths": target_lengths,
        }
        with torch.autocast(encoded.device.type, enabled=False):
            loss = self.criterion(**{name: tensor.to(device) for name, tensor in inputs.items()}).to(log_probs.device)
        infeasible = (frames_needed(targets, target_lengths) > lengths).sum()
        return mean_loss(loss, self.criterion.config_reduction, target_lengths, {"infeasible": infeasible.float()})

    def decode(self, encoded: Tensor, lengths: Tensor) -> list[str]:
        """Decode greedily: the best label of each frame, with repeats merged and blanks dropped."""
        log_probs = self.decoder(encoder_output=encoded)
        hypotheses = self.decoding.ctc_decoder_predictions_tensor(decoder_outputs=log_probs, decoder_lengths=lengths)
        return [hypothesis.text for hypothesis in hypotheses]


class TransducerHead:
    """The prediction network and the joint of an RNNT or a TDT, which differ in the model's own loss alone.

    Args:
        model: A NeMo model with ``decoder``, ``joint`` and ``loss``.
        decoding: NeMo's greedy transducer decoding.
    """

    def __init__(self, model: Any, decoding: Any) -> None:
        self.model, self.decoding = model, decoding

    def loss(self, encoded: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> LossOutput:
        """Return the transducer loss in float32, from the fused joint if the checkpoint asks for it."""
        model = self.model
        predicted, target_lengths, _ = model.decoder(targets=targets, target_length=target_lengths)
        if model.joint.fuse_loss_wer:  # the joint in sub-batches: equal but for rounding, and takes less memory
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
        return mean_loss(loss, model.loss.reduction, target_lengths)

    def decode(self, encoded: Tensor, lengths: Tensor) -> list[str]:
        """Decode greedily, with CUDA graphs if ``NeMoAdapter.evaluating`` has switched them on."""
        hypotheses = self.decoding.rnnt_decoder_predictions_tensor(encoder_output=encoded, encoded_lengths=lengths)
        return [hypothesis.text for hypothesis in hypotheses]


class HybridHead:
    """A transducer and a CTC head over one encoder: ``(1 - ctc_weight)`` of one loss and ``ctc_weight`` of the other.

    Args:
        transducer: The transducer head.
        ctc: The CTC head.
        ctc_weight: Weight of the CTC loss, from 0 to 1.
        reader: Which of the two heads decodes.
    """

    def __init__(self, transducer: TransducerHead, ctc: CTCHead, ctc_weight: float, reader: Head) -> None:
        self.transducer, self.ctc, self.ctc_weight = transducer, ctc, ctc_weight
        self.decode, self.decoding = reader.decode, reader.decoding

    def loss(self, encoded: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> LossOutput:
        """Return the weighted sum of both losses, with each loss in ``parts``. A head of weight 0 is not computed."""
        weights = ((self.transducer, "rnnt", 1 - self.ctc_weight), (self.ctc, "ctc", self.ctc_weight))
        outputs = {
            name: (weight, head.loss(encoded, lengths, targets, target_lengths))
            for head, name, weight in weights
            if weight
        }
        total = torch.stack([weight * output.loss for weight, output in outputs.values()]).sum()
        parts = {name: output.loss.detach() for name, (_, output) in outputs.items()}
        for _, output in outputs.values():
            parts |= output.parts
        _, first = next(iter(outputs.values()))
        return LossOutput(total, first.weight, parts)


def build_head(model: Any, decoder: str | None, ctc_weight: float | None) -> Head:
    """Build the head that fits the parts of ``model``.

    Args:
        model: A loaded NeMo model.
        decoder: Head of a hybrid that decodes: ``rnnt`` (also TDT) or ``ctc``; None takes the transducer.
        ctc_weight: Weight of a hybrid's CTC loss; None takes the checkpoint's.

    Raises:
        ValueError: The model lacks the head that ``decoder`` or ``ctc_weight`` is about.
    """
    has_joint, is_hybrid = hasattr(model, "joint"), hasattr(model, "ctc_decoder")
    only = "rnnt" if has_joint else "ctc"
    if decoder not in ((None, "rnnt", "ctc") if is_hybrid else (None, only)):
        heads = "rnnt and ctc" if is_hybrid else f"{only} only"
        raise ValueError(f"--model.adapter.init_args.decoder {decoder} does not fit this model, which has {heads}")
    if ctc_weight is not None and not (is_hybrid and 0 <= ctc_weight <= 1):
        raise ValueError(
            f"--model.adapter.init_args.ctc_weight {ctc_weight} does not fit: it is a share from 0 to 1, for hybrid "
            "models only"
        )
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
    """Freeze the head that has no weight: DDP would wait for ever for the gradient of a parameter that no loss uses."""
    unused = {0.0: [model.ctc_decoder], 1.0: [model.decoder, model.joint]}.get(ctc_weight, [])
    for module in unused:
        module.requires_grad_(False)


def greedy_decoding(model: Any, name: str) -> Any:
    """Build a greedy variant of the decoding ``name`` of ``model``, which keeps its own decoding for ``save``."""
    from omegaconf import OmegaConf

    original = getattr(model, name)
    config = model.cfg.aux_ctc.decoding if name == "ctc_decoding" else model.cfg.decoding
    config = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), GREEDY)
    has_tokenizer = hasattr(original, "tokenizer")
    text = {"tokenizer": original.tokenizer} if has_tokenizer else {"vocabulary": _labels(original)}
    parts = {"decoder": model.decoder, "joint": model.joint} if "RNNT" in type(original).__name__ else {}
    return type(original)(decoding_cfg=config, **parts, **text)


def _labels(decoding: Any) -> list[str]:
    return [decoding.labels_map[number] for number in range(len(decoding.labels_map))]


def mean_loss(
    loss: Tensor, reduction: str | None, target_lengths: Tensor, parts: dict[str, Tensor] | None = None
) -> LossOutput:
    """Return ``loss`` as a mean with the number of its terms, so that batches add up as NeMo's reduction means them.

    Args:
        loss: Loss from NeMo's criterion.
        reduction: Reduction of the criterion. ``mean_batch`` and ``mean`` average utterances, and ``mean_volume``
            averages tokens; None and ``none`` give one loss for each utterance, and ``sum`` gives their sum.
        target_lengths: Number of labels of each utterance, ``[B]``.
        parts: The parts of the ``LossOutput``.
    """
    num_utterances = len(target_lengths)
    if reduction == "mean_volume":
        return LossOutput(loss.float(), int(target_lengths.sum()), parts or {})
    if reduction == "sum":
        loss = loss / num_utterances
    return LossOutput(loss.float().mean(), num_utterances, parts or {})


def frames_needed(targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Return the fewest frames that CTC can write each text in, ``[B]``: one a label, and one between equal labels."""
    inside = torch.arange(1, targets.shape[1], device=targets.device) < target_lengths[:, None]
    return target_lengths + ((targets[:, 1:] == targets[:, :-1]) & inside).sum(1)
