"""The page at ``/``: a shell without data, which asks the API as any other client does."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

router = APIRouter()

HTML = (files("asr_lightning.server.http") / "page.html").read_text(encoding="utf-8")


def _hash(tag: str) -> str:
    """Of the content of the page's only ``tag``, as a content security policy wants it."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
    assert found is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


CSP = (
    f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The jobs, and how to use curl."""
    return HTMLResponse(HTML, headers={"Content-Security-Policy": CSP})
