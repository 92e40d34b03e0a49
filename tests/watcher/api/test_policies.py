"""A project's settings over HTTP: defaults, changes that leave the rest, and refusals that say what to write."""

import asyncio
from decimal import Decimal

import pytest

from regtest.chain import Chain
from tests.watcher.api.conftest import Shop, new_shop
from tests.watcher.api.support import HOOK, Client
from watcher.api.schemas.answers import Project
from watcher.bitcoind.addresses import NodeAddressSource
from watcher.bitcoind.rpc import BitcoindRpc

ASKED = {"name": "shop", "notificationUrl": HOOK}
TOLERANCE = {"underSat": 0, "underPercent": "0", "overSat": 0, "overPercent": "0"}
DEFAULTS = {
    "confirmationPolicy": {
        "tiers": [{"upTo": "100.00", "confirmations": 0}], "above": 1, "unconfirmedCap": "1000.00",
    },
    "tolerance": TOLERANCE,
    "anomalyConfirmations": 2,
    "evictionLimitHours": 72,
}  # fmt: skip


def tiers(*pairs: tuple[str, int], above: int = 1, **more: object) -> dict[str, object]:
    listed = [{"upTo": up_to, "confirmations": confirmations} for up_to, confirmations in pairs]
    return {"confirmationPolicy": {"tiers": listed, "above": above, **more}}


def shown(project: dict[str, object]) -> dict[str, object]:
    return {name: project[name] for name in DEFAULTS}


async def test_a_project_that_says_nothing_has_the_defaults(operator: Client, shop: Shop):
    project = (await operator.get(f"/projects/{shop.id}")).body
    Project.model_validate(project)
    assert shown(project) == DEFAULTS


@pytest.mark.parametrize(
    ("currency", "cap", "upto"), [("JPY", "1000", "100"), ("KWD", "1000.000", "100.000"), ("BTC", "0.02000000", None)]
)
async def test_the_defaults_are_in_the_projects_currency(operator, currency, cap, upto):
    """100 bitcoin accepted unconfirmed would be no default: a project in BTC has no tiers."""
    shop = await new_shop(operator, currency=currency)
    policy = (await operator.get(f"/projects/{shop.id}"))["confirmationPolicy"]
    listed = [{"upTo": upto, "confirmations": 0}] if upto else []
    assert policy == {"tiers": listed, "above": 1, "unconfirmedCap": cap}


async def test_what_is_shown_of_a_project_in_btc_may_be_sent_back(operator):
    shop = await new_shop(operator, currency="BTC")
    before = (await operator.get(f"/projects/{shop.id}")).body
    sent = {name: before[name] for name in DEFAULTS}
    assert (await operator.patch(f"/projects/{shop.id}", sent)).body == before
    made = await shop.client.post("/invoices", {"amount": "1.00000000", "currency": "BTC"})
    assert made["requiredConfirmations"] == 1


async def test_only_the_number_above_the_tiers_of_a_project_in_btc_is_changed(operator):
    shop = await new_shop(operator, currency="BTC")
    changed = await operator.patch(f"/projects/{shop.id}", {"confirmationPolicy": {"above": 3}})
    assert changed["confirmationPolicy"] == {"tiers": [], "above": 3, "unconfirmedCap": "0.02000000"}
    made = await shop.client.post("/invoices", {"amount": "0.00001000", "currency": "BTC"})
    assert made["requiredConfirmations"] == 3


OWN = tiers(("10.00", 0), ("1000.00", 2), above=6, unconfirmedCap="250.00") | {
    "tolerance": {"underSat": 100, "underPercent": "0.125", "overSat": 100_000, "overPercent": "20"},
    "anomalyConfirmations": 100,
    "evictionLimitHours": 336,
}  # fmt: skip


async def test_every_setting_is_given_when_a_project_is_made(operator):
    made = await operator.post("/projects", ASKED | OWN)
    assert made.status == 201, made.body
    assert shown(made.body) == OWN
    assert shown((await operator.get(f"/projects/{made['id']}")).body) == OWN


