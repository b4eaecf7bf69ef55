"""What the converters of Moonshine share: the loaded model, the settings of its runtimes, and the checks of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from asr_lightning.adapters import registry
from asr_lightning.adapters.moonshine import MoonshineAdapter
from asr_lightning.adapters.moonshine.adapter import STREAMING
from asr_lightning.errors import ModelError
from asr_lightning.export.graphs import probes
from asr_lightning.export.moonshine.graphs import DECODER, ENCODER, cache_names
from asr_lightning.runtime.moonshine.settings import MoonshineSettings
from asr_lightning.runtime.onnx_session import open_session


def load(source: Path) -> MoonshineAdapter:
    """Load the model folder ``source``; LoRA is merged.

    Raises:
        ModelError: It is no Moonshine of the first generation, or cannot be loaded.
    """
    adapter = registry.build(str(source))
    if not isinstance(adapter, MoonshineAdapter):
        raise ModelError(f"{source} is no Moonshine model: take a format that its family has")
    if adapter.model.config.model_type == STREAMING:
        raise ModelError(
            f"{source} is a Moonshine Streaming model, for whose five graphs no converter exists yet: specialize "
            "moonshine-tiny or moonshine-base for use outside of Python, or read with the saved model itself"
        )
    return adapter


def settings_of(adapter: MoonshineAdapter) -> MoonshineSettings:
    """Return how ``adapter`` reads audio."""
    attention = adapter.model.model.decoder.layers[0].self_attn
    return MoonshineSettings(
        sample_rate=adapter.limits.sample_rate,
        min_seconds=adapter.limits.min_seconds,
        max_seconds=adapter.options.max_seconds,
        max_tokens_per_second=adapter.options.max_tokens_per_second,
        start=adapter.rules.prompt[0],
        eos=adapter.rules.eos,
        max_positions=adapter.model.config.max_position_embeddings,
        layers=len(adapter.model.model.decoder.layers),
        heads=attention.k_proj.out_features // attention.head_dim,
        head_width=attention.head_dim,
        vocabulary=adapter.model.config.vocab_size,
    )


def pieces_of(adapter: MoonshineAdapter) -> list[bytes]:
    """Return the bytes that each token stands for, in the order of their numbers, as ``tokenizer.bin`` has them.

    Raises:
        ModelError: The tokenizer lacks a number below that of its last token.
    """
    names = {number: piece for piece, number in adapter.tokenizer.get_vocab().items()}
    if sorted(names) != list(range(len(names))):
        raise ModelError(f"{adapter.source}: the tokenizer does not number its tokens from 0 without a gap")
    special = set(adapter.tokenizer.all_special_ids) | set(adapter.tokenizer.added_tokens_decoder)
    return [_bytes_of(names[number], number in special) for number in range(len(names))]


def _bytes_of(piece: str, is_special: bool) -> bytes:
    if not is_special and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.encode()


def graph_problems(
    adapter: MoonshineAdapter, target: Path, encoder: str = ENCODER, decoder: str = DECODER, is_rounded: bool = True
) -> list[str]:
    """Return what is wrong with the graphs in ``target``: their size, and what they compute from a sound.

    Args:
        adapter: The model that was converted.
        target: Folder of the graphs.
        encoder: File of the encoder.
        decoder: File of the decoder.
        is_rounded: Whether the weights have 8 bits.
    """
    settings, sound = settings_of(adapter), probes.sound(1.0, adapter.limits.sample_rate)
    with torch.no_grad():
        hidden = adapter.model.model.encoder(torch.from_numpy(sound)[None]).last_hidden_state
        prompt = torch.tensor([[settings.start, settings.vocabulary // 2, settings.vocabulary // 3]])
        states = adapter.model.model.decoder(input_ids=prompt, encoder_hidden_states=hidden).last_hidden_state
        logits = adapter.model.proj_out(states).numpy()

    def encode() -> np.ndarray:
        return np.asarray(open_session(target / encoder, 1).run(None, {"input_values": sound[None]})[0])

    def decode() -> np.ndarray:
        session = open_session(target / decoder, 1)
        empty = np.zeros((1, settings.heads, 0, settings.head_width), np.float32)
        cache = {f"past_key_values.{name}": empty for name in cache_names(settings.layers)}
        inputs = {"input_ids": prompt.numpy(), "encoder_hidden_states": hidden.numpy(), **cache}
        return np.asarray(session.run(["logits"], {**inputs, "use_cache_branch": np.array([False])})[0])

    return [
        *probes.compare(target / encoder, hidden.numpy(), encode, is_rounded),
        *probes.compare(target / decoder, logits, decode, is_rounded),
    ]


def token_problems(path: Path, read: Sequence[bytes] | None, adapter: MoonshineAdapter) -> list[str]:
    """Return what is wrong with the tokens that were ``read`` from ``path``; None if they cannot be read."""
    expected = pieces_of(adapter)
    if read is None:
        return [f"{path.name} is missing or cannot be read"]
    if len(read) != len(expected):
        return [f"{path.name} has {len(read)} tokens, the model has {len(expected)}"]
    if wrong := [number for number, (a, b) in enumerate(zip(read, expected, strict=True)) if a != b]:
        return [f"{path.name} has another token {wrong[0]} than the model's tokenizer"]
    return []


def require_ids(adapter: MoonshineAdapter, reader: str) -> None:
    """Require that a text starts with token 1 and ends with token 2, which ``reader`` takes for granted.

    Raises:
        ModelError: It starts or ends with another token.
    """
    if (adapter.rules.prompt, adapter.rules.eos) != ((1,), 2):
        raise ModelError(
            f"{adapter.source} starts texts with token {adapter.rules.prompt[0]} and ends them with "
            f"{adapter.rules.eos}, but {reader} knows 1 and 2 only: take --to onnx"
        )
