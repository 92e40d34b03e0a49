"""The example receivers of docs/receivers over real HTTP: what a shop copies must be right."""

import asyncio
import base64
import json
import random
import resource
import socket
import sys
import time
from typing import Any

import aiohttp
import pytest

from notifier.rules.signing import Message, headers
from regtest.wait import wait_for
from tests.docs.receivers import LANGUAGES, Receiver

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
FORGED = "whsec_" + base64.b64encode(b"f" * 32).decode()


@pytest.fixture(params=LANGUAGES)
async def receiver(request, tmp_path):
    running = Receiver(request.param, tmp_path, (OLD, SECRET))
    try:
        await running.start()
        yield running
    finally:
        await running.kill()


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


def event(
    status: str = "CONFIRMED", sequence: int = 1, invoice_id: str = "inv_1", kind: str | None = None, **data: Any
) -> bytes:
    facts = {
        "eventId": f"evt_{invoice_id}_{sequence}", "sequence": sequence, "invoiceId": invoice_id, "status": status,
        "reference": f"order of {invoice_id} – Grüße \u2028", "test": False,
    }  # fmt: skip
    document = {"type": kind or f"invoice.{status.lower()}", "timestamp": "2026-11-20T08:30:00Z", "data": facts | data}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def signed(body: bytes, event_id: str = "evt_1", secrets: tuple[str, ...] = (SECRET,), age: int = 0) -> dict[str, str]:
    return headers(Message("", event_id, body, secrets, 1), int(time.time()) - age, "paywatch/test")


async def post(http, receiver: Receiver, body: bytes, *, fields: dict[str, str] | None = None, **how: Any) -> int:
    """The status; 0 for no answer."""
    fields = signed(body, **how) if fields is None else fields
    try:
        async with http.post(receiver.url, data=body, headers=fields) as response:
            return response.status
    except (aiohttp.ClientError, ConnectionError):
        return 0


async def test_a_paid_order_is_shipped_once_however_often_it_is_told(http, receiver):
    body = event()
    assert [await post(http, receiver, body) for _ in range(3)] == [204, 204, 204]
    assert receiver.shipped() == [("inv_1", "order of inv_1 – Grüße \u2028")]
    assert (receiver.taken(), receiver.concerns()) == (1, [])


async def test_duplicates_at_the_same_time_ship_once(http, receiver):
    bodies = [event(invoice_id=f"inv_{number}") for number in range(5)]
    posts = [post(http, receiver, body, event_id=f"evt_{n}") for n, body in enumerate(bodies) for _ in range(8)]
    random.Random(1).shuffle(posts)
    answers = await asyncio.gather(*posts)
    assert set(answers) == {204}
    assert sorted(invoice_id for invoice_id, _ in receiver.shipped()) == [f"inv_{number}" for number in range(5)]


