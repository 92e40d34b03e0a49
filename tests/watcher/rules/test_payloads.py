"""What merchants see: exact documents, the order of their fields, and a bound on their size.

The expected documents are files in `golden/`. Delete one to have it written anew, and read it before it is kept.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watcher.rules.build import (
    a_measurement,
    at,
    conflicted,
    evicted,
    in_block,
    in_mempool,
    named,
    pays,
    replaced,
    was,
)
from watcher.rules.labels import Label
from watcher.rules.payloads import (
    EVENT_TYPES,
    MAX_PAYMENTS_SHOWN,
    EventHead,
    anomaly_event,
    bip21,
    invoice_document,
    rate_text,
    status_event,
    time_text,
)
from watcher.rules.rates import Evidence, Verdict
from watcher.rules.record import Invoice, Quote
from watcher.rules.risk import Circumstances, Factor, RiskVerdict, assess
from watcher.rules.types import Payment, Reason, Resolution, Status, Terms, TxFacts

GOLDEN = Path(__file__).parent / "golden"
BODY_BYTES_MAX = 65_536  # what the outbox takes
URL = "https://pay.example"
TIP = 105

HEAD = EventHead("evt_01JCZ0000000000000000000AA", 2, Status.UNDERPAID, at(61))
EVIDENCE = (
    Evidence("kraken", Decimal("81000.640"), at(-25), Verdict.USED, "0.00 % off the median"),
    Evidence("coinbase", None, None, Verdict.FAILED, "it answers HTTP 502"),
)
QUOTE = Quote("EUR", Decimal("81000.640"), "kraken", at(-20), tuple(one.document() for one in EVIDENCE))

PAID = {
    Status.NEW: was(Status.NEW, Reason.PAYMENT_TAKEN_BACK),
    Status.UNDERPAID: was(Status.UNDERPAID, Reason.PARTIAL_PAYMENT, 100_000),
    Status.UNCONFIRMED: replace(
        was(Status.UNCONFIRMED, Reason.WAITING_FOR_CONFIRMATIONS, 123_456),
        raised_to=1,
        factors=(
            Factor("unconfirmed_total", RiskVerdict.OK, "0.00123456 BTC", "it is within the cap", None, raises=False),
            Factor(
                "unconfirmed_parents", RiskVerdict.AGAINST, "2", "it spends unconfirmed coins", "ab" * 32, raises=True
            ),
        ),
    ),
    Status.CONFIRMED: was(Status.CONFIRMED, Reason.CONFIRMED, 123_456),
    Status.EXPIRED: was(Status.EXPIRED, Reason.EXPIRED),
    Status.INVALID: was(Status.INVALID, Reason.OVERPAID, 200_000),
}


def counted(tx: TxFacts, amount_sat: int, seen: int, vout: int = 0) -> Payment:
    return replace(pays(tx, amount_sat, seen=seen, vout=vout), judged=True, counted=True)


PAYMENTS = {
    Status.NEW: (replace(pays(replaced("A", "X"), 100_000, seen=30), judged=True),),
    Status.UNDERPAID: (counted(in_mempool("A"), 100_000, 30),),
    Status.UNCONFIRMED: (counted(in_mempool("A"), 100_000, 30), counted(in_block("B", "104a"), 23_456, 40, 1)),
    Status.CONFIRMED: (counted(in_block("A", "103a"), 100_000, 30), counted(in_block("B", "104a"), 23_456, 40, 1)),
    Status.EXPIRED: (),
    Status.INVALID: (
        replace(pays(conflicted("A", 104), 1, seen=30), judged=True),
        counted(evicted("B", 50), 200_000, 40),
    ),
}


def an_invoice(status: Status, **more: Any) -> Invoice:
    """An invoice over 100.00 EUR = 123,456 sat, with whatever belongs to the status."""
    return replace(
        Invoice(
            id="inv_01JCZ00000000000000000000A", project_id="prj_01JCZ00000000000000000000B", test=False,
            amount=Decimal("100.00"), currency="EUR", quote=QUOTE,
            address="bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
            script_pubkey=b"\0\x14" + bytes(20), reference="order 1042/ä&b", description="Zwölf Brötchen ☕",
            redirect_url="https://shop.example/thanks", notification_url=None, metadata={"basket": [1, 2.5, None, "ß"]},
            created_at=at(0), terms=Terms(123_456, at(900), int(status is not Status.UNCONFIRMED)),
            required_reasons=("100.00 EUR is at most 100.00",),
            standing=PAID[status], payments=PAYMENTS[status], last_sequence=2,
            confirmed_at=at(61) if status is Status.CONFIRMED else None,
        ),
        **more,
    )  # fmt: skip


def late_payment() -> Payment:
    return replace(pays(in_block("L", "104a"), 50_001, seen=1000, vout=7), judged=True, anomaly="paid_late")


def matches(name: str, document: object) -> None:
    """The document is, letter by letter, what the golden file says."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    path = GOLDEN / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        pytest.fail(f"{path.name} was written: read it, keep it, run again")
    assert text == path.read_text()


