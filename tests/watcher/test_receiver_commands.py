"""`paywatch listen` and `paywatch verify` as a shop's developer has them."""

import asyncio
import base64
import json
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from standardwebhooks import Webhook

from notifier.rules.signing import Message, headers
from regtest.wait import free_port
from tests.notifier.support import answering, sink
from tests.watcher.api.conftest import (  # noqa: F401 - the fixtures of the API
    addresses,
    context,
    operator,
    server,
    session,
    settings,
    shop,
    witness,
)
from tests.watcher.api.test_events import tell
from tests.watcher.test_cli import CLEAN, COMMAND, paywatch

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
BODY = '{"type":"invoice.confirmed","data":{"eventId":"evt_1","reference":"Grüße"}}'.encode()
ORDER = {"amount": "10.00", "currency": "EUR"}


class Listening:
    """`paywatch listen` as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        return (await asyncio.wait_for(self.process.stdout.readline(), 30)).decode().rstrip("\n")

    async def end(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Exit code and what it told beside the events."""
        self.process.send_signal(how)
        _, errors = await asyncio.wait_for(self.process.communicate(), 30)
        return self.process.returncode, errors.decode()


@asynccontextmanager
async def listening(*arguments: str, **variables: str) -> AsyncIterator[Listening]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "listen", *arguments, env=CLEAN | variables,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Listening(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
def api(server) -> str:  # noqa: F811
    return str(server.make_url("")).rstrip("/")


@pytest.fixture
async def invoice(shop):  # noqa: F811
    return (await shop.client.post("/invoices", ORDER)).body


class TestListen:
    async def test_what_happens_from_now_on_is_posted_with_a_new_secret(self, api, shop, pool, invoice):  # noqa: F811
        await tell(pool, invoice, 1)
        async with sink() as receiver:
            arguments = ("--api", api, "--forward-to", receiver.url)
            async with listening(*arguments, PAYWATCH_API_KEY=shop.client.key) as listener:
                assert await listener.line() == (
                    f"events of {api} behind cursor 1 go to {receiver.url}; Ctrl-C ends it"
                )
                secret = re.fullmatch(r"signed with a secret for this run: (whsec_\S{44})", await listener.line())[1]
                (event_id,) = await tell(pool, invoice, 2)
                (post,) = await receiver.until(1, 30)
                Webhook(secret).verify(post.body, post.headers)
                assert re.fullmatch(
                    rf"\d\d:\d\d:\d\d invoice.underpaid  sequence 2 {event_id} -> 200, \d+ ms", await listener.line()
                )
                exit_code, told = await listener.end()
        assert (exit_code, told) == (130, "to go on from here: --after 2\n")
        assert receiver.ids() == [event_id]

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    async def test_it_goes_on_where_it_ended_with_the_secret_that_is_given(self, api, shop, pool, invoice, how):  # noqa: F811
        ids = await tell(pool, invoice, 1, 2, 3)
        variables = {"PAYWATCH_API_KEY": shop.client.key, "PAYWATCH_WEBHOOK_SECRET": SECRET}
        async with sink() as receiver:
            arguments = ("--api", f"{api}/api/v1/", "--forward-to", receiver.url, "--json", "--after")
            async with listening(*arguments, "0", **variables) as listener:
                begin = json.loads(await listener.line())
                assert begin == {"api": api, "forwardTo": receiver.url, "after": "0"}
                told = [json.loads(await listener.line()) for _ in range(3)]
                exit_code, errors = await listener.end(how)
            assert (exit_code, errors) == (128 + how, "to go on from here: --after 3\n")
            assert [one["eventId"] for one in told] == ids
            assert told[0] | {"durationMs": 0} == {
                "cursor": "1", "eventId": ids[0], "type": "invoice.underpaid", "invoiceId": None, "sequence": 1,
                "attempt": 1, "outcome": "success", "status": 200, "durationMs": 0, "error": None,
            }  # fmt: skip
            async with listening(*arguments, "2", **variables) as listener:
                await listener.line()
                assert json.loads(await listener.line())["eventId"] == ids[2]
            for post in receiver.posts:
                Webhook(SECRET).verify(post.body, post.headers)

    async def test_a_refusal_is_told_with_what_the_receiver_said(self, api, shop, pool, invoice):  # noqa: F811
        await tell(pool, invoice, 1)
        variables = {"PAYWATCH_API_KEY": shop.client.key, "PAYWATCH_WEBHOOK_SECRET": SECRET}
        async with sink(answering(500, 410, 200)) as receiver:
            arguments = ("--api", api, "--forward-to", receiver.url, "--after", "0", "--retries")
            async with listening(*arguments, "3", **variables) as listener:
                lines = [await listener.line() for _ in range(4)][1:]
            assert [re.sub(r"\d+ ms", "9 ms", line.partition(" -> ")[2]) for line in lines] == [
                "500, 9 ms; again in 1 s",
                "410, 9 ms: with 410 paywatch would stop sending to this address; again in 2 s",
                "200, 9 ms",
            ]
        async with listening(*arguments, "0", **variables) as listener:
            assert "connect, " in (line := [await listener.line() for _ in range(2)][1])
            assert line.endswith("; given up here")

    async def test_what_is_wrong_at_the_start_is_told(self, api, shop, operator):  # noqa: F811
        there = ("--api", api, "--forward-to", "http://127.0.0.1:9/")
        for arguments, key, exit_code, text in (
            (there, "pw_project_" + "x" * 43, 4, "the API does not know this key"),
            (there, operator.key, 4, "projectId: is needed with an operator's key"),
            ((*there, "--project", "prj_" + "0" * 26), shop.client.key, 3, "there is no such project"),
            ((*there, "--project", "nonsense"), shop.client.key, 4, "projectId"),
            ((*there, "--after", "9" * 40), shop.client.key, 4, "after"),
        ):
            done = await asyncio.to_thread(listen, *arguments, key=key)
            assert (done.returncode, text in done.stderr) == (exit_code, True), done.stderr
            assert "Traceback" not in done.stderr
            assert done.stdout == ""

    async def test_the_address_of_the_api_is_that_of_the_settings(self, api, shop, tmp_path):  # noqa: F811
        file = tmp_path / "paywatch.toml"
        file.write_text(f'database_url = "postgresql://127.0.0.1:1/x"\napi_port = {api.rpartition(":")[2]}\n')
        variables = {"PAYWATCH_API_KEY": shop.client.key, "PAYWATCH_CONFIG": str(file)}
        async with listening("--forward-to", "http://127.0.0.1:9/", **variables) as listener:
            assert (await listener.line()).startswith(f"events of {api} behind cursor 0")


def listen(*arguments: str, key: str = "pw_project_x", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "listen", *arguments], env=CLEAN | {"PAYWATCH_API_KEY": key} | variables,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--forward-to"),
        (("--forward-to", "nonsense"), "write it like http://127.0.0.1:3000/webhooks"),
        (("--forward-to", "ftp://127.0.0.1/"), "the scheme 'ftp' is not allowed"),
        (("--forward-to", "http://u:p@127.0.0.1/"), "the URL holds a user name or password"),
        (("--forward-to", "http://127.0.0.1:3000", "--after", "x"), "write a cursor that the feed has named, or 0"),
        (("--forward-to", "http://127.0.0.1:3000", "--api", "127.0.0.1:8480"), "write it like http://127.0.0.1:8480"),
        (("--forward-to", "http://127.0.0.1:3000", "--secret-file", __file__), "one is enough to sign with"),
        (("--forward-to", "http://127.0.0.1:3000", "--secret-file", "/nowhere"), "/nowhere cannot be read"),
        (("--forward-to", "http://127.0.0.1:3000", "--retries", "4"), "--retries"),
    ],
)
def test_listen_with_wrong_usage(arguments, text):
    done = listen(*arguments)
    assert done.returncode == 2
    assert text in " ".join(done.stderr.split())