class TestSignatures:
    @pytest.mark.parametrize("secrets", [(OLD,), (SECRET, OLD), (FORGED, OLD), (FORGED, SECRET)])
    async def test_during_a_rotation_any_secret_of_ours_is_enough(self, http, receiver, secrets):
        assert await post(http, receiver, event(), secrets=secrets) == 204
        assert len(receiver.shipped()) == 1

    @pytest.mark.parametrize("age", [-290, 290])
    async def test_a_clock_may_be_off_by_some_minutes(self, http, receiver, age):
        assert await post(http, receiver, event(), age=age) == 204

    @pytest.mark.parametrize("age", [-330, 330, 86_400])
    async def test_what_is_old_or_of_the_future_is_refused(self, http, receiver, age):
        assert await post(http, receiver, event(), age=age) == 401
        assert receiver.taken() == 0

    async def test_what_another_signed_is_refused(self, http, receiver):
        assert await post(http, receiver, event(), secrets=(FORGED,)) == 401
        assert receiver.taken() == 0

    @pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
    async def test_each_header_is_needed_and_signed(self, http, receiver, name):
        fields = signed(event())
        without = {key: value for key, value in fields.items() if key != name}
        changed = {
            "webhook-id": "evt_2", "webhook-timestamp": str(int(fields["webhook-timestamp"]) - 1),
            "webhook-signature": fields["webhook-signature"][:10] + "AAAA" + fields["webhook-signature"][14:],
        }  # fmt: skip
        assert await post(http, receiver, event(), fields=without) == 401
        assert await post(http, receiver, event(), fields=fields | {name: changed[name]}) == 401
        assert await post(http, receiver, event(), fields=fields | {name: ""}) == 401
        assert receiver.taken() == 0

    @pytest.mark.parametrize(
        "changed",
        [
            event() + b"\n", event()[:-1], b"", b"\xff\xfe" + event(), event(reference="order-2"),
            json.dumps(json.loads(event())).encode(),
        ],
    )  # fmt: skip
    async def test_the_very_bytes_count(self, http, receiver, changed):
        assert await post(http, receiver, changed, fields=signed(event())) == 401
        assert receiver.taken() == 0

    @pytest.mark.parametrize(
        "signature", ["v1", "v1,", ",", "v1,%%%", "v2,AAAA", "v1a,AAAA", "v1,AAAA v1,BBBB", "x" * 4000, "v1,é"]
    )
    async def test_signatures_of_any_kind_are_borne(self, http, receiver, signature):
        fields = signed(event()) | {"webhook-signature": signature}
        assert await post(http, receiver, event(), fields=fields) == 401
        assert await post(http, receiver, event()) == 204

    async def test_the_right_bytes_under_another_version_are_refused(self, http, receiver):
        fields = signed(event())
        other = fields | {"webhook-signature": fields["webhook-signature"].replace("v1,", "v2,")}
        assert await post(http, receiver, event(), fields=other) == 401

    @pytest.mark.parametrize("timestamp", ["nan", "-1", "1e9", "x", "9" * 400, "1.5"])
    async def test_times_of_any_kind_are_borne(self, http, receiver, timestamp):
        fields = signed(event()) | {"webhook-timestamp": timestamp}
        assert await post(http, receiver, event(), fields=fields) == 401

    async def test_a_second_id_beside_the_signed_one_does_not_make_it_another_event(self, http, receiver):
        """Whoever has seen a request must not be able to repeat it under another name."""
        body = event(kind="invoice.anomaly", status="EXPIRED", anomaly="paid_late")
        assert await post(http, receiver, body) == 204
        for order in (1, -1):
            ids = [("webhook-id", "evt_2"), ("Webhook-Id", "evt_1")][::order]
            fields = [*ids, *[item for item in signed(body).items() if item[0] != "webhook-id"]]
            await raw(receiver, "POST /paywatch", fields, body)
        assert receiver.concerns() == [("inv_1", "paid_late")]