@pytest.mark.parametrize(
    "given", [{}, {"above": 6}, {"tiers": [{"upTo": "10.00", "confirmations": 0}]}, {"unconfirmedCap": "7.00"}, None]
)
async def test_what_a_new_project_leaves_out_of_its_policy_has_its_default(operator, given):
    made = await operator.post("/projects", ASKED | {"confirmationPolicy": given})
    assert (made.status, made["confirmationPolicy"]) == (201, DEFAULTS["confirmationPolicy"] | (given or {}))


@pytest.mark.parametrize("cap", [None, "0.50"])
async def test_a_cap_is_left_out_or_none_or_a_sum(operator, cap):
    left_out = await operator.post("/projects", ASKED | tiers(("10", 0)))
    assert left_out["confirmationPolicy"]["unconfirmedCap"] == "1000.00"
    given = await operator.post("/projects", ASKED | tiers(("10", 0), unconfirmedCap=cap))
    assert given["confirmationPolicy"]["unconfirmedCap"] == cap


@pytest.mark.parametrize(
    "change",
    [
        tiers(("5.00", 1)), {"confirmationPolicy": {"above": 4}}, {"confirmationPolicy": {"unconfirmedCap": None}},
        {"confirmationPolicy": {"unconfirmedCap": "1.00"}}, {"tolerance": {"underSat": 7}},
        {"tolerance": {"overPercent": "1.5"}}, {"anomalyConfirmations": 1}, {"evictionLimitHours": 1},
        {"name": "other"}, {"confirmationPolicy": {}}, {"tolerance": {}}, {"tolerance": None},
    ],
)  # fmt: skip
async def test_a_change_of_one_setting_leaves_the_others(operator, change):
    shop = await new_shop(operator, **OWN)
    expected = OWN | {
        name: value if not isinstance(value, dict) else OWN[name] | value
        for name, value in change.items() if name in OWN and value is not None
    }  # fmt: skip
    changed = await operator.patch(f"/projects/{shop.id}", change)
    assert (changed.status, shown(changed.body)) == (200, expected)
    assert shown((await operator.get(f"/projects/{shop.id}")).body) == expected


async def test_a_projects_own_key_may_change_all_of_them(shop: Shop):
    changed = await shop.client.patch(f"/projects/{shop.id}", OWN)
    assert (changed.status, shown(changed.body)) == (200, OWN)


async def test_changes_at_the_same_time_lose_nothing(operator, shop):
    """Each reads the policy, changes its part and writes the whole."""
    changes = [
        {"confirmationPolicy": {"above": 9}}, {"tolerance": {"underSat": 1}}, {"tolerance": {"overSat": 2}},
        {"tolerance": {"underPercent": "3"}}, {"anomalyConfirmations": 4}, {"evictionLimitHours": 5},
        {"confirmationPolicy": {"unconfirmedCap": "6.00"}}, {"name": "seven"},
    ]  # fmt: skip
    answers = await asyncio.gather(*(operator.patch(f"/projects/{shop.id}", change) for change in changes))
    assert {answer.status for answer in answers} == {200}
    project = (await operator.get(f"/projects/{shop.id}")).body
    assert project["name"] == "seven"
    assert shown(project) == {
        "confirmationPolicy": DEFAULTS["confirmationPolicy"] | {"above": 9, "unconfirmedCap": "6.00"},
        "tolerance": {"underSat": 1, "underPercent": "3", "overSat": 2, "overPercent": "0"},
        "anomalyConfirmations": 4,
        "evictionLimitHours": 5,
    }


async def test_a_change_is_for_new_invoices_and_leaves_those_that_are_open(operator, shop, pool):
    order = {"amount": "50.00", "currency": "EUR"}  # 100,000 sat
    first = (await shop.client.post("/invoices", order)).body
    terms = "SELECT to_jsonb(i) - 'id' AS terms FROM invoice i WHERE id = $1"
    before = await pool.fetchval(terms, first["id"])
    await operator.patch(f"/projects/{shop.id}", OWN)
    assert await pool.fetchval(terms, first["id"]) == before
    assert (await shop.client.get(f"/invoices/{first['id']}")).body == first
    second = (await shop.client.post("/invoices", order)).body
    row = await pool.fetchrow("SELECT * FROM invoice WHERE id = $1", second["id"])
    assert (second["requiredConfirmations"], row["anomaly_confirmations"], row["eviction_limit_hours"]) == (2, 100, 336)
    assert (row["tolerance_under_sat"], row["tolerance_over_sat"]) == (125, 100_000)
    assert row["unconfirmed_cap_sat"] == 500_000
    assert second["toleranceBtc"] == {"under": "0.00000125", "over": "0.00100000"}
    assert first["toleranceBtc"] == {"under": "0.00000000", "over": "0.00000000"}


