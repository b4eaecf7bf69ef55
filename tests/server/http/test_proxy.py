"""The proxies of deploy/ in front of a server: their own checks of the files, and requests through them over TLS."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http.audit import AuditLog
from asr_lightning.server.http.tokens import Role, TokenFile
from tests.server import driver
from tests.server.http.conftest import GZIP
from tests.server.http.test_wire import live

DEPLOY = Path(__file__).parents[3] / "deploy"
NAME = "asr.example.org"
LETSENCRYPT = f"/etc/letsencrypt/live/{NAME}"
NGINX = """
pid {folder}/pid; error_log stderr; daemon off; worker_processes 1;
events {{}}
http {{ access_log off; {paths} include {site}; }}
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def need(program: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install {program}")
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate that signs itself, under the names that certbot gives."""
    folder = tmp_path_factory.mktemp("certificate")
    call = [need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}",
            "-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]  # fmt: skip
    subprocess.run(call, check=True, capture_output=True)
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def caddy(folder: Path, certificate: Path, port: int, server: int) -> tuple[list[list[str]], list[str]]:
    """The checks of deploy/Caddyfile, and the command that runs it with another port and the certificate."""
    program, config = need("caddy"), (DEPLOY / "Caddyfile").read_text()
    tls = f"tls {certificate}/fullchain.pem {certificate}/privkey.pem"
    site = config.replace(f"\n{NAME} {{", f"\n{{\nadmin off\nauto_https off\n}}\nhttps://{NAME}:{port} {{\n{tls}")
    assert site.count(str(port)) == 1
    (folder / "Caddyfile").write_text(site.replace("127.0.0.1:5553", f"127.0.0.1:{server}"))
    checks = [
        [program, "validate", "--adapter", "caddyfile", "--config", str(path / "Caddyfile")]
        for path in (DEPLOY, folder)
    ]
    return checks, [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def nginx(folder: Path, certificate: Path, port: int, server: int) -> tuple[list[list[str]], list[str]]:
    """The check of deploy/nginx.conf with another port and the certificate, and the command that runs it."""
    program, site = need("nginx"), (DEPLOY / "nginx.conf").read_text()
    for old, new in {
        LETSENCRYPT: str(certificate), "listen 443": f"listen 127.0.0.1:{port}", "listen [::]:443 ssl;": "",
        "listen 80": f"listen 127.0.0.1:{free_port()}", "listen [::]:80;": "",
        "127.0.0.1:5553": f"127.0.0.1:{server}",
    }.items():  # fmt: skip
        assert site.count(old) in (1, 2), old
        site = site.replace(old, new)
    (folder / "site.conf").write_text(site)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, paths=paths, site=folder / "site.conf"))
    call = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    return [[*call, "-t"]], call


@contextmanager
def running(call: list[str], folder: Path, port: int) -> Iterator[None]:
    """The proxy as a process."""
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(call, stdout=output, stderr=output, env=environment(folder))
        try:
            driver.wait(lambda: listens(port) or process.poll() is not None, "the proxy", 15)
            assert process.poll() is None, (folder / "output").read_text()
            yield
        finally:
            process.terminate()
            process.wait(10)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("proxy", [caddy, nginx], ids=lambda proxy: proxy.__name__)
def test_a_proxy_with_tls(engine: Engine, tmp_path: Path, certificate: Path, proxy: Callable[..., object]) -> None:
    port = free_port()
    with live(engine, hosts=frozenset({NAME}), ping_s=0.05) as server:
        checks, run = proxy(tmp_path, certificate, port, server)
        for check in checks:
            done = subprocess.run(check, capture_output=True, text=True, env=environment(tmp_path))
            assert done.returncode == 0, done.stderr
            assert check is not checks[0] or "warn" not in done.stderr, done.stderr  # the file as it is
        token = TokenFile(engine.home.path).add("anna", Role.USER)
        trust = ssl.create_default_context(cafile=certificate / "fullchain.pem")
        with (
            running(run, tmp_path, port),
            httpx.Client(
                base_url=f"https://127.0.0.1:{port}", verify=trust, trust_env=False, timeout=20, headers={"Host": NAME}
            ) as http,
        ):
            visit(http, engine, token)
        (made,) = [line for line in AuditLog(engine.home.path).lines() if b'"POST /v1/jobs"' in line]
        assert b'"forwarded":"127.0.0.1"' in made  # and not what the client claimed


def visit(http: httpx.Client, engine: Engine, token: str) -> None:
    """What a client does, through the proxy."""
    more = {"extensions": {"sni_hostname": NAME}}
    assert http.get("/status", **more).status_code == 401  # the proxy connects from this machine, and is not let in
    http.headers["Authorization"] = f"Bearer {token}"
    answer = http.get("/status", **more)
    assert answer.status_code == 200 and "strict-transport-security" in answer.headers
    upload = http.post("/v1/uploads", **more).json()["id"]
    data = GZIP.ljust(3 << 20, b"x")  # more than the default of nginx
    assert http.put(f"/v1/uploads/{upload}?offset=0", content=data, **more).json()["received"] == len(data)
    claimed = {"X-Forwarded-For": "203.0.113.9"}
    made = http.post("/v1/jobs", json={"model": "slow", "upload": upload}, headers=claimed, **more)
    assert made.status_code == 202, made.text
    job = made.json()["id"]
    driver.reach(engine, engine.job(job), "running")
    stream = {"headers": {"Accept": "text/event-stream"}, **more}
    with http.stream("GET", f"/v1/jobs/{job}/events", **stream) as events:
        started, lines = time.monotonic(), events.iter_lines()
        assert next(line for line in lines if '"running"' in line)
        assert next(line for line in lines if line == ": ping" or '"progress"' in line)  # while the answer goes on
        assert time.monotonic() - started < 5
