"""Tests the page: its structure with a parser, and how it looks and behaves in a real browser."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile

from asr_lightning.reports.build import build
from asr_lightning.reports.html import page
from asr_lightning.reports.study import Candidate, Validation
from asr_lightning.reports.write import write
from asr_lightning.scoring.rates import Pair
from tests.unit.reports.test_build import pairs, study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<script>document.title = 'taken'</script><img src=https://example.org/x.png onerror=alert(1)>\"'&"
LONG = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenhersteller" * 2
VOID = {"meta", "line", "polyline", "circle", "img", "br", "source"}


class Parsed(HTMLParser):
    """Collects elements with their attributes and text, and makes sure that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag if tag not in VOID else True

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def recordings(tmp_path: Path, write_audio: Callable[..., Path]) -> dict[str, Path]:
    """Recordings of the first three of twelve clips; the third is damaged."""
    (tmp_path / "clips").mkdir()
    paths = {f"{number:03d}": tmp_path / "clips" / f"{number}.wav" for number in range(3)}
    for path in paths.values():
        write_audio(path, 0.4, 44_100, 2)
    paths["002"].write_bytes(b"no sound")
    return paths


@pytest.fixture
def hostile(recordings: dict[str, Path]) -> Any:
    """A study whose every text is hostile or very long."""
    texts = [Pair("bad", HOSTILE, HOSTILE, f"{HOSTILE} more"), Pair(LONG, LONG, LONG + "n", f"{LONG} {HOSTILE}")]
    return study(
        model=HOSTILE,
        decision=f"{HOSTILE} {LONG}",
        canary_name=HOSTILE,
        canary={HOSTILE: pairs(1, 4)},
        data_name=LONG,
        candidates=(Candidate(LONG, 0.5, 0.1, chosen=True, note=HOSTILE),),
        versions={HOSTILE: LONG},
        test=(*pairs(4, 1), *texts),
        audio=recordings,
    )


def test_structure(recordings: dict[str, Path]) -> None:
    report = build(study(audio=recordings))
    parsed = Parsed(page(report, recordings))
    assert parsed.open == []
    assert parsed.of("html") == [{"lang": "en"}]
    assert not parsed.of("script")
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(parsed.of("caption")) == len(parsed.of("table")) >= 8
    assert all(cell.get("scope") for cell in parsed.of("th"))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {part["aria-labelledby"] for part in parsed.of("section")} == set(ids)


def test_every_test_clip_is_there(recordings: dict[str, Path]) -> None:
    mixed = (*pairs(4, 0)[:6], *pairs(4, 1)[6:])
    report = build(study(test=mixed))
    parsed = Parsed(page(report, recordings))
    clips = [attributes for attributes in parsed.of("details") if attributes["class"] == "clip"]
    assert ["open" in attributes for attributes in clips] == [True] * 6 + [False] * 6
    for pair in mixed:
        assert pair.reference in parsed.text
    places = [parsed.text.index(row["reference"]) for row in report["utterances"]]
    assert places == sorted(places)


def test_players_hold_the_recordings(recordings: dict[str, Path]) -> None:
    """Players hold mono Ogg Opus of the right length; a clip with a missing or damaged file has none and says so."""
    parsed = Parsed(page(build(study()), recordings))
    players = parsed.of("audio")
    assert [player["aria-label"] for player in players] == ["Recording 000", "Recording 001"]
    for player in players:
        assert player["preload"] == "none"
        kind, _, content = str(player["src"]).partition(",")
        assert kind == "data:audio/ogg;base64"
        with soundfile.SoundFile(io.BytesIO(base64.b64decode(content, validate=True))) as file:
            assert (file.format, file.subtype, file.channels, file.samplerate) == ("OGG", "OPUS", 1, 16_000)
            assert file.frames / file.samplerate == pytest.approx(0.4, abs=0.05)
    assert parsed.text.count("No recording to play.") == 10


def test_nothing_is_requested(recordings: dict[str, Path]) -> None:
    html = page(build(study()), recordings)
    html = re.sub(r"data:audio/ogg;base64,[\w+/=]+", "", html)
    assert not re.search(r"https?:|//\w|url\(|@import|<link|<iframe|<object|<embed|<base|<form", html)
    policy = next(attributes for attributes in Parsed(html).of("meta") if "http-equiv" in attributes)
    assert policy["content"] == "default-src 'none'; media-src data:; style-src 'unsafe-inline'; img-src data:"


