from __future__ import annotations

import re

import pytest

from asr_lightning.reports.build import build
from asr_lightning.reports.markdown import document, plain
from asr_lightning.scoring.rates import Pair
from tests.unit.reports.test_build import pairs, study

HOSTILE = [
    "<script>alert(1)</script>",
    "[link](http://example.org)",
    "![picture](x.png)",
    "a | b | c",
    "# heading",
    "- list",
    "1. list",
    "**bold** _it_ ~~gone~~ `code` $x$",
    "https://example.org www.example.org a@example.org",
    "one\n\n# two\r\n| three",
    "&lt;b&gt; \\",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_escapes_whatever_markdown_acts_on(text: str) -> None:
    escaped = plain(text)
    assert "\n" not in escaped
    unescaped = re.sub(r"\\[^a-zA-Z0-9\s]", "", escaped)
    assert not re.search(r"[\\`*_\[\]()<>#|~&$!@]|://|www\.\w|^[-+]|^\d\.", unescaped)
    assert re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", escaped) == " ".join(text.split())


def test_plain_leaves_ordinary_text_alone() -> None:
    for text in ("Would you like some water?", "It costs 4 euros, I think.", "Größe 42; – don't", "-29.4 at 10:30"):
        assert plain(text) == text


def test_same_content_as_the_report() -> None:
    report = build(study())
    text = document(report)
    assert plain(report["verdict"]["sentence"]) in text
    assert plain(report["decision"]) in text
    for row in report["utterances"]:
        assert f"| {row['uid']} | {plain(row['reference'])} |" in text
    for candidate in report["candidates"]:
        assert f"| {candidate['name']}" in text
    assert "40.0 % | 10.0 %" in text
    assert report["data"]["sha256"] in text
    assert "basic" in text


def test_hostile_transcripts_keep_every_table_in_shape() -> None:
    texts = tuple(Pair(f"h{number}", text, text, text) for number, text in enumerate(HOSTILE))
    text = document(build(study(test=(*texts, *pairs(4, 1)), model="<b>|model", canary_note="<img src=x>")))
    assert not re.search(r"(?<!\\)<", text)
    widths = None
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line))
        if line.startswith("|"):
            assert cells == (widths or cells), line
        widths = cells if line.startswith("|") else None


def test_headings_in_order() -> None:
    levels = [len(line.split()[0]) for line in document(build(study())).splitlines() if line.startswith("#")]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}


def test_parts_that_were_not_measured() -> None:
    text = document(build(study(dev=(), native=None, canary={}, silence=None, candidates=(), history=())))
    assert "Not measured" in text
    assert "Candidate: none." in text
