"""The text of ``config.yaml``, in which a name such as 1e5 stays a name. Loads no torch."""

from __future__ import annotations

import re
from typing import Any

import yaml
from jsonargparse import set_dumper

NUMBER = re.compile(r"[-+]?(\d[\d_]*)?\.?[\d_]*[eE][-+]?\d+")
"""Numbers to jsonargparse that PyYAML, which writes the file, takes for text: those without a point or a sign."""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Puts text that could be read as a number into quotation marks."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def write_names_in_quotes() -> None:
    """Make jsonargparse write text that it would read as a number in quotation marks."""
    set_dumper("yaml", _dump)


def _dump(data: Any) -> str:
    text: str = yaml.dump(data, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text