AMOUNT = 'write a number above zero as a string, such as "12.50"'
PERCENT = 'write a number from 0 to 20 with at most three decimals as a string, such as "0.5"'
CENTS = 'EUR amounts have at most 2 decimals, such as "12.50"'
ORDER = "write the tiers in ascending order of upTo, each amount once"

REFUSED = [
    (tiers(("100", 0), ("50", 1)), "confirmationPolicy.tiers", f"50 comes after 100: {ORDER}"),
    (tiers(("100", 0), ("100.00", 1)), "confirmationPolicy.tiers", f"100.00 comes after 100: {ORDER}"),
    (tiers(("0.001", 0)), "confirmationPolicy.tiers.0.upTo", CENTS),
    (tiers(("-1", 0)), "confirmationPolicy.tiers.0.upTo", AMOUNT),
    (tiers(("1", -1)), "confirmationPolicy.tiers.0.confirmations", "write a number of at least 0"),
    (tiers(above=101), "confirmationPolicy.above", "write a number of at most 100"),
    (tiers(above="1"), "confirmationPolicy.above", "write a whole number, without quotation marks"),
    (tiers(*((str(n), 0) for n in range(1, 22))), "confirmationPolicy.tiers", "give at most 20"),
    (tiers(unconfirmedCap="0.001"), "confirmationPolicy.unconfirmedCap", CENTS),
    (tiers(unconfirmedCap=1000), "confirmationPolicy.unconfirmedCap", AMOUNT),
    (tiers(unconfirmedCap="-5"), "confirmationPolicy.unconfirmedCap", AMOUNT),
    ({"confirmationPolicy": []}, "confirmationPolicy", "write a JSON object, in braces"),
    ({"confirmationPolicy": {"teirs": []}}, "confirmationPolicy.teirs", "is not a field that this call takes"),
    ({"tolerance": {"underSat": -1}}, "tolerance.underSat", "write a number of at least 0"),
    ({"tolerance": {"overSat": 100_001}}, "tolerance.overSat", "write a number of at most 100000"),
    ({"tolerance": {"underSat": 0.5}}, "tolerance.underSat", "write a whole number, without quotation marks"),
    ({"tolerance": {"underPercent": "-1"}}, "tolerance.underPercent", PERCENT),
    ({"tolerance": {"underPercent": 0.5}}, "tolerance.underPercent", PERCENT),
    ({"tolerance": {"overPercent": 1}}, "tolerance.overPercent", PERCENT),
    ({"tolerance": {"overPercent": "20.001"}}, "tolerance.overPercent", PERCENT),
    ({"tolerance": {"overPercent": "100"}}, "tolerance.overPercent", PERCENT),
    ({"tolerance": {"underPercent": "0.0001"}}, "tolerance.underPercent", PERCENT),
    ({"tolerance": {"underPercent": "1e1"}}, "tolerance.underPercent", PERCENT),
    ({"tolerance": "1"}, "tolerance", "write a JSON object, in braces"),
    ({"anomalyConfirmations": 0}, "anomalyConfirmations", "write a number of at least 1"),
    ({"anomalyConfirmations": 101}, "anomalyConfirmations", "write a number of at most 100"),
    ({"evictionLimitHours": 0}, "evictionLimitHours", "write a number of at least 1"),
    ({"evictionLimitHours": 337}, "evictionLimitHours", "write a number of at most 336"),
    ({"evictionLimitHours": "72"}, "evictionLimitHours", "write a whole number, without quotation marks"),
]  # fmt: skip


