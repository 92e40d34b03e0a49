"""A webhook receiver on loopback: it verifies signatures, records every request, and misbehaves on demand.

    async with Sink(secrets=["whsec_…"]) as sink:       # in a test; as a process: `paywatch sink`
        …                                               # a notification URL: f"{sink.url}/hook/a"
        await sink.wait(2, invoice_id="inv_…")          # two different events of this invoice have come

Whatever is posted to `/`, to `/hook` or below that is recorded. `HELP`, which `GET /` answers, has the rest.

With a journal a sink that is started again knows its secrets and requests; its behaviour is good.
"""

import asyncio
import base64
import signal
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel
from standardwebhooks import Webhook, WebhookVerificationError

from regtest.received import Journal, JsonObject, Request, distinct, json_object
from regtest.wait import wait_for
from watcher.runtime.errors import Misconfigured

HOST = "127.0.0.1"
REQUESTS_MAX = 100_000  # the oldest are forgotten
BODY_BYTES_MAX = 1 << 20
STOP_SECONDS = 0.1  # for answers under way; those that hang would never end


HELP = """\
This is a webhook sink of paywatch: a receiver for trying things out. It takes whatever is posted to

  {url}/hook    or to any path below it, such as /hook/shop-1

verifies the signature when it knows a secret, and answers 200 unless it is told otherwise.

What has come:

  curl {url}/requests                           all of it: {{"items": [...], "last": 7}}
  curl '{url}/requests?after=7'                 only what came later
  curl '{url}/requests?invoiceId=inv_...&distinct=true'    of one invoice, the first of every webhook-id
  curl {url}/requests/7                         one as it came, head and body; to see why it does not verify:
  curl -s {url}/requests/7 | paywatch verify --request - --secret-file FILE --ignore-time

Verify with this secret, for all, or only for one path or project:

  curl -d '{{"secret": "whsec_..."}}' {url}/secrets
  curl -d '{{"secret": "whsec_...", "path": "/hook/a"}}' {url}/secrets
  curl -d '{{"secret": "whsec_...", "projectId": "prj_..."}}' {url}/secrets

Misbehave, on one path or, without one, on all that have no behaviour of their own; for so many times, or for ever:

  curl -d '{{"status": 500, "times": 3}}' {url}/behaviour
  curl -d '{{"path": "/hook/a", "status": 410, "body": "gone"}}' {url}/behaviour
  curl -d '{{"delaySeconds": 20}}' {url}/behaviour            answer late
  curl -d '{{"hang": true}}' {url}/behaviour                  never answer
  curl -d '{{"close": true, "times": 1}}' {url}/behaviour     drop the connection
  curl -d '{{"redirect": "http://..."}}' {url}/behaviour      302, or another "status"
  curl -X DELETE {url}/behaviour                            good again, on every path
"""

SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64  # Standard Webhooks


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Behaviour(_Wire):
    """How to answer, on one path, or without `path` wherever no other behaviour is set.

    It holds for `times` requests, or for ever. `hang`: take the request and never answer. `close`: drop the
    connection instead of an answer. `redirect`: to this address, with 302 unless another status is given.
    """

    path: str | None = None
    status: int | None = Field(default=None, ge=200, le=599)
    times: int | None = Field(default=None, ge=1)
    delay_seconds: float = Field(default=0.0, ge=0, le=3600)
    body: str = ""
    hang: bool = False
    close: bool = False
    redirect: str | None = None

    @property
    def answer(self) -> int | None:
        """The HTTP status; None for no answer."""
        return None if self.hang or self.close else self.status or (302 if self.redirect else 200)


class Secret(_Wire):
    """A signing secret (`whsec_…`): for every request, or for those of one path or one project."""

    secret: str = Field(repr=False)
    path: str | None = None
    project_id: str | None = None

    @field_validator("secret")
    @classmethod
    def _is_usable(cls, secret: str) -> str:
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            key = b""
        if not (secret.startswith("whsec_") and SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX):
            raise ValueError("not a webhook secret: whsec_ and the base64 of 24 to 64 bytes")
        return secret

    def is_for(self, path: str, project_id: str | None) -> bool:
        """Whether what comes on `path` for this project is signed with it."""
        return self.path in {None, path} and self.project_id in {None, project_id}


