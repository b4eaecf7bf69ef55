"""``--to``: names of formats and variants."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from asr_lightning.errors import OptionError
from asr_lightning.runtime.formats import FORMATS, Format, parse


def test_the_first_variant_is_the_default() -> None:
    (target,) = parse("ctranslate2")
    assert (target.name, target.folder) == ("ctranslate2:int8", "ctranslate2-int8")
    assert target.tolerance == 0.02


def test_targets_keep_their_order_and_are_made_once() -> None:
    names = [target.name for target in parse(" ctranslate2:fp32, ctranslate2 ,,ctranslate2:int8,ctranslate2:fp32")]
    assert names == ["ctranslate2:fp32", "ctranslate2:int8"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("tflite", "no format 'tflite': give --to one of .*ctranslate2"),
        ("ctranslate2:int4", "no variant 'int4': give --to ctranslate2:int8, ctranslate2:float16, ctranslate2:fp32"),
        ("", "name a format, as in --to ctranslate2"),
        (" , ", "name a format"),
        ("CTranslate2", "no format 'CTranslate2'"),
    ],
)
def test_what_is_no_format_is_refused_with_those_that_are(names: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        parse(names)
    assert caught.value.param == "to"


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_every_format_is_complete(known: Format) -> None:
    named = [name for modules in known.modules.values() for name in modules if name]
    assert all(find_spec(name) for name in named)
    assert known.variants and all(0 < tolerance <= 0.02 for tolerance in known.variants.values())
    assert [target.name for variant in known.variants for target in parse(f"{known.name}:{variant}")] == [
        f"{known.name}:{variant}" for variant in known.variants
    ]
    assert 0 <= known.same_text <= 1 and known.families and known.used_by


def test_names_are_unique() -> None:
    assert len({known.name for known in FORMATS}) == len(FORMATS)
