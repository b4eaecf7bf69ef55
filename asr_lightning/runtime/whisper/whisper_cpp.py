"""Whisper in whisper.cpp, through pywhispercpp. Loads no torch.

whisper.cpp computes features, GELU and attention with less precision than torch, so some texts differ in a word. Where
it meets something unexpected it aborts the process, so use it in a process of its own for files of unknown origin.

It always reads greedily: its beam search draws candidates at random, with a generator that goes on from clip to clip,
so a text would depend on the clips before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples, Word
from asr_lightning.runtime.whisper.settings import SAMPLE_RATE, WINDOW_SECONDS, WhisperSettings
from asr_lightning.runtime.whisper.tokens import in_words

FILE_NAME = "ggml-model.bin"
SHORTEST = SAMPLE_RATE // 5
"""whisper.cpp reads nothing below 0.1 s; zeros after the clip change nothing, since the encoder gets more of them."""
ERROR = 4
"""Level of errors in ggml's log."""
PRESETS: Mapping[tuple[tuple[int, ...], int], str] = {
    ((1, 0), 8): "TINY_EN", ((2, 2), 6): "TINY", ((3, 3), 5): "BASE_EN", ((3, 1), 8): "BASE", ((6, 6), 19): "SMALL_EN",
    ((5, 3), 10): "SMALL", ((11, 4), 18): "MEDIUM_EN", ((13, 15), 6): "MEDIUM", ((9, 19), 9): "LARGE_V1",
    ((10, 12), 23): "LARGE_V2", ((7, 0), 10): "LARGE_V3", ((2, 4), 6): "LARGE_V3_TURBO",
}  # fmt: skip
"""whisper.cpp's sets of alignment heads by their first head and their number; it takes no others from Python."""


class Token(NamedTuple):
    """A token of text, its probability and, if it was asked for, its end in seconds.

    whisper.cpp calls it the token's time. It is where the alignment leaves the token, as openai/whisper's ``timing.py``
    shows: there, row 0 is the prompt's last token, which predicts the first token of text.
    """

    id: int
    probability: float
    end: float


def load(folder: Path, settings: Mapping[str, object], threads: int) -> WhisperCppModel:
    """Load the model in ``folder``, which ``export`` wrote.

    Raises:
        ModelError: whisper.cpp cannot read it.
    """
    path = folder / FILE_NAME
    size = path.stat().st_size if path.is_file() else 0
    if size != settings.get("file_bytes", size) or not size:  # whisper.cpp would read on behind the end
        raise ModelError(f"{path} has {size} of {settings.get('file_bytes')} bytes: copy the whole folder again")
    return WhisperCppModel(path, WhisperSettings.from_json(settings), threads)


