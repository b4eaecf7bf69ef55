"""The page at ``/``: it holds no data, and asks the API as any other client does."""

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
    """The hash of what the page's only ``tag`` holds, as a content security policy names it."""
    match = re.search(f"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
    assert match is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(match[1].encode()).digest()).decode()}'"


CSP = (
    f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The page with the jobs and examples for curl."""
    return HTMLResponse(HTML, headers={"Content-Security-Policy": CSP})
