"""The aiohttp application: routes, and around each request the log line, the metrics and the problem JSON."""

import time
from functools import partial
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Counter, Histogram

from watcher.api import health, payment_page
from watcher.api.dispatch import CONTEXT, JSON, KEY_ID, Context, dispatch, encoded
from watcher.api.docs import docs_page
from watcher.api.errors import problem_of
from watcher.api.live import LIVE, Live, live_pages
from watcher.api.openapi import openapi_document
from watcher.api.rendering import asset
from watcher.api.routes import BASE, ROUTES
from watcher.console.routes import add_to as add_console

BODY_BYTES_MAX = 65_536

_requests = Counter("paywatch_http_requests_total", "Requests answered.", ["route", "method", "status"])
_duration = Histogram("paywatch_http_request_duration_seconds", "Time to answer a request.", ["route"])

# Everything else is counted as OTHER, so that a client cannot invent metrics.
_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})

log = structlog.get_logger()


def application(context: Context) -> web.Application:
    """The whole server."""
    server = web.Application(middlewares=[_observed], client_max_size=BODY_BYTES_MAX)
    server[CONTEXT] = context
    server[LIVE] = Live(context.pool, context.doorbell)
    server.cleanup_ctx.append(live_pages)
    for route in ROUTES:
        server.router.add_route(route.method, BASE + route.path, partial(dispatch, route))
    document = openapi_document(context.settings.base_url)
    server.router.add_get(f"{BASE}/openapi.json", _static(encoded(document), JSON))
    server.router.add_get("/docs", docs_page(document))
    add_console(server.router)
    server.router.add_get("/livez", health.livez)
    server.router.add_get("/readyz", health.readyz)
    server.router.add_get("/pay/{id}", payment_page.page)
    server.router.add_get("/pay/{id}/state", payment_page.state)
    server.router.add_get("/pay/{id}/stream", payment_page.stream)
    server.router.add_get("/assets/{name}", asset)
    return server


def _static(body: bytes, content_type: str) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type)

    return handler


@web.middleware
async def _observed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as a problem; then one log line and two metrics. No header, query or body is logged."""
    began = time.perf_counter()
    try:
        response = await handler(request)
    except Exception as error:  # noqa: BLE001 (problem_of logs what it does not know)
        response = problem_of(error).response()
    seconds = time.perf_counter() - began
    route = _route(request)
    method = request.method if request.method in _METHODS else "OTHER"
    _requests.labels(route, method, response.status).inc()
    _duration.labels(route).observe(seconds)
    log.info(
        "http.request", method=method, path=_path(request, route), status=response.status,
        duration_ms=round(seconds * 1000, 1), key_id=request.get(KEY_ID),
    )  # fmt: skip
    return response


def _path(request: web.Request, route: str) -> str:
    """The path; that of a link that makes an account is a secret."""
    return route if "token" in request.match_info else request.path


def _route(request: web.Request) -> str:
    resource: Any = request.match_info.route.resource
    return resource.canonical if resource else "unmatched"