def test_hostile_texts_are_shown_as_text(hostile: Any) -> None:
    html = page(build(hostile), hostile.audio)
    parsed = Parsed(html)
    assert not parsed.of("script") and not parsed.of("img")
    assert HOSTILE in parsed.text
    assert all(not name.startswith("on") for _, attributes in parsed.elements for name in attributes)


def test_difference_is_marked_by_more_than_colour() -> None:
    texts = (*pairs(4, 1), Pair("one", "a b c", "a b c", "x b b"), Pair("two", "d e f", "d f", "d e f g"))
    html = page(build(study(test=texts)), {})
    assert '<del><span class="unseen">left out: </span>e</del>' in html
    assert '<ins><span class="unseen">added: </span>g</ins>' in html
    assert '<mark><span class="unseen">wrong: </span>x</mark>' in html


def test_parts_that_were_not_measured() -> None:
    bare = study(dev=(), native=None, canary={}, silence=None, candidates=(), history=(), clips={}, seconds={}, cost={})
    parsed = Parsed(page(build(bare), {}))
    assert "Not measured" in parsed.text
    assert not parsed.of("svg")


def test_kept_base_is_the_headline() -> None:
    html = page(build(study(kept_base=True, decision="Nothing was better on dev.", test=pairs(4, 4))), {})
    assert '<b class="unclear">The untouched model was kept</b>: Nothing was better on dev.' in html


def test_curve_marks_the_chosen_validation_and_the_untouched_level() -> None:
    html = page(build(study()), {})
    assert html.count('class="ring"') == 2
    assert ">untouched</text>" in html
    mixed = (Candidate("average of the best 2", 1.0, 0.09, chosen=True),)
    averaged = page(build(study(candidates=mixed)), {})
    assert 'class="ring"' not in averaged
    assert '<text class="strong" x="50"' in averaged


def test_curve_of_losses_that_are_not_numbers() -> None:
    history = (Validation(10, 0.5, None, float("nan"), 0.0), Validation(20, 1.0, None, float("nan"), 0.0))
    assert len(Parsed(page(build(study(history=history, dev=())), {})).of("svg")) == 2


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    """WCAG 2.2, level AA: 4.5 to 1 for text, 3 to 1 for the marks of charts."""
    blocks = re.findall(r":root \{(.*?)\}", page(build(study()), {}), flags=re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme]))

    def contrast(one: str, other: str) -> float:
        dark, light = sorted(luminance(colours[name]) for name in (one, other))
        return (light + 0.05) / (dark + 0.05)

    texts = [(ink, ground) for ink in ("ink", "quiet", "accent", "wrong") for ground in ("page", "card")]
    for one, other in [*texts, ("wrong", "blush"), ("ink", "blush"), ("ink", "tint")]:
        assert contrast(one, other) >= 4.5, (one, other)
    assert contrast("old", "card") >= 2.9
    assert contrast("accent", "track") >= 3


