"""Prompt, language and task, with the real ids of both kinds of checkpoint."""

from __future__ import annotations

import pytest

from asr_lightning.adapters.whisper.prompts import spoken_text
from tests.tiny_models import clip

PROMPTS = {"en": (50257, 50362), "multilingual": (50258, 50261, 50359, 50363)}
END = {"en": 50256, "multilingual": 50257}


@pytest.mark.parametrize("kind", PROMPTS)
def test_decoder_input_has_exactly_one_sot(make_whisper, kind: str):
    """``bos_token_id`` is the end token; taking it for the start shifts everything by one."""
    adapter = make_whisper(kind)
    ids = adapter.collator()([clip(text="hello"), clip(text="a longer one")]).inputs["decoder_input_ids"]
    start = adapter.model.generation_config.decoder_start_token_id
    assert start == PROMPTS[kind][0] != adapter.processor.tokenizer.bos_token_id
    assert (ids == start).sum(1).tolist() == [1, 1]
    assert (ids[:, 0] == start).all()


@pytest.mark.parametrize("kind", PROMPTS)
def test_label_prefix_equals_decode_prefix(make_whisper, kind: str):
    """What training sees before the text is what decoding starts from, and what upstream's generate starts from."""
    adapter = make_whisper(kind)
    batch = adapter.collator()([clip(text="hello")])
    seen: list[list[int]] = []
    adapter.model.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    adapter.transcribe(adapter.collator()([clip(text="")]))  # as predict does: there is no text to start from
    adapter.loss(batch)
    length = len(PROMPTS[kind])
    assert tuple(seen[0]) == tuple(seen[-1][:length]) == PROMPTS[kind]
    init_tokens = adapter.model._retrieve_init_tokens(
        None, 1, adapter.model.generation_config, adapter.model.config, 3000, {}
    )
    assert tuple(init_tokens[0].tolist()) == PROMPTS[kind]


@pytest.mark.parametrize("kind", PROMPTS)
def test_last_unmasked_label_is_eos(make_whisper, kind: str):
    adapter = make_whisper(kind)
    batch = adapter.collator()([clip(text="hello"), clip(text="a much longer one")])
    assert adapter.processor.tokenizer.pad_token_id == END[kind], "the trap needs a pad token that is the end token"
    for targets, length in zip(batch.targets, batch.target_lengths, strict=True):
        assert targets[length - 1] == END[kind]
        assert (targets[length:] == -100).all()
        assert (targets[: len(PROMPTS[kind]) - 1] == -100).all()
        assert (targets[len(PROMPTS[kind]) - 1 : length] != -100).all()


def test_en_model_gets_no_language_or_task(make_whisper):
    for options in ({}, {"language": "en", "task": "transcribe"}, {"language": "English"}):
        adapter = make_whisper("en", **options)
        assert adapter.rules.prompt == PROMPTS["en"]
        assert (adapter.language, adapter.task) == (None, None)
        assert getattr(adapter.model.generation_config, "language", None) is None
        assert getattr(adapter.model.generation_config, "task", None) is None
    with pytest.raises(ValueError, match="English-only Whisper, and the language 'de' needs a multilingual one"):
        make_whisper("en", language="de")
    with pytest.raises(ValueError, match="English-only Whisper, and the task translate needs a model without"):
        make_whisper("en", task="translate")


@pytest.mark.parametrize("spelling", ["de", "DE", "german", "German", "<|de|>"])
def test_a_language_may_be_spelled_in_several_ways(make_whisper, spelling: str):
    adapter = make_whisper("multilingual", language=spelling)
    assert (adapter.language, adapter.task) == ("de", "transcribe")
    assert adapter.rules.prompt == PROMPTS["multilingual"]


def test_translation_has_its_own_prompt(make_whisper):
    assert make_whisper("multilingual", task="translate").rules.prompt == (50258, 50261, 50358, 50363)


def test_a_multilingual_model_needs_a_language(make_whisper):
    with pytest.raises(ValueError, match="say what is spoken, such as --language de; in fit"):
        make_whisper("multilingual", language=None)
    with pytest.raises(ValueError, match=r"unknown language 'klingon': write it as in --language de or .*en, zh, de"):
        make_whisper("multilingual", language="klingon")
    with pytest.raises(ValueError, match="unknown task 'summarise': choose transcribe or translate"):
        make_whisper("multilingual", task="summarise")


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [("Hello ", None, " Hello"), ("  hallo", "de", " hallo"), ("", "de", ""), ("你好", "zh", "你好")],
)
def test_text_starts_with_a_space_as_the_decoder_writes_it(text: str, language: str | None, expected: str):
    assert spoken_text(text, language) == expected