class WhisperCppModel:
    """A ggml file that is loaded; clips are read one after the other.

    Args:
        path: The file.
        settings: How the model reads audio.
        threads: Number of CPU threads.
    """

    sample_rate = SAMPLE_RATE
    min_seconds = 0.0
    max_seconds: float | None = WINDOW_SECONDS

    def __init__(self, path: Path, settings: WhisperSettings, threads: int) -> None:
        self._path = path
        self._settings = settings
        self._threads = threads
        self._lock = Lock()  # a context has one state
        self._plain = _Context(path)
        self.language = settings.language
        if self.language and self._plain.language_token(self.language) != settings.prompt[1]:
            raise ModelError(f"whisper.cpp has another token for the language {self.language!r} than {path}")

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, greedily whatever the beam.

        Raises:
            ModelError: A clip is longer than the window, or whisper.cpp fails.
        """
        with self._lock:
            context = self._with_times if decoding.words else self._plain
            return [self._hypothesis(context, clip, decoding) for clip in clips]

    @cached_property
    def _with_times(self) -> _Context:
        """The weights once more, since the times of words are decided on when they are loaded, and cost time."""
        return _Context(self._path, self._settings.alignment_heads)

    def _hypothesis(self, context: _Context, clip: Samples, decoding: Decoding) -> Hypothesis:
        seconds = len(clip) / SAMPLE_RATE
        if seconds > WINDOW_SECONDS:
            raise ModelError(f"Whisper reads {WINDOW_SECONDS:g} s at once, and this clip has {seconds:.1f} s: cut it")
        tokens = context.read(clip, self._params(len(clip), decoding))
        confidence = _mean_probability(tokens) if tokens else None
        text = context.text([token.id for token in tokens]).strip()
        words = self._words(context, tokens, clip) if decoding.words else ()
        return Hypothesis(text, words, confidence)

    def _words(self, context: _Context, tokens: Sequence[Token], clip: Samples) -> tuple[Word, ...]:
        """Join ``tokens`` to words; each starts where the token before it ends, and the first one with the sound."""
        start, end = _sound(clip)
        words, place = [], 0
        for text, count in in_words([token.id for token in tokens], context.text, self.language):
            own, place = tokens[place : place + count], place + count
            spoken = [token.end for token in own if any(map(str.isalnum, context.text([token.id])))]
            stop = min(spoken[-1] if spoken else own[-1].end, end)  # punctuation takes the pause after the word
            words.append(Word(text, min(start, stop), stop, _mean_probability(own)))
            start = own[-1].end
        return tuple(words)

    def _params(self, num_samples: int, decoding: Decoding) -> Any:
        import _pywhispercpp as cpp

        settings = self._settings
        params = cpp.whisper_full_default_params(cpp.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY)
        params.greedy = {"best_of": 1}
        params.n_threads = self._threads
        params.language = settings.language or "en"  # empty would mean: find out
        params.translate = settings.task == "translate"
        params.audio_ctx = settings.num_frames(num_samples, decoding.native) // 2
        params.no_timestamps = params.single_segment = params.no_context = True
        params.print_progress = params.print_timestamps = False
        # Its count starts at 0. Without an end within 220 tokens, whisper.cpp gives up on the clip.
        params.max_tokens = min(settings.max_tokens(num_samples), settings.max_positions // 2 - 4) - 1
        params.suppress_blank = bool(settings.begin_suppress)
        params.suppress_nst = any(token < settings.eos for token in settings.suppress)
        # Torch writes its first text, whatever its probability. Upstream's defaults try again, at random.
        params.temperature_inc, params.entropy_thold, params.no_speech_thold = 0.0, 0.0, 2.0
        return params


class _Context:
    """The weights in whisper.cpp.

    Args:
        path: The file.
        alignment_heads: Heads by which the times of words are found; None if they are not wanted.
    """

    def __init__(self, path: Path, alignment_heads: Sequence[tuple[int, int]] | None = None) -> None:
        import _pywhispercpp as cpp

        params = cpp.whisper_context_default_params()
        params.use_gpu = False
        # With flash attention the encoder attends to padding up to a multiple of 256 positions, which holds what an
        # earlier clip left there: a third of short contexts, and texts that depend on the order of the clips.
        params.flash_attn = False
        if alignment_heads is not None:
            _set_heads(params, alignment_heads)
        errors: list[str] = []
        cpp.whisper_log_set(lambda level, text: errors.append(text.strip()) if level == ERROR else None)
        try:
            self._context = cpp.whisper_init_from_file_with_params(str(path), params)
        finally:
            cpp.whisper_log_set(None)  # a callback that outlives the interpreter crashes it
        if errors:  # the context is then a null pointer, which looks like any other from here
            raise ModelError(f"whisper.cpp cannot read {path} ({errors[0]}): export the model again")
        self._cpp = cpp

    def __del__(self) -> None:
        if cpp := self.__dict__.get("_cpp"):
            cpp.whisper_free(self._context)

    def read(self, clip: Samples, params: Any) -> list[Token]:
        """Return the tokens of text in ``clip``."""
        cpp, context = self._cpp, self._context
        samples = np.pad(np.asarray(clip, np.float32), (0, max(SHORTEST - len(clip), 0)))
        if code := cpp.whisper_full(context, params, samples, len(samples)):
            raise ModelError(f"whisper.cpp failed with {code} on a clip of {len(clip) / SAMPLE_RATE:.1f} s")
        found = [
            cpp.whisper_full_get_token_data(context, segment, number)
            for segment in range(cpp.whisper_full_n_segments(context))
            for number in range(cpp.whisper_full_n_tokens(context, segment))
        ]
        end = cpp.whisper_token_eot(context)
        return [Token(data.id, data.p, max(data.t_dtw, 0) / 100) for data in found if data.id < end]

    def language_token(self, language: str) -> int:
        """Return the token of ``language``; that of the start of a text if whisper.cpp does not know the language."""
        return int(self._cpp.whisper_token_lang(self._context, self._cpp.whisper_lang_id(language)))

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens`` with its spaces; characters that are not whole become U+FFFD."""
        content = b"".join(self._cpp.whisper_token_to_bytes(self._context, token) for token in tokens)
        return content.decode("utf-8", "replace")


def _set_heads(params: Any, heads: Sequence[tuple[int, int]]) -> None:
    import _pywhispercpp as cpp

    presets = cpp.whisper_alignment_heads_preset
    name = PRESETS.get((tuple(heads[0]), len(heads))) if heads else None
    params.dtw_token_timestamps = True
    params.dtw_aheads_preset = getattr(presets, f"WHISPER_AHEADS_{name}" if name else "WHISPER_AHEADS_N_TOP_MOST")
    params.dtw_n_top = 1


def _mean_probability(tokens: Sequence[Token]) -> float:
    return math.exp(sum(math.log(max(token.probability, 1e-10)) for token in tokens) / len(tokens))


def _sound(clip: Samples) -> tuple[float, float]:
    """Start and end of what is louder than a twentieth of the loudest 20 ms, in seconds."""
    step = SAMPLE_RATE // 50
    loudness = np.abs(clip[: len(clip) // step * step].reshape(-1, step)).max(1, initial=0)
    loud = np.flatnonzero(loudness > loudness.max(initial=0) / 20)
    return (int(loud[0]) / 50, (int(loud[-1]) + 1) / 50) if len(loud) else (0.0, len(clip) / SAMPLE_RATE)
