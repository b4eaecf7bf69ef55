"""CTC models and transducers of transformers as graphs of ONNX, with the inputs and outputs of NeMo's own exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class SampleCTC(nn.Module):
    """Samples ``[B, T]`` to log-probabilities ``[B, F', V]``, with the mass of labels that write nothing at the blank.

    Greedy decoding drops special labels such as ``<s>`` after repeats are merged, where they act as a blank does; to
    put them there lets every runtime drop them.

    Args:
        network: A CTC model of transformers.
        blank: Number of the blank.
        special: Numbers of the other labels that write nothing.
    """

    def __init__(self, network: Any, blank: int, special: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.blank, self.special = blank, list(special)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the log-probabilities."""
        return self._log_probs(self.network(samples).logits)

    def _log_probs(self, logits: Tensor) -> Tensor:
        if self.special:
            is_special = torch.zeros(logits.shape[-1], dtype=torch.bool)
            is_special[self.special] = True
            is_blank = torch.zeros_like(is_special)
            is_blank[self.blank] = True
            best = torch.where(is_special | is_blank, logits, torch.full_like(logits, -1e9)).amax(-1, keepdim=True)
            logits = torch.where(is_blank, best, torch.where(is_special, torch.full_like(logits, -1e9), logits))
        return logits.log_softmax(-1)


class FeatureCTC(SampleCTC):
    """Features ``[B, M, F]`` and their lengths ``[B]`` to log-probabilities ``[B, F', V]``."""

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """Return the log-probabilities; frames after the length of a row stand for silence."""
        return self._log_probs(self.network(features.transpose(1, 2), attention_mask=mask_of(features, lengths)).logits)


def mask_of(features: Tensor, lengths: Tensor) -> Tensor:
    """Return the mask ``[B, F]`` of the frames of ``features`` ``[B, M, F]`` that are audio."""
    return (torch.arange(features.shape[2])[None] < lengths[:, None]).long()


class ParakeetEncoder(nn.Module):
    """Features ``[B, M, F]`` and their lengths ``[B]`` to frames ``[B, D, F']`` and their number ``[B]``.

    Args:
        network: A transducer of transformers.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames and their number."""
        mask = mask_of(features, lengths)
        states = self.network.encoder(features.transpose(1, 2), attention_mask=mask).last_hidden_state
        frames = self.network._get_subsampling_output_length(lengths).long()
        return self.network.encoder_projector(states).transpose(1, 2), frames


class ParakeetPredictor(nn.Module):
    """A label ``[1, 1]`` and the state of the LSTM to what the joint takes ``[1, D, 1]``, and the new state.

    Args:
        decoder: The decoder of a transducer of transformers.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, label: Tensor, length: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        """Return what the joint takes, the length as it was, and both halves of the state."""
        output, (hidden, cell) = self.decoder.lstm(self.decoder.embedding(label.long()), (hidden, cell))
        return self.decoder.decoder_projector(output).transpose(1, 2), length + 0, hidden, cell


class ParakeetJoint(nn.Module):
    """Frames ``[1, D, T]`` and what the predictor says ``[1, D, U]`` to logits ``[1, T, U, V + N]``.

    Args:
        joint: The joint network of a transducer of transformers.
    """

    def __init__(self, joint: Any) -> None:
        super().__init__()
        self.joint = joint

    def forward(self, frames: Tensor, predicted: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.joint(
            encoder_hidden_states=frames.transpose(1, 2)[:, :, None],
            decoder_hidden_states=predicted.transpose(1, 2)[:, None],
        )
        return logits


class PredictorAndJoint(nn.Module):
    """Both in one graph, as onnx-asr takes them.

    Args:
        predictor: The prediction network.
        joint: The joint network.
    """

    def __init__(self, predictor: nn.Module, joint: nn.Module) -> None:
        super().__init__()
        self.predictor, self.joint = predictor, joint

    def forward(
        self, frames: Tensor, label: Tensor, length: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the logits, the length as it was, and both halves of the state."""
        predicted, length, hidden, cell = self.predictor(label, length, hidden, cell)
        return self.joint(frames, predicted), length, hidden, cell
