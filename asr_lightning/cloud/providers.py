"""The providers by name. Each is imported only when it is used, so that its package is needed only then."""

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
        ValueError: There is no such provider.
        MissingExtraError: The provider's package is not installed.
    """
    if name not in PROVIDERS:
        raise ValueError(f"no provider {name!r}: choose one of {', '.join(PROVIDERS)}")
    module, class_name = PROVIDERS[name]
    provider: Provider = getattr(importlib.import_module(f"asr_lightning.cloud.{module}"), class_name)()
    return provider