# The documents.


def test_the_document_of_an_invoice() -> None:
    """As `GET /invoices/{id}` answers it."""
    matches("invoice", invoice_document(an_invoice(Status.UNCONFIRMED), TIP, URL))


def test_the_document_of_a_btc_invoice() -> None:
    """No rate; what was paid is BTC in both fields; what may be null is null."""
    invoice = an_invoice(
        Status.UNDERPAID, amount=Decimal("0.00123456"), currency="BTC", quote=None, reference=None, description=None,
        redirect_url=None, metadata={}, test=True,
    )  # fmt: skip
    matches("invoice_btc", invoice_document(invoice, TIP, URL))


@pytest.mark.parametrize("status", list(Status))
def test_the_event_of_each_status(status: Status) -> None:
    """Type and body, the bytes that are signed and sent."""
    event_type, body = status_event(an_invoice(status), HEAD, TIP, URL)
    document = json.loads(body)
    assert event_type == document["type"] == f"invoice.{status.lower()}"
    matches(event_type, document)
    assert body == json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def test_the_event_of_an_anomaly() -> None:
    """paidBtc, paidAmount and rate are those of the payment; status and the rest are the invoice's."""
    payment = late_payment()
    invoice = an_invoice(
        Status.EXPIRED, payments=(payment,), payment_rates={payment.key: Decimal("60000.50")}, last_sequence=3
    )
    head = replace(HEAD, sequence=3, previous_status=Status.EXPIRED)
    event_type, body = anomaly_event(invoice, payment, head, TIP, URL)
    assert event_type == "invoice.anomaly"
    matches(event_type, json.loads(body))


def test_an_event_has_every_field_of_the_invoice() -> None:
    """And four of its own, before them."""
    invoice = an_invoice(Status.CONFIRMED)
    data = json.loads(status_event(invoice, HEAD, TIP, URL)[1])["data"]
    assert list(data)[:4] == ["eventId", "sequence", "previousStatus", "invoiceId"]
    assert {key: data[key] for key in data if key not in list(data)[:4]} == invoice_document(invoice, TIP, URL)


def test_every_status_has_its_event_type() -> None:
    assert set(EVENT_TYPES) == set(Status)


# Money of an anomaly.


@pytest.mark.parametrize(
    ("amount_sat", "rate", "paid_amount"),
    [(50_001, "60000.50", "30.00"), (1, "60000", "0.00"), (16, "60000", "0.00"), (17, "60000", "0.01")],
)
def test_an_anomaly_is_valued_at_its_own_rate(amount_sat: int, rate: str, paid_amount: str) -> None:
    """Down to nothing: a single satoshi is told too."""
    payment = replace(late_payment(), amount_sat=amount_sat)
    invoice = an_invoice(Status.EXPIRED, payments=(payment,), payment_rates={payment.key: Decimal(rate)})
    data = json.loads(anomaly_event(invoice, payment, HEAD, TIP, URL)[1])["data"]
    assert (data["paidAmount"], data["status"], data["anomaly"]) == (paid_amount, "EXPIRED", "paid_late")


