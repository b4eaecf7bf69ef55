"""Providers by name; each is imported when it is asked for, so that nobody needs the packages of the others."""

from __future__ import annotations

import importlib

from asr_lightning.cloud.provider import Provider

PROVIDERS = {
    "modal": ("modal_provider", "ModalProvider"),
    "skypilot": ("skypilot", "SkyPilotProvider"),
    "local": ("local", "LocalProvider"),
}


def open_provider(name: str) -> Provider:
    """The provider called ``name``.

    Raises:
        ValueError: There is no such provider, or its package is missing.
    """
    if name not in PROVIDERS:
        raise ValueError(f"no provider {name!r}: choose one of {', '.join(PROVIDERS)}")
    module, kind = PROVIDERS[name]
    provider: Provider = getattr(importlib.import_module(f"asr_lightning.cloud.{module}"), kind)()
    return provider