class Sink:
    """The receiver. Start it, or use `async with`; `port` 0 takes a free one."""

    def __init__(
        self,
        *,
        port: int = 0,
        secrets: Sequence[str] = (),
        journal: Path | None = None,
        on_request: Callable[[Request], None] = lambda _request: None,
    ) -> None:
        self._requests: deque[Request] = deque(maxlen=REQUESTS_MAX)
        self._secrets = [_secret(secret) for secret in secrets]
        self._behaviours: dict[str | None, Behaviour] = {}
        self._journal = Journal(journal) if journal else None
        self._on_request = on_request
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The address, without a slash at the end; with port 0 it is known once the sink is started."""
        return f"http://{HOST}:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Read the journal and listen. Raises `Misconfigured` when the port is taken or the journal cannot be kept."""
        try:
            self._go_on()
        except OSError as error:
            raise Misconfigured(f"the sink cannot keep its journal {error.filename}: {error.strerror}") from None
        # Cancelled when the client goes away: a handler that hangs must not outlive its request.
        self._runner = web.AppRunner(self._app(), handler_cancellation=True, shutdown_timeout=STOP_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, self._port).start()
        except OSError as error:
            await self.stop()
            raise Misconfigured(f"the sink cannot listen on port {self._port}: {error.strerror}") from None
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection. What was recorded stays."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def trust(self, secret: str, *, path: str | None = None, project_id: str | None = None) -> None:
        """Verify with this secret from now on: every request, or those of one path or project."""
        self._learn(Secret(secret=secret, path=path, project_id=project_id))

    def behave(self, behaviour: Behaviour) -> None:
        """Answer like this from now on; it replaces what was said before for the same path."""
        self._behaviours[behaviour.path] = behaviour

    def behave_well(self) -> None:
        """Answer 200 at once on every path."""
        self._behaviours.clear()

    def requests(self, invoice_id: str | None = None) -> list[Request]:
        """Every request in order of arrival, of one invoice or of all."""
        return [request for request in self._requests if invoice_id in {None, request.invoice_id}]

    def distinct(self, invoice_id: str | None = None) -> list[Request]:
        """The first request of every `webhook-id`: what a merchant sees who de-duplicates."""
        return distinct(self.requests(invoice_id))

    async def wait(self, count: int, *, invoice_id: str | None = None, timeout_seconds: float = 10.0) -> list[Request]:
        """Wait for `count` different events; return all that came, as `distinct` does. Raises `WaitTimeout`."""
        what = f"{count} events of {invoice_id or 'any invoice'}"
        await wait_for(lambda: len(self.distinct(invoice_id)) >= count, timeout_seconds, what)
        return self.distinct(invoice_id)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.get("/", self._help),
                web.post("/", self._receive),
                web.route("*", "/hook{below:(/.*)?}", self._receive),
                web.get("/requests", self._list_requests),
                web.get(r"/requests/{number:\d+}", self._show_request),
                web.post("/secrets", self._post_secret),
                web.post("/behaviour", self._post_behaviour),
                web.delete("/behaviour", self._delete_behaviour),
            ]
        )
        return app

    async def _receive(self, http: web.Request) -> web.Response:
        body = await http.read()
        behaviour = self._next_behaviour(http.path)
        self._record(http, body, behaviour.answer)
        await asyncio.sleep(behaviour.delay_seconds)
        if behaviour.hang:
            await asyncio.Event().wait()
        if behaviour.close and http.transport is not None:
            http.transport.abort()
        headers = {"location": behaviour.redirect} if behaviour.redirect else {}
        return web.Response(status=behaviour.answer or 200, text=behaviour.body, headers=headers)

    def _next_behaviour(self, path: str) -> Behaviour:
        behaviour = self._behaviours.get(path) or self._behaviours.get(None) or Behaviour()
        if behaviour.times == 1:
            del self._behaviours[behaviour.path]
        elif behaviour.times is not None:
            self.behave(behaviour.model_copy(update={"times": behaviour.times - 1}))
        return behaviour

    def _record(self, http: web.Request, body: bytes, status: int | None) -> None:
        headers = {name.lower(): value for name, value in http.headers.items()}
        data = json_object(body).get("data")
        data = data if isinstance(data, dict) else {}
        number = self._requests[-1].number + 1 if self._requests else 1
        verified = self._verified(http.path, data.get("projectId"), headers, body)
        request = Request(
            number, http.method, http.path, headers, body, datetime.now(UTC), data.get("invoiceId"), verified, status
        )
        self._requests.append(request)
        if self._journal is not None:
            self._journal.append({"request": request.to_json()})
        self._on_request(request)

    def _verified(self, path: str, project_id: str | None, headers: dict[str, str], body: bytes) -> bool | None:
        known = [secret.secret for secret in self._secrets if secret.is_for(path, project_id)]
        return any(_is_signed(secret, headers, body) for secret in known) if known else None

    def _learn(self, secret: Secret) -> None:
        self._secrets.append(secret)
        if self._journal is not None:
            self._journal.append({"secret": secret.model_dump()})

    def _go_on(self) -> None:
        """From the journal, which is written anew without what is forgotten or was cut off."""
        if self._journal is None:
            return
        for entry in self._journal.read():
            if "secret" in entry:
                self._secrets.append(Secret.model_validate(entry["secret"]))
            else:
                self._requests.append(Request.from_json(entry["request"]))
        secrets: list[JsonObject] = [{"secret": secret.model_dump()} for secret in self._secrets]
        self._journal.replace([*secrets, *({"request": request.to_json()} for request in self._requests)])

    async def _list_requests(self, http: web.Request) -> web.Response:
        found = self.requests(http.query.get("invoiceId"))
        if http.query.get("distinct") == "true":
            found = distinct(found)
        try:
            after = int(http.query.get("after", "0"))
        except ValueError:
            raise web.HTTPBadRequest(text="after is the number of a request") from None
        items = [request.to_json() for request in found if request.number > after]
        return web.json_response({"items": items, "last": items[-1]["number"] if items else after})

    async def _show_request(self, http: web.Request) -> web.Response:
        number = int(http.match_info["number"])
        found = next((request for request in self._requests if request.number == number), None)
        if found is None:
            raise web.HTTPNotFound(text=f"there is no request {number}, or it is forgotten")
        return web.Response(body=found.as_it_came(), content_type="application/octet-stream")

    async def _help(self, _http: web.Request) -> web.Response:
        return web.Response(text=HELP.format(url=self.url))

    async def _post_secret(self, http: web.Request) -> web.Response:
        self._learn(_valid(Secret, await http.read()))
        return web.Response(status=204)

    async def _post_behaviour(self, http: web.Request) -> web.Response:
        self.behave(_valid(Behaviour, await http.read()))
        return web.Response(status=204)

    async def _delete_behaviour(self, _http: web.Request) -> web.Response:
        self.behave_well()
        return web.Response(status=204)


