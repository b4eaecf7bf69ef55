"""A Python client of the training server: packs a folder, uploads it, follows the job and downloads the model.

It needs httpx but not torch, and knows the server only by its HTTP API (``docs/server.md``).
"""

from __future__ import annotations

from asr_lightning.client.api import Client
from asr_lightning.client.errors import ConnectionFailedError, DownloadError, ServerError

__all__ = ["Client", "ConnectionFailedError", "DownloadError", "ServerError"]
