"""NeMo's CTC models and transducers as the networks that ``label_models.py`` has graphs made of. Needs NeMo."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.errors import ModelError
from asr_lightning.runtime.labels.features import FeatureSettings
from asr_lightning.runtime.labels.settings import LabelSettings
from asr_lightning.runtime.labels.texts import BLANK, SPACE

UNKNOWN = f"{SPACE}⁇"
"""What SentencePiece writes for the piece ``<unk>``, but for a space after it."""


def parts_of(adapter: NeMoAdapter) -> tuple[LabelSettings, tuple[str, ...], nn.Module, Any, Any]:
    """Return settings, tokens, encoder, predictor and joint of ``adapter``; the last two are None for CTC.

    Raises:
        ModelError: It hears in a way, or starts texts in a way, that no runtime knows.
    """
    model, features = adapter.model, _features(adapter)
    is_transducer = hasattr(model, "joint") and adapter.options.decoder != "ctc"
    tokens = (*_pieces(model), BLANK)
    subsampling = int(model.encoder.subsampling_factor)
    common: dict[str, Any] = {
        "sample_rate": adapter.limits.sample_rate,
        "min_seconds": adapter.limits.min_seconds,
        "max_seconds": adapter.limits.max_seconds,
        "labels": len(tokens),
        "blank": len(tokens) - 1,
        "frame_seconds": features.hop * subsampling / features.sample_rate,
        "subsampling": subsampling,
        "features": features,
    }
    if not is_transducer:
        head = getattr(model, "ctc_decoder", model.decoder)
        return LabelSettings(kind="ctc", **common), tokens, _CTC(model.encoder, head), None, None
    if not model.decoder.blank_as_pad:
        raise ModelError(f"{adapter.source}: its prediction network has no vector for the blank, as runtimes need it")
    settings = LabelSettings(
        kind="transducer",
        **common,
        durations=tuple(getattr(model.loss._loss, "durations", None) or ()),
        max_symbols=int(adapter.model.cfg.decoding.get("greedy", {}).get("max_symbols") or 10),
        predictor_layers=model.decoder.pred_rnn_layers,
        predictor_width=model.decoder.pred_hidden,
    )
    return settings, tokens, _Encoder(model.encoder), _Predictor(model.decoder), _Joint(model.joint)


def _features(adapter: NeMoAdapter) -> FeatureSettings:
    """How the model hears.

    Raises:
        ModelError: It normalizes otherwise than each bin by itself.
    """
    maker = adapter.model.preprocessor.featurizer
    if maker.normalize != "per_feature":
        raise ModelError(
            f"{adapter.source} normalizes its features as {maker.normalize!r}, and runtimes know 'per_feature' only"
        )
    return FeatureSettings(
        sample_rate=adapter.limits.sample_rate,
        fft=maker.n_fft,
        window=maker.win_length,
        hop=maker.hop_length,
        mels=maker.nfilt,
        preemphasis=maker.preemph,
    )


def _pieces(model: Any) -> list[str]:
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return [SPACE if label == " " else str(label) for label in model.cfg.labels]
    processor = tokenizer.tokenizer
    return [
        UNKNOWN if processor.is_unknown(number) else processor.id_to_piece(number)
        for number in range(processor.get_piece_size())
    ]


class _Encoder(nn.Module):
    """Features ``[B, M, F]`` and their lengths ``[B]`` to frames ``[B, D, F']`` and their number ``[B]``."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoded, frames = self.encoder(audio_signal=features, length=lengths)[:2]
        return encoded, frames.long()


class _CTC(_Encoder):
    """Features ``[B, M, F]`` and their lengths ``[B]`` to log-probabilities ``[B, F', V]``."""

    def __init__(self, encoder: Any, head: Any) -> None:
        super().__init__(encoder)
        self.head = head

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        encoded, _ = super().forward(features, lengths)
        result: Tensor = self.head(encoder_output=encoded)
        return result


class _Predictor(nn.Module):
    """A label ``[1, 1]`` and the state of the LSTM to what the joint takes ``[1, D, 1]``, and the new state."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.embedding, self.lstm = decoder.prediction["embed"], decoder.prediction["dec_rnn"].lstm

    def forward(self, label: Tensor, length: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        embedded = self.embedding(label.long()).transpose(0, 1)
        output, (hidden, cell) = self.lstm(embedded, (hidden, cell))
        return output.permute(1, 2, 0), length + 0, hidden, cell


class _Joint(nn.Module):
    """Frames ``[1, D, T]`` and what the predictor says ``[1, D, U]`` to logits ``[1, T, U, V + N]``."""

    def __init__(self, joint: Any) -> None:
        super().__init__()
        self.joint = joint

    def forward(self, frames: Tensor, predicted: Tensor) -> Tensor:
        joined = (
            self.joint.enc(frames.transpose(1, 2))[:, :, None] + self.joint.pred(predicted.transpose(1, 2))[:, None]
        )
        result: Tensor = self.joint.joint_net(joined)
        return result
