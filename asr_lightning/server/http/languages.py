"""Languages that a client may name: codes of ISO 639-1, and two longer ones that Whisper knows."""

from __future__ import annotations

_TABLE = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr "  # codespell:ignore fo
    "gl gu haw he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg "
    "mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so "
    "sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh "  # codespell:ignore te
)
CODES = frozenset(_TABLE.split())
