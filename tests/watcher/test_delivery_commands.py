"""`paywatch deliveries` and `paywatch events` as an operator types them, on a real database."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from regtest.wait import wait_for
from tests.notifier.support import ROOT, Shop
from tests.watcher.test_cli import CLEAN, paywatch
from watcher.delivery_commands import moment
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id

Run = Callable[..., Awaitable[Any]]

BODY = json.dumps({
    "type": "invoice.confirmed", "timestamp": "2026-11-20T08:30:00Z",
    "data": {"invoiceId": "inv_1", "paidBtc": "0.00100000", "reference": "a\x1b[2Jb"},
}, ensure_ascii=False).encode()  # fmt: skip
HOSTILE = b"\x1b]0;owned\x07<b>whsec_c2VjcmV0LXNlY3JldA==</b>\0\x9b31m\xe2\x80\xae" + b"x" * 500


@pytest.fixture
def run(database_url: str) -> Run:
    async def done(*arguments: str) -> Any:
        return await asyncio.to_thread(paywatch, *arguments, database_url=database_url)

    return done


@pytest.fixture
async def shop(pool: Pool) -> Shop:
    opened = await Shop(pool).open()
    opened.endpoint_id = await opened.endpoint("http://127.0.0.1:9/\x1b[31mhook")
    return opened


@pytest.fixture
async def ids(shop: Shop, pool: Pool) -> list[str]:
    """Three events of one invoice, each with a delivery: given up, delivered, waiting."""
    invoice = await shop.invoice()
    made = [(await shop.deliver_all(shop.endpoint_id, [(invoice, n)], BODY))[0] for n in (1, 2, 3)]
    await pool.execute("UPDATE event SET feed_position = sequence")
    await pool.execute("UPDATE project SET feed_position = 3")
    await pool.execute("UPDATE delivery SET state = 'dead', dead_reason = 'exhausted' WHERE id = $1", made[0])
    await pool.execute("UPDATE delivery SET state = 'delivered', delivered_at = now() WHERE id = $1", made[1])
    return made


async def add_attempt(pool: Pool, delivery_id: str) -> None:
    await pool.execute(
        "INSERT INTO attempt (delivery_id, number, started_at, duration_ms, outcome, http_status, error, "
        "response_head) VALUES ($1, 1, now(), 31, 'http', 302, 'redirect to \x1b[41m', $2)",
        delivery_id, HOSTILE,
    )  # fmt: skip
    await pool.execute("UPDATE delivery SET attempts = 1 WHERE id = $1", delivery_id)


def is_harmless(text: str) -> bool:
    """Nothing in it but what is printed, and the ends of lines."""
    return all(mark.isprintable() or mark == "\n" for mark in text)


async def test_deliveries_are_listed_with_what_came_of_them(run: Run, shop: Shop, pool: Pool, ids: list[str]):
    await add_attempt(pool, ids[0])
    done = await run("deliveries", "list", "--project", shop.project_id)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[1]: re.split("  +", line) for line in done.stdout.splitlines()}
    assert [rows[one][2] for one in ids] == ["dead", "delivered", "pending"]
    assert rows[ids[0]][-2:] == ["1: 302", "exhausted"]
    assert rows[ids[2]][-2] == "no attempt yet"
    assert rows[ids[2]][-1].startswith("due: ")
    for options, expected in (
        (("--state", "dead", "--since", "1h"), ids[:1]), (("--until", "1h"), []),
        (("--type", "invoice.confirmed", "--limit", "1"), [max(ids)]),
    ):  # fmt: skip
        found = json.loads((await run("deliveries", "list", *options, "--json")).stdout)
        assert [item["id"] for item in found["items"]] == expected, options
    assert (await run("deliveries", "list", "--state", "held")).stdout == "none\n"
    more = await run("deliveries", "list", "--limit", "2")
    cursor = more.stdout.splitlines()[-1].removeprefix("more: --cursor ")
    last = await run("deliveries", "list", "--cursor", cursor)
    assert [line.split()[1] for line in last.stdout.splitlines()] == [min(ids)]


async def test_a_delivery_is_shown_with_its_request_and_its_attempts_and_nothing_acts_on_the_terminal(
    run: Run, shop: Shop, pool: Pool, ids: list[str]
):
    await add_attempt(pool, ids[0])
    done = await run("deliveries", "show", ids[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert is_harmless(done.stdout)
    text = done.stdout
    assert "POST http://127.0.0.1:9/\\x1b[31mhook" in text
    assert '"reference": "a\\u001b[2Jb"' in text  # as it is posted
    assert "attempts (1 of 1)" in text
    line = text.splitlines()[-1]
    assert line.split()[0] == "#1"
    assert "31 ms  302  redirect to \N{REPLACEMENT CHARACTER}[41m" in line or "redirect to \\x1b[41m" in line
    assert "\\x1b]0;owned\\x07<b>***</b>\\x00\N{REPLACEMENT CHARACTER}31m\\u202e" in line
    assert "whsec_" not in text
    assert line.endswith("x…")
    assert len(line) < 500
    waiting = await run("deliveries", "show", ids[2])
    assert "\nwaits for\n  due: it is sent as soon as a notifier has a slot for its endpoint\n" in waiting.stdout
    assert waiting.stdout.endswith("attempts (0 of 0)\n  none yet\n")
    as_json = json.loads((await run("deliveries", "show", ids[0], "--json")).stdout)
    assert as_json["body"] == BODY.decode()


async def test_deliveries_are_sent_again_by_their_ids(run: Run, pool: Pool, ids: list[str]):
    dry = await run("deliveries", "redeliver", *ids[:2], "--dry-run")
    assert (dry.returncode, len(dry.stdout.splitlines())) == (0, 2)
    assert await pool.fetchval("SELECT count(*) FROM delivery") == 3
    missing = new_id("dlv")
    done = await run("deliveries", "redeliver", ids[0], missing, ids[2])
    assert (done.returncode, done.stderr) == (3, f"{missing}: there is no such delivery\n")
    first, second = done.stdout.splitlines()
    new = await pool.fetchval("SELECT id FROM delivery WHERE replay_of = $1", ids[0])
    event = await pool.fetchval("SELECT event_id FROM delivery WHERE id = $1", ids[0])
    assert first.startswith(f"{ids[0]}: sends {event} as {new}: due")
    assert f" as {ids[2]}: event 1 of its invoice goes first ({new})" in second
    await pool.execute(
        "UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() WHERE id = $1",
        ids[2],
    )
    taken = await run("deliveries", "redeliver", ids[2])
    assert (taken.returncode, taken.stderr) == (4, f"{ids[2]}: it is being sent at this moment\n")


async def test_what_waits_is_taken_back_with_a_reason(run: Run, ids: list[str]):
    done = await run("deliveries", "cancel", ids[2], "--reason", "sent by\x1b hand")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ids[2]} is cancelled\n", "")
    again = await run("deliveries", "cancel", ids[2], "--reason", "twice")
    assert (again.returncode, "it has ended: it is cancelled" in again.stderr) == (4, True)
    listed = await run("deliveries", "list", "--state", "cancelled")
    assert listed.stdout.rstrip().endswith("sent by\\x1b hand")


async def test_a_project_is_sent_again_as_told_before(run: Run, shop: Shop, pool: Pool, ids: list[str], monkeypatch):
    await pool.execute("UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone'")
    project = ("--project", shop.project_id)
    dry = await run("deliveries", "redeliver", *project, "--dry-run")
    events = [row["id"] for row in await pool.fetch("SELECT id FROM event ORDER BY sequence")]
    assert dry.stdout.splitlines() == [
        "3 events would be sent again", "  3 invoice.confirmed", f"from {events[0]} (cursor 1)",
        f"to   {events[2]} (cursor 3)",
        "3 of them are held, since their endpoint is disabled, until it is enabled",
    ]  # fmt: skip
    assert await pool.fetchval("SELECT count(*) FROM delivery") == 3
    dead = await run("deliveries", "redeliver", *project, "--state", "dead", "--since", "2d", "--json")
    told = json.loads(dead.stdout)
    assert (told["queued"], told["first"]["id"], told["last"]["id"]) == (1, events[0], events[0])
    none = await run("deliveries", "redeliver", *project, "--until", "2d")
    assert none.stdout == "0 events are sent again\n"
    await pool.execute("UPDATE delivery SET state = 'in_flight', lease_token = gen_random_uuid(), lease_until = now() "
                       "WHERE id = $1", ids[2])  # fmt: skip
    last = await run("deliveries", "redeliver", *project)
    assert last.stdout.splitlines()[-1] == "1 more are being sent at this moment, and left alone"


WRONG = [
    (("deliveries", "redeliver", "dlv_1", "--project", "prj_1"), 2, "name deliveries, or a project with --project"),
    (("deliveries", "redeliver", "dlv_1", "--state", "dead"), 2, "a range and a state are for --project alone"),
    (("deliveries", "list", "--state", "lost"), 4, "state: write 'pending', 'in_flight', 'held'"),
    (("deliveries", "list", "--since", "yesterday"), 4, "from: write a time such as 2026-11-20T08:30:00Z"),
    (("deliveries", "show", "dlv_\x1b[31m"), 3, "there is no such delivery"),
    (("events", "--project", new_id("prj")), 3, "there is no such project"),
]


async def test_what_is_wrong_is_told(run: Run):
    for arguments, code, words in WRONG:
        done = await run(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


async def test_events_are_printed_in_their_order(run: Run, shop: Shop, ids: list[str]):
    done = await run("events", "--project", shop.project_id)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert lines[0].split("  ")[4:] == ["inv_1", "0.00100000", "a\\x1b[2Jb"]
    rest = await run("events", "--project", shop.project_id, "--after", "2", "--json")
    assert [json.loads(line)["cursor"] for line in rest.stdout.splitlines()] == ["3"]
    beyond = await run("events", "--project", shop.project_id, "--after", "4")
    assert (beyond.returncode, "behind the newest event, whose cursor is 3" in beyond.stderr) == (4, True)


async def test_events_are_followed_until_ctrl_c(shop: Shop, pool: Pool, ids: list[str], database_url: str, tmp_path):
    output = tmp_path / "events"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "watcher.cli", "events", "--project", shop.project_id, "--follow", "--after", "2",
            stdout=file, stderr=file, env=CLEAN | {"PAYWATCH_DATABASE_URL": database_url, "PYTHONPATH": str(ROOT),
                                                    "PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        await wait_for(lambda: len(output.read_text().splitlines()) == 1, 30, "the events that there are")
        await shop.deliver(shop.endpoint_id, sequence=1, body=BODY)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("UPDATE event SET feed_position = 4 WHERE feed_position > 3")
            await connection.execute("UPDATE project SET feed_position = 4")
        await wait_for(lambda: len(output.read_text().splitlines()) == 2, 30, "the event that came")
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 130
        assert "Traceback" not in output.read_text()
        assert [line.split()[0] for line in output.read_text().splitlines()[:2]] == ["3", "4"]
    finally:
        if process.returncode is None:
            process.kill()


def test_a_time_may_be_written_as_so_long_ago():
    for text, ago in (("90s", timedelta(seconds=90)), ("2h", timedelta(hours=2)), ("3w", timedelta(weeks=3))):
        found = datetime.fromisoformat(moment(text))
        assert abs(datetime.now(UTC) - ago - found) < timedelta(seconds=20)
    assert moment("2026-11-20T08:30:00Z") == "2026-11-20T08:30:00Z"
    assert moment(None) is None
    assert moment("2 h") == "2 h"