@pytest.mark.parametrize("key", ["", "é", "a\nb"])
def test_listen_without_a_usable_key(key):
    done = listen("--forward-to", "http://127.0.0.1:3000", key=key)
    assert (done.returncode, "--key" in done.stderr) == (2, True)


def test_listen_with_a_secret_that_is_none():
    done = listen("--forward-to", "http://127.0.0.1:3000", PAYWATCH_WEBHOOK_SECRET="whsec_geheim")
    assert done.returncode == 78
    assert "a signing secret is not whsec_" in done.stderr
    assert "geheim" not in done.stderr


def test_listen_without_an_api():
    done = listen("--forward-to", "http://127.0.0.1:3000", "--api", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, "no answer from" in done.stderr, "Traceback" in done.stderr) == (69, True, False)


def test_the_variables_of_the_tools_are_no_wrong_settings():
    from watcher.runtime.config import load

    variables = {"PAYWATCH_API_KEY": "pw_project_x", "PAYWATCH_WEBHOOK_SECRET": SECRET}
    assert load({}, {"PAYWATCH_DATABASE_URL": "postgresql://a"} | variables).database_url == "postgresql://a"


def fields(*secrets: str, age: int = 0) -> dict[str, str]:
    return headers(Message("", "evt_1", BODY, secrets or (SECRET,), 1), int(time.time()) - age, "paywatch/1")


