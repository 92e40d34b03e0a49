"""`paywatch listen` and `paywatch verify`: for those who write a receiver."""

import asyncio
import base64
import os
import re
import secrets
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from watcher.command_line import Json, say
from watcher.runtime.config import CONFIG_FILE, load
from watcher.runtime.errors import Misconfigured, Rejected

if TYPE_CHECKING:  # verbs import what they need, so that --help is quick
    from notifier.forward import Forwarder, Source, Try
    from notifier.rules.verification import Finding, Received

API_KEY, SECRET = "PAYWATCH_API_KEY", "PAYWATCH_WEBHOOK_SECRET"
DEFAULT_API = "http://127.0.0.1:8480"  # that of `make run`
SECRET_BYTES = 32
REMARK_LENGTH_MAX = 200  # characters of a refusal that are shown
STDIN = Path("-")
GONE = 410

_ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_SEEN_BY_ALL = "Every user of this machine can see it here: better"

SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret", metavar="SECRET", help=f"whsec_...; may be repeated. {_SEEN_BY_ALL} --secret-file, or {SECRET}."
    ),
]
SecretFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help=f"File with the secret, or with several. [default: {SECRET}, if set]"),
]


def register(app: typer.Typer) -> None:
    """Add the two verbs."""
    app.command("listen")(_listen)
    app.command("verify")(_verify)


def _listen(
    *,
    forward_to: Annotated[
        str, typer.Option(metavar="URL", help="Where events are posted to, such as http://127.0.0.1:3000/webhooks.")
    ],
    api: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"The API. [default: that of the file in {CONFIG_FILE}, or {DEFAULT_API}]"),
    ] = None,
    key: Annotated[str | None, typer.Option(help=f"Key of the API. {_SEEN_BY_ALL} {API_KEY}, the default.")] = None,
    project: Annotated[
        str | None, typer.Option(metavar="ID", help="The project; needed with an operator's key.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Begin behind it; 0: with the first. [default: from now on]")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            metavar="SECRET",
            help=f"whsec_... to sign with. {_SEEN_BY_ALL} --secret-file, or {SECRET}. [default: a new one]",
        ),
    ] = None,
    secret_file: SecretFile = None,
    retries: Annotated[int, typer.Option(min=0, max=3, help="So often is a refused event posted again.")] = 3,
    as_json: Json = False,
) -> None:
    """Post a project's events to your machine.

    For developers without a public address. Events are read from the API's feed and posted as the notifier does: the
    same bytes, one after another, signed with your --secret, or with one that is made and printed at the start. What
    the notifier itself sends is left alone. A refused event is posted again a few times, and then the next has its
    turn: this is no delivery, which goes on for three days.
    """
    from notifier.forward import Source

    _check_target(forward_to)
    if after is not None and not (after.isascii() and after.isdecimal()):
        raise typer.BadParameter("write a cursor that the feed has named, or 0", param_hint="--after")
    source = Source(_address(api), _key(key), project)
    known = secrets_of([secret] if secret else None, secret_file)
    if len(known) > 1:
        raise typer.BadParameter("one is enough to sign with, and here are more", param_hint="--secret")
    teller = _Teller(forward_to, as_json=as_json, secret=known[0] if known else None)
    raise typer.Exit(asyncio.run(_follow(source, teller, after, retries)))


def _check_target(url: str) -> None:
    from notifier.forward import ANY_TARGET
    from watcher.runtime.targets import check_url

    try:
        check_url(url, True, ANY_TARGET)
    except Rejected as error:
        text = f"{error.message}; write it like http://127.0.0.1:3000/webhooks"
        raise typer.BadParameter(text, param_hint="--forward-to") from None


def _address(api: str | None) -> str:
    if api is None:
        api = load({}).base_url if os.environ.get(CONFIG_FILE) else DEFAULT_API
    elif not _ADDRESS.fullmatch(api):
        raise typer.BadParameter(f"write it like {DEFAULT_API}", param_hint="--api")
    return api.rstrip("/").removesuffix("/api/v1")


def _key(key: str | None) -> str:
    found = key or os.environ.get(API_KEY, "")
    if not found:
        raise typer.BadParameter(
            f"set {API_KEY} to the project's key, or to an operator's and name the --project", param_hint="--key"
        )
    if not (found.isascii() and found.isprintable()):
        raise typer.BadParameter("this is no key: it begins with pw_project_ or pw_operator_", param_hint="--key")
    return found


def secrets_of(given: Sequence[str] | None, file: Path | None) -> list[str]:
    """Those of options and file, or else those of the environment; none is no error here."""
    found = list(given or ())
    if file is not None:
        found += _read(file, "--secret-file").decode(errors="replace").split()
    return found or os.environ.get(SECRET, "").split()


def _read(path: Path, option: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint=option) from None


async def _follow(source: "Source", teller: "_Teller", after: str | None, retries: int) -> int:
    """Forward until a signal; the exit code. Raises what `check` and `Forwarder.run` raise."""
    from notifier.forward import Forwarder, check, open_feed

    begin = await check(source, after)
    teller.begin(source, begin)
    async with open_feed(source) as feed:
        forwarder = Forwarder(feed, teller.url, teller.secret, begin, teller.tell, teller.note, retries)
        try:
            return await _until_told(forwarder)
        finally:
            teller.note(f"to go on from here: --after {forwarder.cursor}")


async def _until_told(forwarder: "Forwarder") -> int:
    caught: list[int] = []
    running = asyncio.create_task(forwarder.run())

    def stop(number: int) -> None:
        caught.append(number)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await running
    except asyncio.CancelledError:
        if not caught:
            raise
    return 128 + caught[0]