async def serve(sink: Sink) -> None:
    """Run a sink until SIGTERM or Ctrl-C."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with sink:
        print(f"{sink.url}/hook receives, {sink.url}/requests lists, {sink.url}/ explains", flush=True)
        await stop.wait()


def line_of(request: Request) -> str:
    """A request in one line, for people."""
    verdict = {None: "no secret known", True: "verified", False: "WRONG SIGNATURE"}[request.verified]
    attempt = request.headers.get("x-paywatch-attempt", "1")
    again = f" (attempt {attempt[:5]})" if attempt != "1" else ""
    kind = request.json.get("type", "no event")
    answer = request.status or "no answer"
    invoice_id = request.invoice_id or ""
    head = f"{request.received_at:%H:%M:%S} {request.number} {request.path}"
    line = f"{head} {kind} {invoice_id} {verdict}{again} -> {answer}"
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in line)


def _is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        Webhook(secret).verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError):  # ValueError: hostile headers, a body that is not UTF-8
        return False
    return True


def _secret(text: str) -> Secret:
    try:
        return Secret(secret=text)
    except ValidationError:
        text = "a secret is not one of webhooks: whsec_ and the base64 of 24 to 64 bytes"
        raise Misconfigured(text, "take it whole, as it was shown when it was made") from None


W = TypeVar("W", bound=_Wire)


def _valid(kind: type[W], body: bytes) -> W:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        text = error.json(include_input=False, include_url=False, include_context=False)
        raise web.HTTPBadRequest(text=text, content_type="application/json") from None