@pytest.fixture
def files(tmp_path):
    """Body, headers and secret as files; the arguments that name them."""
    (tmp_path / "body").write_bytes(BODY)
    (tmp_path / "headers").write_text("".join(f"{name}: {value}\n" for name, value in fields().items()))
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    return ["--body", f"{tmp_path}/body", "--headers", f"{tmp_path}/headers", "--secret-file", f"{tmp_path}/secret"]


class TestVerify:
    def test_what_is_right(self, files):
        done = paywatch("verify", *files)
        assert done.returncode == 0, done.stdout
        first, *rest = done.stdout.splitlines()
        assert first == "ok    headers    webhook-id evt_1, 1 signature"
        assert [line.split()[:2] for line in rest] == [
            ["ok", "secret"],
            ["ok", "time"],
            ["ok", "signature"],
            ["verified"],
        ]

    def test_what_is_wrong_with_a_hint(self, files, tmp_path):
        (tmp_path / "body").write_text(json.dumps(json.loads(BODY)))
        done = paywatch("verify", *files)
        assert done.returncode == 1
        *_, wrong, hint, last = done.stdout.splitlines()
        assert wrong.startswith("WRONG signature  the body was parsed and written anew")
        assert hint.startswith("                 hint: verify the bytes as they came")
        assert last == "NOT verified"

    def test_as_json(self, files, tmp_path):
        (tmp_path / "body").write_bytes(BODY + b"\n")
        done = paywatch("verify", *files, "--json")
        told = json.loads(done.stdout)
        assert (done.returncode, told["ok"], told["notes"]) == (1, False, [])
        assert [one["step"] for one in told["findings"]] == ["headers", "secret", "time", "signature"]
        assert told["findings"][3]["text"] == "it matches without the line end behind the body"

    def test_headers_one_by_one_and_the_body_by_the_input(self):
        given = [part for name, value in fields(OTHER, SECRET).items() for part in ("-H", f"{name}: {value}")]
        done = subprocess.run(
            [*COMMAND, "verify", *given, "--body", "-"], input=BODY, capture_output=True, timeout=60, check=False,
            env=CLEAN | {"PAYWATCH_WEBHOOK_SECRET": SECRET},
        )  # fmt: skip
        assert (done.returncode, b"number 2 of 2 matches" in done.stdout) == (0, True), done.stdout

    def test_a_request_as_it_came(self, tmp_path):
        head = "".join(f"{name}: {value}\r\n" for name, value in fields(age=400).items())
        dump = tmp_path / "dump"
        dump.write_bytes(f"POST /hook HTTP/1.1\r\n{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY + b"\n")
        done = paywatch("verify", "--request", str(dump), webhook_secret=SECRET)
        assert (done.returncode, "6 min 4" in done.stdout) == (1, True), done.stdout
        assert done.stdout.startswith(f"note: content-length says {len(BODY)} bytes of body, and {len(BODY) + 1} were")
        assert paywatch("verify", "--request", str(dump), "--ignore-time", webhook_secret=SECRET).returncode == 0

    @pytest.mark.parametrize(("shift", "exit_code"), [(-400, 1), (200, 0)])
    def test_at_a_time(self, files, shift, exit_code):
        at = int(time.time()) + shift
        rfc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        for text in (str(at), rfc, rfc.removesuffix("Z")):
            assert paywatch("verify", *files, "--at", text).returncode == exit_code

    def test_no_secret_is_ever_printed(self, files, tmp_path):
        for secret, more in ((OTHER, ()), (SECRET[:-3], ("--json",)), (f"'{SECRET}'", ())):
            (tmp_path / "secret").write_text(secret)
            done = paywatch("verify", *files, *more, "-H", f"webhook-id: {SECRET}")
            assert done.returncode == 1
            assert SECRET[6:20] not in done.stdout + done.stderr
            assert OTHER[6:20] not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ((), "give --body and the headers, or --request"),
            (("--request", "/nowhere"), "/nowhere cannot be read: No such file or directory"),
            (("--request", "-", "--body", "-"), "it has headers and body already"),
            (("--body", "-", "--headers", "-"), "only one of them can come from the input"),
            (("--body", "/dev/null", "-H", "nonsense"), "write headers like webhook-id: evt_..."),
            (("--body", "/dev/null", "--at", "yesterday", "--secret", SECRET), "write now, seconds since 1970"),
            (("--body", "/dev/null"), "give it, or set PAYWATCH_WEBHOOK_SECRET"),
        ],
    )
    def test_wrong_usage(self, arguments, text):
        done = paywatch("verify", *arguments)
        assert done.returncode == 2
        assert text in " ".join(done.stderr.split())
        assert SECRET not in done.stderr


def test_help_says_where_secrets_belong():
    for verb in ("listen", "verify"):
        text = " ".join(paywatch(verb, "--help").stdout.split())
        assert "PAYWATCH_WEBHOOK_SECRET" in text
        assert "Every user of this machine can see it here" in text
