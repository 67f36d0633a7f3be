"""The fleet on a web page: server-rendered, read-only, no scripts, nothing from elsewhere.

Without a token the page answers loopback addresses alone, so that no name that somebody points at 127.0.0.1 reaches it
(DNS rebinding); with a token it answers whoever gives it, as a bearer token (RFC 6750) or as the password of basic
authentication (RFC 7617), which browsers ask for. It speaks plain HTTP: across a network, put a TLS proxy before it.
"""

from __future__ import annotations

import base64
import binascii
import gc
import hmac
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from unclone.errors import InputError, MissingExtraError, ParameterError, RegistryError, UncloneError
from unclone.fleet import queries
from unclone.fleet.overview import overview
from unclone.fleet.queries import PAGE

try:
    import jinja2
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import HTMLResponse, PlainTextResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as problem:
    raise MissingExtraError(problem.name or "fastapi", "web") from None

if TYPE_CHECKING:
    from unclone.fleet.registry import Registry
    from unclone.fleet.rows import DeviceRow

__all__ = ["TOKEN_LEAST", "make_app", "serve"]

TOKEN_LEAST: Final = 16
_FOLDER: Final = Path(__file__).parent / "templates"
_LOOPBACK: Final = ["localhost", "127.0.0.1", "[::1]"]
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Handler = Callable[[Request], Awaitable[Response]]


def serve(registry: Registry, *, host: str, port: int, token: str, ready: Callable[[str], None]) -> None:
    """Answer until interrupted.

    Args:
        registry: the registry.
        host: address to listen on.
        port: port, 0 for any.
        token: what readers must give; empty on loopback only.
        ready: called with the page's address once it answers.

    Raises:
        ParameterError: another address than loopback without a token, or a token of fewer than 16 characters.
        RegistryError: the address cannot be listened on.
    """
    if not token and not _is_loopback(host):
        raise ParameterError(f"{host[:60]!r} is not loopback: give --token-file, or whoever reaches it reads the fleet")
    app = make_app(registry, token=token)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only then; without it every answer waits 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(64)
        except OSError as problem:
            raise RegistryError(f"cannot listen on {host[:60]} port {port}: {problem.strerror}") from None
        shown = f"[{host}]" if ":" in host else host
        gc.collect()
        gc.freeze()  # what was imported stays for good; scanning it now and then costs a page 100 ms
        ready(f"http://{shown}:{listener.getsockname()[1]}/")
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_app(registry: Registry, *, token: str = "") -> FastAPI:
    """The page as an ASGI application.

    Raises:
        ParameterError: a token of fewer than 16 characters.
    """
    if token and (len(token) < TOKEN_LEAST or not token.isascii()):
        raise ParameterError(f"a token has {TOKEN_LEAST} ASCII characters or more: head -c 24 /dev/urandom | base64")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if not token:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK)

    @app.middleware("http")
    async def guard(request: Request, call_next: Handler) -> Response:
        if token and not _may(request.headers.get("authorization", ""), token):
            response: Response = PlainTextResponse("a token is needed", 401)
            response.headers["WWW-Authenticate"] = 'Basic realm="fleet", charset="UTF-8"'
        elif request.method not in ("GET", "HEAD"):
            response = PlainTextResponse("read-only", 405)
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    _Pages(registry).mount(app)
    return app