class TestOrder:
    async def test_an_event_that_was_overtaken_changes_nothing(self, http, receiver):
        assert await post(http, receiver, event("INVALID", 2), event_id="evt_2") == 204
        assert await post(http, receiver, event("CONFIRMED", 1), event_id="evt_1") == 204
        assert (receiver.shipped(), receiver.status("inv_1"), receiver.taken()) == ([], "INVALID", 2)

    async def test_the_highest_sequence_stays_the_measure(self, http, receiver):
        for sequence, status in ((3, "INVALID"), (1, "UNCONFIRMED"), (2, "CONFIRMED")):
            assert await post(http, receiver, event(status, sequence), event_id=f"evt_{sequence}") == 204
        assert (receiver.shipped(), receiver.status("inv_1")) == ([], "INVALID")

    async def test_what_overtook_the_confirmation_says_that_it_is_paid(self, http, receiver):
        late = event("CONFIRMED", 2, kind="invoice.anomaly", anomaly="paid_after_final")
        assert await post(http, receiver, late, event_id="evt_2") == 204
        assert await post(http, receiver, event("CONFIRMED", 1), event_id="evt_1") == 204
        assert [invoice_id for invoice_id, _ in receiver.shipped()] == ["inv_1"]
        assert receiver.concerns() == [("inv_1", "paid_after_final")]

    async def test_money_that_changed_nothing_is_for_a_person_even_when_it_comes_late(self, http, receiver):
        await post(http, receiver, event("EXPIRED", 2), event_id="evt_2")
        anomaly = event("EXPIRED", 1, kind="invoice.anomaly", anomaly="paid_late")
        assert [await post(http, receiver, anomaly, event_id="evt_1") for _ in range(2)] == [204, 204]
        assert receiver.concerns() == [("inv_1", "paid_late")]

    async def test_what_is_taken_back_is_for_a_person_and_what_comes_again_is_not_shipped_again(self, http, receiver):
        for sequence, status in enumerate(["UNCONFIRMED", "CONFIRMED", "UNCONFIRMED", "CONFIRMED", "INVALID"], 1):
            assert await post(http, receiver, event(status, sequence), event_id=f"evt_{sequence}") == 204
        assert [invoice_id for invoice_id, _ in receiver.shipped()] == ["inv_1"]
        assert receiver.concerns() == [
            ("inv_1", "UNCONFIRMED after it was shipped"), ("inv_1", "INVALID after it was shipped")
        ]  # fmt: skip
        assert receiver.status("inv_1") == "INVALID"

    @pytest.mark.parametrize("status", ["NEW", "UNDERPAID", "UNCONFIRMED", "INVALID", "EXPIRED"])
    async def test_nothing_else_is_shipped(self, http, receiver, status):
        assert await post(http, receiver, event(status)) == 204
        assert (receiver.shipped(), receiver.status("inv_1")) == ([], status)

    async def test_a_test_is_not_shipped(self, http, receiver):
        assert await post(http, receiver, event(test=True)) == 204
        assert (receiver.shipped(), receiver.status("inv_1")) == ([], "CONFIRMED")

    async def test_a_null_reference_is_none(self, http, receiver):
        assert await post(http, receiver, event(reference=None)) == 204
        assert receiver.shipped() == [("inv_1", None)]


