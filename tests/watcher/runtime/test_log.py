"""Logs: one object a line on stderr, decisions as fields, secrets never. Each test is a process of its own."""

import base64
import json
import re
import subprocess
import sys

import pytest

from watcher.runtime.log import redact

KEY = base64.b64encode(b"an encryption key for the tests.").decode()
SECRETS = {
    "the key is pw_live_abcdefghijklmnopqrst0123": "the key is ***",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw signs": "*** signs",
    "with urlsafe whsec_aB-_c= too": "with urlsafe *** too",
    f"the key {KEY}, and {KEY}.": "the key ***, and ***.",
    "postgresql://paywatch:hunter2@127.0.0.1:5432/paywatch": "postgresql://***@127.0.0.1:5432/paywatch",
    "http://bob:p%40ss@node:8332 and tcp://a:b@c": "http://***@node:8332 and tcp://***@c",
}
HARMLESS = [
    "", "plain text", "http://127.0.0.1:8332", "https://shop.example/a?b=c@d", "bob@shop.example", "pw_short",
    "12:34:56 at the door", "whsec_", "a" * 43, "ab" * 32, f"{KEY}=", f"{KEY}a",
]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), SECRETS.items())
def test_secrets_become_stars(text: str, shown: str):
    assert redact(text) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str):
    assert redact(text) == text


def logged(statements: str, style: str = "json", level: str = "info") -> str:
    """What a process writes to stderr; nothing may come on stdout, which carries data."""
    program = (
        "import structlog\nfrom watcher.runtime import log\n"
        f"log.configure({level!r}, {style!r}, 'watcher')\nlog = structlog.get_logger()\n{statements}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def lines(statements: str, **how: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in logged(statements, **how).splitlines()]


def test_a_line_is_one_object_with_its_fields():
    (line,) = lines("log.info('invoice.decided', invoice='inv_1', sequence=2)")
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "invoice.decided", "level": "info", "role": "watcher", "invoice": "inv_1", "sequence": 2}


def test_less_than_the_level_is_not_written():
    told = "log.debug('a'); log.info('b'); log.warning('c'); log.error('d')"
    assert [line["event"] for line in lines(told, level="warning")] == ["c", "d"]
    assert [line["event"] for line in lines(told, level="debug")] == ["a", "b", "c", "d"]


def test_secrets_are_kept_out_of_fields_events_and_tracebacks():
    text = logged(
        "url = 'postgresql://paywatch:hunter2@db/x'\n"
        "log.info('connecting to ' + url, url=url)\n"
        "try:\n    raise ValueError(url)\nexcept ValueError:\n    log.exception('failed')\n"
    )
    assert "hunter2" not in text
    assert text.count("***") >= 3


GIVEN = {
    "webhook secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "API key": "pw_operator_abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq",
    "encryption key": KEY,
    "password": "postgresql://paywatch:hunter2@db/x",
}
EVERYWHERE = """
import dataclasses, logging
@dataclasses.dataclass
class Thing:
    inner: object
class Named:
    __repr__ = lambda self: secret
said = {"list": [secret, {secret: (secret, {"deep": secret})}], "set": {secret}, "bytes": secret.encode()}
log.info(secret, said=said, thing=Thing([secret]), named=Named(), **{secret: 1})
log.bind(bound=secret).warning("a", error=ValueError(secret))
structlog.contextvars.bind_contextvars(context={"a": secret})
log.info("b", lines=f"first\\n{secret}\\tand {secret}\\n")
def fail(given):
    try:
        raise KeyError(given)
    except KeyError as error:
        error.add_note(f"a note of {given}")
        raise RuntimeError(f"because of {given}") from error
for tell in (log.exception, logging.getLogger("asyncio").exception):
    try:
        fail(secret)
    except RuntimeError:
        tell("failed")
try:
    raise ExceptionGroup(secret, [ValueError(secret), OSError(1, secret, secret)])
except ExceptionGroup:
    log.exception("group")
logging.getLogger("aiohttp.server").error("it said %r", {"x": [secret]})
"""


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("name", GIVEN)
def test_a_secret_is_nowhere_in_a_line_however_it_got_there(name: str, style: str):
    secret = GIVEN[name]
    text = logged(f"secret = {secret!r}\n{EVERYWHERE}", style=style)
    hidden = "hunter2" if name == "password" else secret.partition("_")[2] or secret
    assert hidden not in text
    assert text.count("***") >= 20
    if style == "json":
        assert [json.loads(line)["event"] for line in text.splitlines()][1:] == [
            "a", "b", "failed", "library", "group", "library",
        ]  # fmt: skip


def test_what_ends_a_process_is_a_line_too_and_without_its_secrets():
    program = "from watcher.runtime import log\nlog.configure('info', 'json', 'api')\n"
    program += f"def fail():\n    raise ValueError({KEY!r})\nfail()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    line = json.loads(done.stderr)
    assert (line["event"], line["level"], line["role"]) == ("crashed", "critical", "api")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: ***")


def test_without_a_terminal_auto_is_json_and_text_is_for_reading():
    assert [line["event"] for line in lines("log.info('a')", style="auto")] == ["a"]
    text = logged("log.info('watcher.active', epoch=1)", style="text")
    assert "watcher.active" in text
    assert not text.startswith("{")


def test_what_libraries_say_is_a_line_like_any_other():
    (told, failed) = lines(
        "import logging\nlogging.getLogger('asyncpg.pool').warning('no answer from %s', 'postgresql://a:hunter2@db')\n"
        "logging.getLogger('aiohttp.access').info('GET /')\n"
        "try:\n    raise ValueError('postgresql://a:hunter2@db')\n"
        "except ValueError:\n    logging.getLogger('asyncio').exception('failed')\n"
    )
    assert (told["logger"], told["level"], told["message"]) == (
        "asyncpg.pool", "warning", "no answer from postgresql://***@db",
    )  # fmt: skip
    assert (failed["logger"], failed["level"], failed["message"]) == ("asyncio", "error", "failed")
    assert "hunter2" not in failed["exception"]


def test_foreign_text_does_nothing_to_a_terminal():
    """As text, and as JSON; tracebacks keep their lines."""
    hostile = r"log.info('answered', body='\x1b[2J\x00<b>\u202ewhsec_c2VjcmV0', also=['\x1b[31m'], three='a\nb')"
    told = logged(hostile, style="text")
    assert "\\x1b[2J\\x00<b>\\u202e***" in told
    assert "\\x1b[31m" in told
    assert "a\\nb" in told
    colours = re.compile(r"\x1b\[[0-9;]*m")
    assert colours.sub("", told).rstrip("\n").isprintable()
    (line,) = lines(hostile)
    assert line["body"] == "\x1b[2J\0<b>\u202e***"
    trace = logged(r"try: raise ValueError('\x1b[2J')" + "\nexcept ValueError: log.exception('failed')", style="text")
    assert "\\x1b[2J" in trace
    assert "\nTraceback" in trace or "Traceback (most recent call last):\n" in trace