def _may(authorization: str, token: str) -> bool:
    """Whether the header holds the token, in a time that says nothing about it."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            given = ""
    elif scheme.lower() != "bearer":
        given = ""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


class _Pages:
    """The pages of one registry. Handlers are plain functions, so the server runs them in its threads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._templates = jinja2.Environment(loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True)
        self._templates.filters["day"] = _day
        self._style = (_FOLDER / "style.css").read_text()

    def mount(self, app: FastAPI) -> None:
        """Add the pages to the application."""
        app.get("/style.css")(self.style)
        for path, page in (
            ("/", self.overview),
            ("/devices", self.devices),
            ("/devices/{key}", self.device),
            ("/refresh", self.refresh),
            ("/releases", self.releases),
            ("/releases/{file_id}", self.release),
            ("/licences", self.licences),
            ("/events", self.events),
        ):
            app.get(path, response_class=HTMLResponse)(page)
        app.add_exception_handler(UncloneError, self.refused)
        app.add_exception_handler(404, self.not_found)

    def style(self) -> Response:
        return Response(self._style, media_type="text/css")

    def overview(self) -> HTMLResponse:
        return self._render("overview.html", "Fleet", "/", **overview(queries.statistics(self._registry)))

    def devices(self, name: str = "", key: str = "", state: str = "", health: str = "", after: int = 0) -> HTMLResponse:
        query = {"name": name, "key": key, "state": state, "health": health}
        rows = queries.list_devices(self._registry, **query, after=after)  # type: ignore[arg-type]
        groups = [("", rows, _next("/devices", rows, **query))]
        return self._render("devices.html", "Devices", "/devices", searchable=True, query=query, groups=groups)

    def refresh(self) -> HTMLResponse:
        groups = []
        for heading, health in (("Refresh now", "late"), ("Refresh soon", "refresh")):
            rows = queries.list_devices(self._registry, health=health)
            groups.append((heading, rows, _next("/devices", rows, health=health)))
        return self._render("devices.html", "Devices that need a refresh", "/refresh", groups=groups)

    def device(self, key: str) -> HTMLResponse:
        row = self._registry.device(_hex(key, 32))
        if row is None:
            raise RegistryError("no such device in this registry")
        found = queries.list_measurements(self._registry, row)
        held = queries.list_licences(self._registry, device=row.key)
        line, highest = _line([entry["margin_milli"] / 1000 for entry in reversed(found)])
        return self._render(
            "device.html",
            row.name or "(no name)",
            "/devices",
            facts=_facts(row),
            found=found,
            licences=held,
            line=line,
            highest=highest,
        )

    def releases(self, after: int = 0) -> HTMLResponse:
        rows = queries.list_releases(self._registry, after=after)
        address = f"/releases?after={rows[-1][0].id}" if len(rows) == PAGE else ""
        return self._render("releases.html", "Releases", "/releases", releases=rows, next=address)

    def release(self, file_id: str, after: int = 0) -> HTMLResponse:
        row = self._registry.release(_hex(file_id, 16))
        if row is None:
            raise RegistryError("no such release in this registry")
        held = queries.list_licences(self._registry, release=row.file_id, after=after)
        facts = [
            ("File", row.file_id.hex()),
            ("Format", row.format),
            ("Created", _day(row.created)),
            ("State", f"{row.state} {row.reason}".strip()),
            ("Takes the place of", row.rekeys.hex() or "none"),
            ("Notes", row.notes),
        ]
        next_ = _next(f"/releases/{row.file_id.hex()}", held)
        return self._render("licences.html", row.model, "/releases", facts=facts, licences=held, next=next_)

    def licences(self, after: int = 0) -> HTMLResponse:
        rows = queries.list_licences(self._registry, after=after)
        return self._render("licences.html", "Licences", "/licences", licences=rows, next=_next("/licences", rows))

    def events(self, before: int = 0) -> HTMLResponse:
        rows = queries.list_events(self._registry, before=before)
        address = f"/events?before={rows[-1]['seq']}" if len(rows) == PAGE and rows[-1]["seq"] > 1 else ""
        return self._render("events.html", "Log", "/events", events=rows, next=address)

    async def refused(self, _: Request, problem: Exception) -> Response:
        known = isinstance(problem, RegistryError)
        message = str(problem) if isinstance(problem, InputError) else "this cannot be shown"
        return self._render(
            "error.html", "Not found" if known else "Not possible", "", 404 if known else 400, message=message
        )

    async def not_found(self, _: Request, __: Exception) -> Response:
        return self._render("error.html", "Not found", "", 404, message="There is no such page.")

    def _render(self, template: str, title: str, here: str, status: int = 200, **values: Any) -> HTMLResponse:
        text = self._templates.get_template(template).render(title=title, here=here, **values)
        return HTMLResponse(text, status)


def _hex(text: str, length: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != length:
        raise RegistryError("no such address in this registry")
    return value


def _next(path: str, rows: list[Any], **query: str) -> str:
    if len(rows) < PAGE:
        return ""
    return f"{path}?{urlencode({**{name: value for name, value in query.items() if value}, 'after': rows[-1].id})}"


def _line(margins: list[float]) -> tuple[str, str]:
    """Points of a polyline in a box of 600 by 120, and the highest value."""
    if len(margins) < 2:
        return "", ""
    highest = max(*margins, 1.0)
    step = 600 / (len(margins) - 1)
    points = (f"{number * step:.1f},{118 - 116 * value / highest:.1f}" for number, value in enumerate(margins))
    return " ".join(points), f"{highest:.1f}"


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds)) if seconds else ""


def _facts(row: DeviceRow) -> list[tuple[str, str]]:
    return [
        ("Key digest", row.key.hex()),
        ("Public key", row.public_key.hex()),
        ("Suite", row.suite),
        ("Root", row.root),
        ("Source", row.source),
        ("State", f"{row.state} {row.reason}".strip()),
        ("Response", f"{row.response_bits:,} bits, {row.readings} readings, {row.ones_ppm / 1e4:.1f} % ones"),
        ("Bit error rate", f"{row.error_rate_ppm / 1e4:.2f} % at enrolment"),
        ("Residual min-entropy", f"{row.residual_entropy_millibits / 1e3:.1f} bits for a key of {row.key_bits}"),
        ("Predicted failure", f"1e{row.failure_log10_milli / 1e3:.1f} for one reconstruction"),
        ("Added", _day(row.added_at)),
    ]