async def test_wrong_settings_are_refused_and_told_what_to_write(operator, shop, pool):
    """Alike for a new project and for a change, and nothing is changed by them."""
    before = (await operator.get(f"/projects/{shop.id}")).body
    for wrong, field, message in REFUSED:
        for answer in (
            await operator.post("/projects", ASKED | wrong), await operator.patch(f"/projects/{shop.id}", wrong),
        ):  # fmt: skip
            told = [error for error in answer["errors"] if error["field"].startswith(field)]
            assert (answer.status, told) == (422, [{"field": field, "message": message}]), wrong
    assert (await operator.get(f"/projects/{shop.id}")).body == before
    assert await pool.fetchval("SELECT count(*) FROM project") == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"currency": "EURO"}, "write an ISO 4217 code such as EUR, or BTC"),
        ({"currency": "eur"}, "write an ISO 4217 code such as EUR, or BTC"),
        ({"currency": "JPY"} | tiers(("0.5", 0)), 'JPY amounts have no decimals, such as "12"'),
        ({"currency": "BTC"} | tiers(("0.000000001", 0)), AMOUNT),
        ({"name": ""}, "is empty"),
        ({"notificationUrl": "shop.example"}, "write an http or https URL in ASCII, such as https://shop.example/paid"),
    ],
)
async def test_other_fields_of_a_project_that_are_wrong(operator, wrong, message):
    answer = await operator.post("/projects", ASKED | wrong)
    assert (answer.status, [error["message"] for error in answer["errors"]]) == (422, [message])


async def test_an_invoice_asks_for_no_negative_confirmations(shop):
    order = {"amount": "50.00", "currency": "EUR"}
    for confirmations, message in ((-1, "write a number of at least 0"), (101, "write a number of at most 100")):
        answer = await shop.client.post("/invoices", order | {"confirmations": confirmations})
        assert (answer.status, answer["errors"]) == (422, [{"field": "confirmations", "message": message}])