class _Teller:
    """What `listen` says: events on the standard output, all else on the other."""

    def __init__(self, url: str, *, as_json: bool, secret: str | None) -> None:
        from notifier.rules.signing import SECRET_PREFIX, parse_secret

        self.url = url
        self._as_json = as_json
        self._is_made = secret is None
        self.secret = secret or SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        try:
            parse_secret(self.secret)
        except ValueError as error:
            raise Misconfigured(str(error), f"leave --secret and {SECRET} out, and one is made") from None

    def begin(self, source: "Source", cursor: str) -> None:
        """Say what is done from where on, and the secret if it is a new one."""
        made = {"secret": self.secret} if self._is_made else {}
        told = {"api": source.api, "forwardTo": self.url, "after": cursor, **made}
        secret = [f"signed with a secret for this run: {self.secret}"] if self._is_made else []
        text = [f"events of {source.api} behind cursor {cursor} go to {self.url}; Ctrl-C ends it", *secret]
        say(told, "\n".join(text), self._as_json)

    def tell(self, one: "Try") -> None:
        """Say what came of a POST."""
        event, answer = one.event, one.answer
        told = {
            "cursor": event.cursor, "eventId": event.id, "type": event.type, "invoiceId": event.data.get("invoiceId"),
            "sequence": event.data.get("sequence"), "attempt": one.number, "outcome": answer.outcome,
            "status": answer.status, "durationMs": answer.duration_ms, "error": _remark(one),
        }  # fmt: skip
        answered = answer.status if answer.status is not None else answer.outcome
        text = (
            f"{answer.started_at.astimezone():%H:%M:%S} {event.type} {event.data.get('invoiceId', '')} "
            f"sequence {event.data.get('sequence')} {event.id} -> {answered}, {answer.duration_ms} ms"
        )
        say(told, text + _aftermath(one), self._as_json)

    def note(self, text: str) -> None:
        """Say a sentence about anything else."""
        typer.echo(text, err=True)


def _remark(one: "Try") -> str | None:
    """What the receiver said, or why it said nothing; None when it took the event."""
    if one.is_taken:
        return None
    if one.answer.status == GONE:
        return "with 410 paywatch would stop sending to this address"
    text = one.answer.error or one.answer.head.decode(errors="replace").strip()
    return "".join(mark if mark.isprintable() else " " for mark in text[:REMARK_LENGTH_MAX])


def _aftermath(one: "Try") -> str:
    if one.is_taken:
        return ""
    remark = _remark(one)
    then = f"again in {one.pause_seconds:g} s" if one.pause_seconds is not None else "given up here"
    return (f": {remark}" if remark else "") + f"; {then}"


def _verify(
    *,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A header; repeated for each.")
    ] = None,
    headers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the headers, one a line, or as a JSON object.")
    ] = None,
    body: Annotated[Path | None, typer.Option(metavar="FILE", help="The bytes of the body; - is the input.")] = None,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of these: head and body as they came; - is the input.")
    ] = None,
    secret: SecretOption = None,
    secret_file: SecretFile = None,
    at: Annotated[
        str,
        typer.Option(metavar="TIME", help="When it was received: now, seconds since 1970, or 2026-11-20T08:30:00Z."),
    ] = "now",
    ignore_time: Annotated[bool, typer.Option("--ignore-time", help="Take any time, also of long ago.")] = False,
    as_json: Json = False,
) -> None:
    """Tell why a webhook does not verify.

    Of one that was received, step by step. Exits 1 when it does not verify. Nothing is sent anywhere, and no secret
    is printed. Example:

    paywatch verify --secret-file secret.txt --request dump.txt --ignore-time
    """
    from notifier.rules.verification import examine

    received, notes = _received(header, headers, body, request)
    known = secrets_of(secret, secret_file)
    if not known:
        raise typer.BadParameter(f"give it, or set {SECRET}", param_hint="--secret-file")
    findings = examine(received, known, None if ignore_time else _seconds(at))
    is_ok = all(one.ok for one in findings)
    told = {
        "ok": is_ok, "notes": notes,
        "findings": [{"step": one.step, "ok": one.ok, "text": one.text, "hint": one.hint} for one in findings],
    }  # fmt: skip
    lines = [f"note: {text}" for text in notes] + [line for one in findings for line in _lines(one)]
    say(told, "\n".join([*lines, "verified" if is_ok else "NOT verified"]), as_json)
    raise typer.Exit(0 if is_ok else 1)


def _received(
    header: Sequence[str] | None, headers: Path | None, body: Path | None, request: Path | None
) -> tuple["Received", list[str]]:
    """What was received, and what is worth a note about how it was given."""
    from notifier.rules.verification import Received, parse_headers, parse_request

    if request is not None:
        if header or headers is not None or body is not None:
            raise typer.BadParameter("it has headers and body already", param_hint="--request")
        return parse_request(_read(request, "--request"))
    if body is None:
        raise typer.BadParameter("give --body and the headers, or --request", param_hint="--body")
    if STDIN == body == headers:
        raise typer.BadParameter("only one of them can come from the input", param_hint="--headers")
    try:
        found = parse_headers(_read(headers, "--headers")) if headers is not None else {}
        found |= parse_headers("\n".join(header or ()).encode())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--header") from None
    return Received(found, _read(body, "--body")), []


def _seconds(at: str) -> float:
    if at == "now":
        return datetime.now(UTC).timestamp()
    if at.isascii() and at.isdecimal():
        return float(at)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        text = "write now, seconds since 1970, or a time such as 2026-11-20T08:30:00Z"
        raise typer.BadParameter(text, param_hint="--at") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _lines(finding: "Finding") -> list[str]:
    line = f"{'ok' if finding.ok else 'WRONG':6}{finding.step:10} {finding.text}"
    return [line] if finding.ok or not finding.hint else [line, f"{'':17}hint: {finding.hint}"]
