"""Confirm without payment, step by step; the notifier's part is played on the table, as its contract has it."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

import pytest

from regtest.wait import wait_for
from tests.support import add_invoice, add_project
from watcher import confirmation
from watcher.runtime.db import Pool

BASE = "https://pay.example"


class Doorbell:
    """Everybody hears every ring."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Event] = []

    @contextlib.contextmanager
    def listening(self, *_: str):
        rung = asyncio.Event()
        self.waiting.append(rung)
        yield rung

    def ring(self) -> None:
        for rung in self.waiting:
            rung.set()


@dataclass
class Notifier:
    """Claims and answers, as the notifier does."""

    pool: Pool
    doorbell: Doorbell = field(default_factory=Doorbell)
    sent: list[tuple[str, bytes, str]] = field(default_factory=list)

    async def claim(self, lease: str = "30 seconds") -> str:
        row = await wait_for(
            lambda: self.pool.fetchrow(
                "UPDATE test_confirmation SET state = 'sending', lease_token = gen_random_uuid(), "
                f"lease_until = now() + interval '{lease}' WHERE state = 'requested' RETURNING *"
            ),
            5,
            "a click",
        )
        self.sent.append((row["event_id"], row["body"], row["url"]))
        return str(row["lease_token"])

    async def answer(self, token: str, status: int | None = 200, error: str | None = None) -> bool:
        response = {"status": status, "durationMs": 12, "body": "thanks", "error": error, "click": 1}
        told = await self.pool.fetchval(
            "UPDATE test_confirmation SET state = 'answered', delivered = $2, response = $3, lease_token = NULL, "
            "lease_until = NULL WHERE lease_token = $1 RETURNING true",
            token, status is not None and 200 <= status < 300, response,
        )  # fmt: skip
        self.doorbell.ring()
        return bool(told)

    def click(self, invoice_id: str) -> asyncio.Task[confirmation.Answer]:
        return asyncio.create_task(confirmation.request(self.pool, self.doorbell, invoice_id, BASE))

    async def serve(self, status: int | None = 200, error: str | None = None) -> None:
        assert await self.answer(await self.claim(), status, error)


@pytest.fixture
def notifier(pool: Pool) -> Notifier:
    return Notifier(pool)


@pytest.fixture
async def project(pool: Pool) -> str:
    project_id = await add_project(pool, [(f"bcrt1q{n}", b"\x00\x14" + bytes([n]) * 20) for n in range(5)])
    await pool.execute("UPDATE project SET mode = 'test'")
    return project_id


@pytest.fixture
async def invoice(pool: Pool, project: str) -> str:
    return await add_invoice(pool, project, 200_000, test=True)


async def row(pool: Pool, invoice_id: str):
    return await pool.fetchrow("SELECT * FROM invoice WHERE id = $1", invoice_id)