class Browser:
    """Headless Chromium, driven through the DevTools protocol over a pair of pipes."""

    def __init__(self, profile: Path) -> None:
        here, there = os.pipe(), os.pipe()
        commands, answers = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (here[0], there[1]))
        os.close(here[0])
        os.close(there[1])
        # Chromium wants file descriptors 3 and 4, which this process may be using.
        start = f"import os, sys; os.dup2({commands}, 3); os.dup2({answers}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        options = ["--headless=new", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        call = [sys.executable, "-c", start, str(CHROMIUM), *options, "--remote-debugging-pipe"]
        self.process = subprocess.Popen(call, pass_fds=(commands, answers), stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.writer, self.reader = os.fdopen(here[1], "wb"), os.fdopen(there[0], "rb")
        self.waiting, self.number, self.session = b"", 0, {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for name in ("Page.enable", "Network.enable", "Log.enable"):
            self.call(name)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.waiting:
            block = self.reader.read1(1 << 20)
            assert block, "the browser has ended"
            self.waiting += block
        message, _, self.waiting = self.waiting.partition(b"\0")
        self.events.append(json.loads(message))
        return self.events[-1]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.session}
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while (answer := self.receive()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def show(self, path: Path, width: int, dark: bool = False, script: bool = False) -> None:
        self.events.clear()
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        while self.receive().get("method") != "Page.loadEventFired":
            pass

    def ask(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self.writer.close()
        self.reader.close()
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install chromium to see the page rendered")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.once
@pytest.mark.parametrize("width", [320, 360, 1200])
@pytest.mark.parametrize("kind", ["plain", "hostile"])
def test_page_never_scrolls_sideways(
    browser: Browser, hostile: Any, recordings: dict[str, Path], tmp_path: Path, kind: str, width: int
) -> None:
    write(hostile if kind == "hostile" else study(audio=recordings), tmp_path)
    browser.show(tmp_path / "report.html", width)
    assert browser.call("Page.getLayoutMetrics")["cssContentSize"]["width"] == width


@pytest.mark.once
def test_browser_requests_nothing_and_runs_nothing(browser: Browser, hostile: Any, tmp_path: Path) -> None:
    """Scripts are allowed in the browser, so that only the page itself can stop them."""
    write(hostile, tmp_path)
    browser.show(tmp_path / "report.html", 360, script=True)
    sent = [event["params"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    requests = [params["request"]["url"] for params in sent]
    requests = [url for url in requests if not url.startswith("data:image/svg")]  # Chromium's own icons of a player
    assert requests == [(tmp_path / "report.html").as_uri()]
    assert not [event for event in browser.events if event.get("method") == "Log.entryAdded"]
    assert browser.ask("document.title") != "taken"


@pytest.mark.once
def test_policy_holds_off_a_script_even_if_one_got_in(browser: Browser, tmp_path: Path) -> None:
    write(study(), tmp_path)
    path = tmp_path / "report.html"
    html = path.read_text(encoding="utf-8")
    attack = "<script>document.title = 'taken'</script><img src='https://example.org/x.png'>"
    path.write_text(html.replace("</main>", f"{attack}</main>"), encoding="utf-8")
    browser.show(path, 360, script=True)
    assert browser.ask("document.title").startswith("Better")
    blocked = [event for event in browser.events if event.get("method") == "Log.entryAdded"]
    assert len(blocked) == 2
    assert all("Content Security Policy" in event["params"]["entry"]["text"] for event in blocked)


@pytest.mark.once
def test_clips_play(browser: Browser, recordings: dict[str, Path], tmp_path: Path) -> None:
    write(study(audio=recordings), tmp_path)
    browser.show(tmp_path / "report.html", 360, script=True)
    load = """new Promise(done => {
        const player = document.querySelector("audio");
        player.oncanplaythrough = () => done(player.duration);
        player.onerror = () => done(-1);
        player.preload = "auto";
        player.load();
    })"""
    answer = browser.call("Runtime.evaluate", expression=load, awaitPromise=True, returnByValue=True)
    assert answer["result"]["value"] == pytest.approx(0.4, abs=0.1)


@pytest.mark.once
def test_dark_mode(browser: Browser, tmp_path: Path) -> None:
    write(study(), tmp_path)
    grounds = []
    for dark in (False, True):
        browser.show(tmp_path / "report.html", 360, dark=dark)
        colour = browser.ask("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(map(int, re.findall(r"\d+", colour))))
    assert grounds[0] > 700
    assert grounds[1] < 100


@pytest.mark.once
def test_print_opens_every_clip_and_hides_the_players(
    browser: Browser, recordings: dict[str, Path], tmp_path: Path
) -> None:
    write(study(audio=recordings, test=pairs(4, 0)), tmp_path)
    browser.show(tmp_path / "report.html", 720)
    folded = """[...document.querySelectorAll("details")].filter(
        details => details.offsetHeight < details.querySelector("summary").offsetHeight + 30).length"""
    assert browser.ask(folded) == 12 + 2
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.ask(folded) == 0
    assert browser.ask("[...document.querySelectorAll('audio')].filter(e => e.offsetHeight).length") == 0
    cut = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth + 1).length"
    assert browser.ask(cut) == 0
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF-")
