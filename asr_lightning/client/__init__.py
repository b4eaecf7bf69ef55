"""A Python client of the training server: packs a folder, uploads it, follows the job, fetches the model.

Needs httpx and nothing of torch. Knows the HTTP API of ``docs/server.md`` and no other part of the server.
"""

from __future__ import annotations

from asr_lightning.client.api import Client
from asr_lightning.client.errors import ConnectionFailedError, DownloadError, ServerError

__all__ = ["Client", "ConnectionFailedError", "DownloadError", "ServerError"]