async def test_a_2xx_confirms_the_invoice_and_leaves_what_every_event_leaves(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    await notifier.serve(204)
    answer = await clicked
    assert (answer.delivered, answer.response["status"]) == (True, 204)
    after = await row(pool, invoice)
    assert (after["status"], after["reason"], after["paid_sat"]) == ("CONFIRMED", "confirmed_without_payment", 200_000)
    assert (after["last_sequence"], after["judge_at"], after["judge_pending"]) == (1, None, True)
    assert after["confirmed_at"] is not None
    event = await pool.fetchrow("SELECT * FROM event")
    assert [(event["id"], event["body"])] == [sent[:2] for sent in notifier.sent]
    assert (event["type"], event["sequence"], event["feed_position"]) == ("invoice.confirmed", 1, 1)
    delivery = await pool.fetchrow("SELECT * FROM delivery")
    assert (delivery["event_id"], delivery["state"], delivery["attempts"]) == (event["id"], "delivered", 1)
    attempt = await pool.fetchrow("SELECT * FROM attempt")
    assert (attempt["delivery_id"], attempt["http_status"], attempt["response_head"]) == (
        delivery["id"],
        204,
        b"thanks",
    )
    assert await pool.fetchval("SELECT count(*) FROM ledger_entry") == 0


async def test_the_body_tells_a_confirmed_invoice(pool, notifier, invoice, project):
    clicked = notifier.click(invoice)
    await notifier.serve()
    await clicked
    event_id, body, url = notifier.sent[0]
    told = json.loads(body)
    assert told["type"] == "invoice.confirmed"
    data = told["data"]
    assert (data["eventId"], data["sequence"], data["previousStatus"]) == (event_id, 1, "NEW")
    assert (data["status"], data["reason"], data["test"]) == ("CONFIRMED", "confirmed_without_payment", True)
    assert (data["paidBtc"], data["paidAmount"], data["remainingBtc"]) == ("0.00200000", "100.00", "0.00000000")
    assert url == "http://127.0.0.1:9/hook"


async def test_anything_else_leaves_it_new_and_the_next_click_sends_the_same(pool, notifier, invoice):
    for status, error in ((500, None), (302, None), (None, "connection refused")):
        clicked = notifier.click(invoice)
        await notifier.serve(status, error)
        answer = await clicked
        assert (answer.delivered, answer.response["status"], answer.response["error"]) == (False, status, error)
        after = await row(pool, invoice)
        assert (after["status"], after["last_sequence"], after["judge_pending"]) == ("NEW", 0, True)
    assert await pool.fetchval("SELECT count(*) FROM event") == 0
    clicked = notifier.click(invoice)
    await notifier.serve(200)
    assert (await clicked).delivered
    assert len(set(notifier.sent)) == 1
    kinds = [line["kind"] for line in await pool.fetch("SELECT kind FROM timeline ORDER BY id")]
    assert kinds == ["confirmation_failed"] * 3 + ["status"]


async def test_a_ring_that_is_lost_is_made_up_for_by_the_poll(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    token = await notifier.claim()
    notifier.doorbell.waiting.clear()
    await notifier.answer(token)
    assert (await clicked).delivered


async def test_once_confirmed_the_stored_answer_is_told_again(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    await notifier.serve(201)
    first = await clicked
    assert await confirmation.request(pool, Doorbell(), invoice, BASE) == first
    assert await pool.fetchval("SELECT count(*) FROM event") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE project SET mode = 'live'", "not in test mode"),
        ("UPDATE invoice SET test = false", "live mode"),
        ("UPDATE invoice SET status = 'EXPIRED', set_closed = true", "EXPIRED"),
        ("UPDATE invoice SET status = 'UNDERPAID', paid_sat = 1", "UNDERPAID"),
    ],
)
async def test_it_is_refused_unless_everything_about_it_is_a_test(pool, invoice, change, reason):
    await pool.execute(change)
    with pytest.raises(confirmation.NotAllowed, match=reason):
        await confirmation.request(pool, Doorbell(), invoice, BASE)
    assert await pool.fetchval("SELECT count(*) FROM test_confirmation") == 0


async def test_a_second_click_while_one_is_under_way_is_refused(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    token = await notifier.claim()
    with pytest.raises(confirmation.NotAllowed, match="under way"):
        await confirmation.request(pool, Doorbell(), invoice, BASE)
    await notifier.answer(token)
    assert (await clicked).delivered


async def test_of_many_clicks_at_once_one_is_made(pool, notifier, invoice):
    clicks = [notifier.click(invoice) for _ in range(8)]
    await notifier.serve()
    answers = await asyncio.gather(*clicks, return_exceptions=True)
    delivered = [answer for answer in answers if isinstance(answer, confirmation.Answer)]
    assert all(answer.delivered for answer in delivered)
    assert all(isinstance(answer, confirmation.NotAllowed) for answer in answers if answer not in delivered)
    assert len(delivered) >= 1
    assert (len(notifier.sent), await pool.fetchval("SELECT count(*) FROM event")) == (1, 1)


async def test_switching_test_mode_off_while_it_is_sent_changes_nothing_any_more(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    token = await notifier.claim()
    await pool.execute("UPDATE project SET mode = 'live'")
    await notifier.answer(token)
    assert (await clicked).delivered
    assert (await row(pool, invoice))["status"] == "CONFIRMED"


async def test_without_a_notifier_the_click_is_withdrawn_after_twenty_seconds(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    await wait_for(lambda: pool.fetchval("SELECT true FROM test_confirmation"), 5, "the click")
    await pool.execute("UPDATE test_confirmation SET requested_at = requested_at - interval '19 seconds'")
    await confirmation.sweep(pool)
    assert not clicked.done()
    await pool.execute("UPDATE test_confirmation SET requested_at = requested_at - interval '2 seconds'")
    answer = await clicked
    assert (answer.delivered, answer.response["error"]) == (False, "no notifier is running")
    assert (await row(pool, invoice))["status"] == "NEW"
    again = notifier.click(invoice)
    await notifier.serve()
    assert (await again).delivered


async def test_a_notifier_that_falls_silent_loses_the_click(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    token = await notifier.claim(lease="-21 seconds")
    answer = await clicked
    assert (answer.delivered, answer.response["error"]) == (False, confirmation.FELL_SILENT)
    assert not await notifier.answer(token)
    assert (await row(pool, invoice))["status"] == "NEW"


async def test_the_sweep_finishes_what_a_dead_api_process_left(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    token = await notifier.claim()
    clicked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await clicked
    await notifier.answer(token)
    await confirmation.sweep(pool)
    assert (await row(pool, invoice))["status"] == "CONFIRMED"
    await confirmation.sweep(pool)
    assert await pool.fetchval("SELECT count(*) FROM event") == 1


async def test_finishing_twice_is_finishing_once(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    await notifier.serve()
    await clicked
    async with pool.acquire() as connection, connection.transaction():
        await confirmation.finish(connection, invoice)
    assert await pool.fetchval("SELECT count(*) FROM event") == 1
    assert await pool.fetchval("SELECT count(*) FROM delivery") == 1


async def test_the_url_is_the_one_of_the_moment_of_the_click_unless_the_invoice_names_one(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    await notifier.serve(500)
    await clicked
    await pool.execute("UPDATE endpoint SET url = 'http://127.0.0.1:9/moved'")
    clicked = notifier.click(invoice)
    await notifier.serve(500)
    await clicked
    endpoint_id = await pool.fetchval(
        "INSERT INTO endpoint (project_id, url, is_default) "
        "SELECT project_id, 'http://127.0.0.1:9/own', false FROM invoice RETURNING id"
    )
    await pool.execute("UPDATE invoice SET endpoint_id = $1", endpoint_id)
    clicked = notifier.click(invoice)
    await notifier.serve(200)
    assert (await clicked).delivered
    assert [url.rsplit("/", 1)[1] for _, _, url in notifier.sent] == ["hook", "moved", "own"]
    assert await pool.fetchval("SELECT endpoint_id FROM delivery") == endpoint_id


async def test_when_another_event_came_first_the_next_click_freezes_a_new_one_with_its_number(pool, notifier, invoice):
    clicked = notifier.click(invoice)
    await notifier.serve(500)
    await clicked
    await pool.execute("DELETE FROM test_confirmation WHERE state = 'idle'")
    await pool.execute("UPDATE invoice SET last_sequence = 2")
    clicked = notifier.click(invoice)
    await notifier.serve(200)
    assert (await clicked).delivered
    (first, _, _), (second, body, _) = notifier.sent
    assert first != second
    assert json.loads(body)["data"]["sequence"] == 3
    assert (await row(pool, invoice))["last_sequence"] == 3
