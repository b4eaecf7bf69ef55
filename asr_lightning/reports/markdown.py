"""A report -> compact Markdown, without the recordings. Knows no model, no metric and no file.

Transcripts are untrusted: every text goes through ``plain``, so that none can become a link, a picture or a table cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from asr_lightning.reports.build import Report, measure, percent, points, said_of_test, sections

RATES = {
    "wer": "Word error rate (WER)",
    "raw_wer": "WER, raw text",
    "cer": "Character error rate",
    "mean_wer": "Mean WER per clip, each capped at 100 %",
    "exact": "Clips without error",
}
CHANGE_HEAD = ("Clips", "WER before", "After", "Change", "95 % interval", "P(better)", "Verdict")
COUNTS = ("substitutions", "deletions", "insertions")
# Every character that starts Markdown or HTML inside a line, and the full stop and colon of an address.
SPECIAL = re.compile(r"[\\`*_{}\[\]()<>#|~&$!@^]|(?<=\w)\.(?=[^\W\d])|:(?=[^\s\d])|^[-+=](?!\d)")
NUMBERED = re.compile(r"^(\d+)\.(?!\S)")


def document(report: Report) -> str:
    """The whole document."""
    parts = [_head(report), _figures(report), _others(report), _wrong(report), _clips(report), _choice(report)]
    return "\n\n".join([*parts, _fine_print(report)]) + "\n"


def plain(text: object) -> str:
    """``text`` on one line, with everything that Markdown would act on made harmless."""
    line = " ".join(str(text).split())
    return NUMBERED.sub(r"\1\\.", SPECIAL.sub(r"\\\g<0>", line))


def _head(report: Report) -> str:
    verdict = report["verdict"]
    lines = [f"# {plain(report['model'])}, before and after", f"**{plain(verdict['sentence'])}**"]
    if not report["kept_base"]:
        lines.append(plain(report["decision"]))
    if report["given_up"]:
        lines.append(plain(report["given_up"]))
    if report["other_choice"]:
        lines.append(f"To take it instead:\n\n    {' '.join(report['other_choice'].split())}")
    return "\n\n".join([*lines, *(f"> {plain(warning)}" for warning in verdict["warnings"])])


def _figures(report: Report) -> str:
    parts = sections(report)
    tables = [_rates(name, part) for name, part in parts.items()]
    changes = _table(CHANGE_HEAD, [_change(name, part) for name, part in parts.items()])
    return "\n\n".join(["## How well it understands this voice", *tables, "Change of the WER in points:", changes])


def _change(name: str, part: Report) -> Sequence[object]:
    change = part["change"]
    before, after = percent(part["before"]["wer"]), percent(part["after"]["wer"])
    interval = f"{points(change['low'])} to {points(change['high'])}"
    return name, before, after, points(change["difference"]), interval, percent(change["p_better"]), part["verdict"]


def _rates(name: str, part: Report) -> str:
    before, after = part["before"], part["after"]
    rows = [(label, percent(before[key]), percent(after[key])) for key, label in RATES.items()]
    rows += [(key.capitalize(), before[key], after[key]) for key in COUNTS]
    return _table((f"{name}: {part['clips']} clips, {part['words']} words", "Before", "After"), rows)


def _others(report: Report) -> str:
    canary, silence = report["canary"], report["silence"]
    lines = ["## Does it still understand others?"]
    if canary["modes"]:
        name = canary["name"] or "ordinary speech of other people"
        lines.append(plain(f"Measured on {name}, normaliser {canary['normalizer']}. {canary['note']}"))
        lines += [_table(CHANGE_HEAD, [_change(mode, part) for mode, part in canary["modes"].items()])]
    else:
        lines.append("Not measured: no clips of other people were given.")
    if silence:
        before, after = (plain(silence[side]) or "nothing" for side in ("before", "after"))
        lines.append(f"Written for a clip of silence: before {before}, after {after}.")
    return "\n\n".join(lines)


def _wrong(report: Report) -> str:
    words = [(row["word"], row["said"], row["before"], row["after"]) for row in report["worst_words"]["listed"]]
    pairs = [
        (row["kind"], row["reference"] or "–", row["hypothesis"] or "–", row["before"], row["after"])
        for row in report["confusions"]["listed"]
    ]
    return "\n\n".join(
        [
            "## What it still gets wrong",
            _table(("Word", "Said", "Errors before", "After"), words),
            _table(("Error", "Said", "Written", "Before", "After"), pairs),
        ]
    )


def _clips(report: Report) -> str:
    rows = [
        (row["uid"], row["reference"], row["before"]["text"], row["after"]["text"], _errors(row))
        for row in report["utterances"]
    ]
    title = "Every clip, out of fold" if report["out_of_fold"] else "Every test clip"
    return f"## {title}\n\n" + _table(("Clip", "Reference", "Before", "After", "Errors"), rows)


def _errors(row: Report) -> str:
    return f"{row['before']['errors']} → {row['after']['errors']}"


def _choice(report: Report) -> str:
    candidates = [
        (
            row["name"] + (", chosen" if row["chosen"] else ""),
            f"{row['alpha']:g}",
            _optional(row["dev_wer"], percent),
            _optional(row["dev_loss"], "{:.3f}".format),
            _optional(row["canary_wer"], percent),
            row["note"],
        )
        for row in report["candidates"]
    ]
    validations = [
        (
            row["step"],
            f"{row['epoch']:g}",
            _optional(row["train_loss"], "{:.3f}".format),
            _optional(row["dev_loss"], "{:.3f}".format),
            _optional(row["dev_wer"], percent),
        )
        for row in report["history"]
    ]
    return "\n\n".join(
        [
            "## How the model was chosen",
            plain(report["decision"]),
            _table(("Candidate", "Share", "Dev WER", "Dev loss", "Others' WER", "Note"), candidates),
            _table(("Step", "Epoch", "Train loss", "Dev loss", "Dev WER"), validations),
        ]
    )


def _optional(value: float | None, write: Callable[[float], str]) -> str:
    return "–" if value is None else write(value)


def _fine_print(report: Report) -> str:
    data = report["data"]
    clips = ", ".join(f"{count} {split}" for split, count in data["clips"].items())
    facts = {
        "Weights from": report["source"],
        "Audio is read as": report["mode"],
        "Normaliser of every rate that names no other": report["normalizer"]["version"],
        "Data": f"{data['name']} ({clips})" if clips else data["name"],
        "Data, SHA-256": data["sha256"],
        "Split, SHA-256": data["split_sha256"],
        "Random seed": report["seed"],
        "Device": report["device"],
        **dict(measure(name, value) for name, value in report["cost"].items()),
        "Versions": ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    }
    lines = [f"- {name}: {plain(value)}" for name, value in facts.items() if value != ""]
    return "\n\n".join(["## Fine print", "\n".join(lines), _explanation(report)])


def _explanation(report: Report) -> str:
    change = report["test"]["change"]
    said = said_of_test(report).replace("them", "the test clips")
    return (
        f"The intervals come from a paired bootstrap with {change['draws']:,} draws of groups of equal text. "
        'The verdict is "better" if the whole interval is below zero, "worse" if it is above, otherwise "no clear '
        f'change". {said}'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [" | ".join(plain(cell) for cell in row) for row in rows]
    if not lines:
        return f"{head[0]}: none."
    return "\n".join(f"| {line} |" for line in [" | ".join(head), " | ".join("---" for _ in head), *lines])