@pytest.mark.parametrize(
    ("path", "field", "message"),
    [
        ("/invoices?cursor=x", "cursor", "give the nextCursor of the answer before, as it was"),
        ("/projects?cursor=x", "cursor", "give the nextCursor of the answer before, as it was"),
        ("/anomalies?cursor=x", "cursor", "give the nextCursor of the answer before, as it was"),
        ("/events?after=x", "after", "give the nextCursor of the answer before, as it was"),
        ("/invoices?projectId=x", "projectId", "write an id such as prj_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ("/deliveries?invoiceId=x", "invoiceId", "write an id such as inv_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        (
            "/deliveries?state=x",
            "state",
            "write 'pending', 'in_flight', 'held', 'failing', 'delivered', 'dead' or 'cancelled'",
        ),
        ("/invoices?limit=x", "limit", "write a whole number"),
        ("/invoices?limit=0", "limit", "write a number of at least 1"),
    ],
)
async def test_a_query_that_is_wrong_is_told_what_to_write(shop, path, field, message):
    answer = await shop.client.get(path)
    assert (answer.status, answer["errors"]) == (422, [{"field": field, "message": message}])


# Descriptors, as a real node understands them; keys of the test vectors of BIP 32.

TPUB = "tpubD6NzVbkrYhZ4XgiXtGrdW5XDAPFCL9h7we1vwNCpn8tGbBcgfVYjXyhWo4E1xkh56hjod1RhGjxbaTLV3X4FyWuejifB9jusQ46QzG87VKp"
XPUB = "xpub661MyMwAqRbcFtXgS5sYJABqqG9YLmC4Q1Rdap9gSE8NqtwybGhePY2gZ29ESFjqJoCu1Rupje8YtGqsefD265TMg7usUDFdp6W1EGMcet8"
XPRV = "xprv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVvvNKmPGJxWUtg6LnF5kejMRNNU3TGtRBeJgk33yuGBxrMPHi"
ZPUB = "zpub6rFR7y4Q2AijBEqTUquhVz398htDFrtymD9xYYfG1m4wAcvPhXNfE3EfH1r1ADqtfSdVCToUG868RvUUkgDKf31mGDtKsAYz2oz2AGutZYs"
SINGLE_KEYS = (
    "cMahea7zqjxrtgAbB7LSGbcQUr1uX1ojuat9jZodMN87JcbXMTcA",
    "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWn",
)
EXAMPLE = "wpkh([d34db33f/84h/0h/0h]xpub…/0/*)"
PRIVATE = (
    "the descriptor holds private keys, which paywatch must never see; write the public descriptor: "
    "`listdescriptors` of a wallet shows it, with xpub in place of xprv"
)
HARDENED = (
    "the descriptor has a hardened step (h or ') behind its public key, which only the private key can take; put "
    f"hardened steps before the key, in brackets, and end it with /*, such as {EXAMPLE}"
)
CHECKSUM = (
    "the checksum behind # does not fit the descriptor, so one of them was not copied as it was; copy the whole "
    "descriptor with its checksum again"
)
SINGLE = (
    f"the descriptor gives a single address, and every invoice needs its own; end the key with /*, such as {EXAMPLE}"
)
NONSENSE = (
    "this is not a valid output descriptor: 'tpubD6NzVbkr…' is not a valid descriptor function; write one such as "
    f"{EXAMPLE}"
)
OTHER_NETWORK = (
    "the descriptor's key begins with xpub, which is of another network than regtest; write that of a wallet on "
    "regtest, such as wpkh([d34db33f/84h/0h/0h]tpub…/0/*)"
)
OTHER_FORM = (
    "the descriptor's key begins with zpub, a form that bitcoind does not read; write the same key in its usual form, "
    f"tpub…: the kind of address is told by the descriptor's function, such as {EXAMPLE}"
)

WRONG_DESCRIPTORS = [
    (f"wpkh({XPRV}/0/*)", PRIVATE),  # of another network, too
    *((f"wpkh({key})", PRIVATE) for key in SINGLE_KEYS),
    (
        f"wpkh({XPUB}/0/*)",
        OTHER_NETWORK,
    ),
    (
        f"wpkh({ZPUB}/0/*)",
        OTHER_FORM,
    ),
    (f"wpkh({TPUB}/0/5)", SINGLE),
    ("addr(bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202)", SINGLE),
    (
        f"wpkh({TPUB}/<0;1>/*)",
        f"the descriptor has more than one path (<…;…>); name the receiving path alone, such as {EXAMPLE}",
    ),
    (f"wpkh({TPUB}/0/*h)", HARDENED),
    (f"wpkh({TPUB}/0h/*)", HARDENED),
    (f"wpkh({TPUB}/0'/*)", HARDENED),
    (f"wpkh({TPUB}/0/*)#aaaaaaaa", CHECKSUM),
    (f"wpkh({TPUB}/0/*)#aaa", CHECKSUM),
    (
        TPUB,
        NONSENSE,
    ),
]  # fmt: skip


@pytest.mark.regtest
async def test_wrong_descriptors_are_refused_and_told_what_to_write(operator, context, node, pool):
    async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
        object.__setattr__(context, "source", NodeAddressSource(rpc, "regtest"))
        for descriptor, message in WRONG_DESCRIPTORS:
            answer = await operator.post("/projects", ASKED | {"descriptor": descriptor})
            assert (answer.status, answer["errors"]) == (422, [{"field": "descriptor", "message": message}])
        assert await pool.fetchval("SELECT count(*) FROM project") == 0
        assert (await operator.post("/projects", ASKED | {"descriptor": f"wpkh({TPUB}/0/*)"})).status == 201


@pytest.mark.regtest
async def test_a_private_descriptor_of_a_wallet_is_refused_and_not_repeated(operator, context, chain: Chain, node):
    listed = await chain.payer.call("listdescriptors", True)
    private = next(entry["desc"] for entry in listed["descriptors"] if "tprv" in entry["desc"])
    async with BitcoindRpc(node.rpc_url, (node.rpc_user, node.rpc_password)) as rpc:
        object.__setattr__(context, "source", NodeAddressSource(rpc, "regtest"))
        answer = await operator.post("/projects", ASKED | {"descriptor": private})
    assert (answer.status, answer["errors"]) == (422, [{"field": "descriptor", "message": PRIVATE}])


def test_what_a_percentage_becomes_is_exact():
    from watcher.api.policies import changed_policy
    from watcher.api.schemas.requests import ProjectChange
    from watcher.rules.policy import Policy

    asked = ProjectChange.model_validate({"tolerance": {"underPercent": "0.125"}})
    assert changed_policy(Policy(), asked, "EUR").tolerance.under_percent == Decimal("0.125")