class TestCrashes:
    async def test_killed_between_commit_and_answer_it_ships_once(self, http, receiver):
        await receiver.kill()
        await receiver.start(dies_before_its_answer=True)
        assert await post(http, receiver, event()) == 0
        await wait_for(lambda: not receiver.child.alive, 20, "the receiver's end")
        assert len(receiver.shipped()) == 1  # it had committed
        await receiver.start()
        assert await post(http, receiver, event()) == 204
        assert (len(receiver.shipped()), receiver.taken()) == (1, 1)

    async def test_killed_again_and_again_it_ships_every_order_once(self, http, receiver):
        done, count = 0, 60

        async def send(number: int) -> None:
            nonlocal done
            body = event(invoice_id=f"inv_{number}")
            while await post(http, receiver, body, event_id=f"evt_{number}") != 204:
                await asyncio.sleep(0.05)  # between two tries, as a sender does
            await post(http, receiver, body, event_id=f"evt_{number}")
            done += 1

        sending = asyncio.gather(*map(send, range(count)))
        for kills in range(1, 4):
            await wait_for(lambda bound=kills * count // 4: done >= bound, 60, "some orders")
            await receiver.kill()
            await receiver.start()
        await asyncio.wait_for(sending, 60)
        assert sorted(invoice_id for invoice_id, _ in receiver.shipped()) == sorted(f"inv_{n}" for n in range(count))

    @pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process can be set on Linux alone")
    async def test_with_a_full_disk_it_says_so_and_takes_the_event_later(self, http, receiver):
        for number in range(20):  # so that the store is larger than the log, which is below the limit too
            assert await post(http, receiver, event(invoice_id=f"inv_{number}"), event_id=f"evt_{number}") == 204
        last, body = {"event_id": "evt_last"}, event(invoice_id="inv_last")
        for room in (0, 7):  # bytes: what is written of a line must not spoil the next one
            size = 2048 if receiver.language == "python" else receiver.store.stat().st_size  # it writes a journal first
            limits = resource.prlimit(receiver.child.pid, resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
            assert await post(http, receiver, body, **last) == 503
            resource.prlimit(receiver.child.pid, resource.RLIMIT_FSIZE, limits)
        assert len(receiver.shipped()) == 20
        assert await post(http, receiver, body, **last) == 204
        assert len(receiver.shipped()) == 21
        await receiver.kill()
        await receiver.start()
        assert await post(http, receiver, body, **last) == 204
        assert (len(receiver.shipped()), receiver.taken()) == (21, 21)

    async def test_a_record_that_was_cut_off_is_taken_again(self, http, receiver):
        if receiver.language == "python":
            pytest.skip("SQLite sees to that itself")
        assert await post(http, receiver, event("UNDERPAID")) == 204
        await receiver.kill()
        with receiver.store.open("a") as store:
            store.write('{"webhookId":"evt_2","invoiceId":"inv_1","seq')
        await receiver.start()
        assert await post(http, receiver, event("CONFIRMED", 2), event_id="evt_2") == 204
        assert (len(receiver.shipped()), receiver.taken()) == (1, 2)


async def raw(receiver: Receiver, line: str, fields: list[tuple[str, str]], body: bytes = b"") -> int:
    """The status of a request that is sent as it is; 0 for no answer."""
    lines = [f"{line} HTTP/1.1", "host: shop", *(f"{name}: {value}" for name, value in fields)]
    if not any(name in {"content-length", "transfer-encoding"} for name, _ in fields):
        lines.append(f"content-length: {len(body)}")
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        answer = await asyncio.wait_for(reader.readline(), 20)
        return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


class TestBounds:
    @pytest.mark.parametrize("length", ["65537", "10000000000", "0" * 12 + "99999999"])
    async def test_what_is_too_large_is_refused_by_its_head(self, http, receiver, length):
        assert await raw(receiver, "POST /paywatch", [*signed(b"").items(), ("content-length", length)]) == 413
        assert await post(http, receiver, event()) == 204

    async def test_the_largest_event_is_taken(self, http, receiver):
        body = event(description="x" * (65_536 - len(event(description=""))))
        assert len(body) == 65_536
        assert await post(http, receiver, body) == 204
        assert len(receiver.shipped()) == 1

    @pytest.mark.parametrize("length", ["-1", "x", "1 2", "1e3"])
    async def test_a_length_that_is_none_is_refused(self, http, receiver, length):
        status = await raw(receiver, "POST /paywatch", [*signed(b"").items(), ("content-length", length)])
        assert 400 <= status < 500
        assert await post(http, receiver, event()) == 204

    async def test_a_body_without_a_length_is_refused(self, receiver):
        fields = [*signed(event()).items(), ("transfer-encoding", "chunked")]
        assert await raw(receiver, "POST /paywatch", fields, b"5\r\nhello\r\n0\r\n\r\n") == 411
        assert receiver.taken() == 0

    async def test_other_paths_and_methods_are_none(self, receiver):
        fields = list(signed(event()).items())
        assert await raw(receiver, "POST /", fields, event()) == 404
        assert await raw(receiver, "GET /paywatch", fields, event()) in {404, 501}
        assert receiver.taken() == 0

    async def test_a_client_that_goes_away_in_the_middle_harms_nobody(self, http, receiver):
        for bytes_sent in (0, 10):
            with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
                connection.sendall(
                    b"POST /paywatch HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n" + b"x" * bytes_sent
                )
        with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
            connection.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        assert await post(http, receiver, event()) == 204

    @pytest.mark.parametrize(
        "body", [b"", b"no json", b"[]", b"null", b'"text"', b"{}", b'{"type": "invoice.confirmed"}',
                 b'{"type": "invoice.confirmed", "data": {}}', b'{"type": "x", "data": null}']
    )  # fmt: skip
    async def test_a_signed_body_that_is_no_event_is_refused(self, http, receiver, body):
        assert await post(http, receiver, body) == 422
        assert await post(http, receiver, event()) == 204
        assert receiver.taken() == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("secrets", [(), ("whsec_é",), ("whsec_",)])
async def test_without_a_usable_secret_it_does_not_start(tmp_path, language, secrets):
    running = Receiver(language, tmp_path, secrets)
    with pytest.raises(AssertionError, match=r"WEBHOOK_SECRETS|Webhook"):
        await running.start()
    assert await running.child.wait() != 0