def test_an_anomaly_without_a_known_rate_has_no_fiat_amount() -> None:
    """Null rather than made up."""
    payment = late_payment()
    data = json.loads(anomaly_event(an_invoice(Status.EXPIRED, payments=(payment,)), payment, HEAD, TIP, URL)[1])[
        "data"
    ]
    assert (data["paidBtc"], data["paidAmount"], data["rate"]) == ("0.00050001", None, None)


def test_an_anomaly_of_a_btc_invoice_is_worth_its_btc() -> None:
    payment = late_payment()
    invoice = an_invoice(Status.EXPIRED, currency="BTC", amount=Decimal("0.00123456"), quote=None, payments=(payment,))
    data = json.loads(anomaly_event(invoice, payment, HEAD, TIP, URL)[1])["data"]
    assert (data["paidBtc"], data["paidAmount"], data["rate"]) == ("0.00050001", "0.00050001", None)


# The parts.


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (at(0), "2026-11-20T08:00:00Z"),
        (at(0) + timedelta(microseconds=999_999), "2026-11-20T08:00:00Z"),
        (datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), "2025-12-31T23:30:00Z"),
        (datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), "1999-12-31T23:59:59Z"),
    ],
)
def test_times_are_utc_and_whole_seconds(when: datetime, text: str) -> None:
    assert time_text(when) == text


@pytest.mark.parametrize(
    ("rate", "text"), [("50000", "50000"), ("50000.00", "50000"), ("81000.640", "81000.64"), ("1E+5", "100000")]
)
def test_a_rate_is_shown_without_exponent_and_idle_zeros(rate: str, text: str) -> None:
    assert rate_text(an_invoice(Status.NEW, quote=replace(QUOTE, rate=Decimal(rate)))) == text


@pytest.mark.parametrize(
    ("reference", "uri"),
    [
        (None, "bitcoin:bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080?amount=0.00000005"),
        ("", "bitcoin:bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080?amount=0.00000005"),
        ("a&amount=9", "bitcoin:bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080?amount=0.00000005&label=a%26amount%3D9"),
        (
            "ä/☕ #1",
            "bitcoin:bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080?amount=0.00000005&label=%C3%A4%2F%E2%98%95%20%231",
        ),
    ],
)
def test_the_payment_uri(reference: str | None, uri: str) -> None:
    """A reference cannot say how much is to be paid."""
    assert bip21(an_invoice(Status.NEW, reference=reference), 5) == uri


@pytest.mark.parametrize(
    ("status", "amount"),
    [(Status.NEW, "0.00123456"), (Status.UNDERPAID, "0.00023456"), (Status.CONFIRMED, "0.00123456")],
)
def test_the_payment_uri_asks_for_what_is_missing(status: Status, amount: str) -> None:
    """And for all of it when nothing is missing."""
    assert f"?amount={amount}&" in invoice_document(an_invoice(status), TIP, URL)["bip21"]


@pytest.mark.parametrize(
    ("tx", "state", "confirmations", "gone_by"),
    [
        (in_mempool("A"), "mempool", 0, None),
        (in_block("A", "104a"), "confirmed", 2, None),
        (replaced("A", "X"), "replaced", 0, named("X")[::-1].hex()),
        (conflicted("A", 104, "X"), "conflicted", 0, named("X")[::-1].hex()),
        (evicted("A", 5), "evicted", 0, None),
    ],
)
def test_a_payment_says_where_it_is(tx: TxFacts, state: str, confirmations: int, gone_by: str | None) -> None:
    """txids in display order, so that they can be pasted into an explorer."""
    invoice = an_invoice(Status.NEW, payments=(pays(tx),))
    shown = invoice_document(invoice, TIP, URL)["payments"][0]
    assert (shown["state"], shown["confirmations"], shown["goneBy"]) == (state, confirmations, gone_by)
    assert shown["txid"] == named("A")[::-1].hex()
    assert (shown["blockHeight"] is None) == (shown["blockHash"] is None) == (state != "confirmed")


def test_an_invoice_has_the_least_confirmations_of_what_counts() -> None:
    """A stray payment in the mempool takes nothing away."""
    payments = (*PAYMENTS[Status.CONFIRMED], replace(pays(in_mempool("C"), 5), judged=True))
    assert invoice_document(an_invoice(Status.CONFIRMED, payments=payments), TIP, URL)["confirmations"] == 2


# Size and spelling.


def test_a_body_stays_below_the_bound_whatever_comes() -> None:
    """1,000 payments, and every text as long as the API takes it, in its longest spelling."""
    payments = tuple(
        replace(
            pays(in_block(f"tx{number}", "100000a"), 21 * 10**14, vout=2**32 - 1), anomaly="paid_after_final",
            resolution=Resolution.REFUNDED,
        )
        for number in range(1000)
    )  # fmt: skip
    said = "it says " + "\N{MONEY BAG}" * 100
    evidence = tuple(
        Evidence(source, Decimal("81000.64000001"), at(-25), Verdict.TOO_OLD, said).document()
        for source in ("kraken", "coinbase", "bitstamp", "url", "fixed")
    )
    invoice = an_invoice(
        Status.INVALID, payments=payments, terms=Terms(21 * 10**14, at(0), 1), labels=tuple(Label),
        quote=replace(QUOTE, source="kraken, coinbase, bitstamp, url, fixed", evidence=evidence),
        payment_rates={payments[0].key: QUOTE.rate}, address="bcrt1p" + "q" * 58,
        reference="\N{MONEY BAG}" * 200, description="\1" * 1000,
        redirect_url="https://shop.example/" + "\\" * 1979, notification_url="https://shop.example/" + '"' * 1979,
        metadata={"text": "\1" * 680},
        required_reasons=("a sentence of usual length that says why it needs so many confirmations",) * 3,
        standing=replace(PAID[Status.INVALID], raised_to=1, factors=worst_factors()),
    )  # fmt: skip
    for body in (
        status_event(invoice, HEAD, 900_000, URL)[1],
        anomaly_event(invoice, payments[0], HEAD, 900_000, URL)[1],
    ):
        data = json.loads(body)["data"]
        assert len(body) <= BODY_BYTES_MAX
        assert (len(data["payments"]), data["paymentCount"]) == (MAX_PAYMENTS_SHOWN, 1000)
    assert data["payments"][-1]["txid"] == named("tx999")[::-1].hex()  # the newest are shown
    assert data["payment"]["txid"] == named("tx0")[::-1].hex()  # and the one that it is about


def worst_factors() -> tuple[Factor, ...]:
    """All there are, and all against."""
    around = Circumstances("main", False, True, 21 * 10**14, 21 * 10**14, 0)
    return assess([(bytes(32), a_measurement(version=2**32 - 1, lock_time=2**32 - 1)), (bytes(32), None)], around)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(text, text, st.dictionaries(text, st.one_of(text, st.integers(), st.none(), st.lists(text))))
def test_any_text_comes_back_as_it_was(reference: str, description: str, metadata: dict[str, object]) -> None:
    """UTF-8, valid JSON, nothing lost; the URI stays plain ASCII."""
    invoice = an_invoice(Status.NEW, reference=reference, description=description, metadata=metadata)
    data = json.loads(status_event(invoice, HEAD, TIP, URL)[1].decode())["data"]
    assert (data["reference"], data["description"], data["metadata"]) == (reference, description, metadata)
    assert data["bip21"].isascii()
    assert data["bip21"].count("&") == bool(reference)


def test_the_same_facts_give_the_same_bytes() -> None:
    """So that a body can be frozen, signed and sent again."""
    one, other = (status_event(an_invoice(Status.CONFIRMED), HEAD, TIP, URL) for _ in range(2))
    assert one == other
