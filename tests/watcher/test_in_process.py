"""The same call over HTTP and in process: one document, one refusal."""

import json

import pytest

# ruff: noqa: F811 (fixtures are asked for by their names)
from tests.support import ENCRYPTION_KEY
from tests.watcher.api.conftest import (  # noqa: F401 (fixtures)
    addresses,
    context,
    operator,
    server,
    session,
    settings,
    shop,
    witness,
)
from tests.watcher.api.support import HOOK
from tests.watcher.world import World
from watcher.administration import NotFound
from watcher.in_process import Office, office
from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured, PaywatchError, Rejected, Unavailable

VOLATILE = ("id", "createdAt", "expiresAt", "rateAt", "address", "bip21", "paymentUrl", "apiKey", "webhookSecret")


def steady(document: dict) -> dict:
    return {name: value for name, value in document.items() if name not in VOLATILE}


async def both(operator, inside: Office, method: str, path: str, object_id: str = "", *, query="", body=None):
    """(status, document) over HTTP, and the document or the error of the same call in process."""
    asked = path.replace("{id}", object_id)
    outside = await operator.ask(method, f"{asked}?{query}" if query else asked, body)
    pairs = dict(part.split("=", 1) for part in query.split("&")) if query else {}
    try:
        told = await inside.call(method, path, object_id, query=pairs, body=body)
    except PaywatchError as error:
        return outside, error
    return outside, told


async def test_what_is_made_and_read_is_the_same(operator, shop, context):
    inside = Office(context)
    order = {"projectId": shop.id, "amount": "12.50", "currency": "EUR", "reference": "order-1", "metadata": {"a": 1.5}}
    change = {"tolerance": {"underPercent": "0.5"}, "confirmationPolicy": {"unconfirmedCap": None}, "mode": "live"}
    made, same = await both(operator, inside, "POST", "/invoices", body=order)
    assert steady(same) == steady(made.body)
    project = {"name": "x", "notificationUrl": HOOK, "currency": "JPY", "anomalyConfirmations": 7}
    made_project, same = await both(operator, inside, "POST", "/projects", body=project)
    assert steady(same) == steady(made_project.body)
    assert same.keys() == made_project.body.keys()
    for method, path, object_id, more in (
        ("GET", "/invoices/{id}", made["id"], {}),
        ("GET", "/invoices", "", {"query": f"projectId={shop.id}&limit=1"}),
        ("GET", "/projects/{id}", shop.id, {}),
        ("GET", "/projects", "", {"query": "limit=2"}),
        ("PATCH", "/projects/{id}", shop.id, {"body": change}),
        ("GET", "/projects/{id}/balance", shop.id, {}),
        ("GET", "/projects/{id}/report", shop.id, {}),
    ):
        outside, same = await both(operator, inside, method, path, object_id, **more)
        assert (outside.status, same) == (200, outside.body), path


UNKNOWN = "prj_" + 26 * "0"

WRONG = [
    ("POST", "/projects", "", {"body": {"name": "x"}}, Rejected),
    ("POST", "/projects", "", {"body": {"name": "x", "notificationUrl": "http://10.0.0.1/"}}, Rejected),
    ("POST", "/projects", "", {"body": {"name": "x", "notificationUrl": HOOK, "descriptor": "wrong"}}, Rejected),
    ("POST", "/invoices", "", {"body": {"amount": "1", "currency": "EUR"}}, Rejected),
    ("POST", "/invoices", "", {"body": {"amount": "1", "currency": "EUR", "projectId": UNKNOWN}}, NotFound),
    ("GET", "/projects/{id}", UNKNOWN, {}, NotFound),
    ("GET", "/projects/{id}", "nonsense", {}, NotFound),
    ("GET", "/invoices", "", {"query": "status=PAID&limit=0"}, Rejected),
    ("GET", "/invoices", "", {"query": "cursor=x"}, Rejected),
    ("PATCH", "/projects/{id}", "shop", {"body": {"evictionLimitHours": 0}}, Rejected),
    ("GET", "/projects/{id}/report", "shop", {"query": "from=yesterday"}, Rejected),
]


@pytest.mark.parametrize(("method", "path", "object_id", "more", "error"), WRONG)
async def test_what_is_refused_is_refused_in_the_same_words(
    operator, shop, context, method, path, object_id, more, error
):
    outside, told = await both(
        operator, Office(context), method, path, shop.id if object_id == "shop" else object_id, **more
    )
    assert outside.status in (404, 422)
    assert (type(told), told.message) == (error, outside["detail"])


async def test_what_is_away_is_unavailable(operator, context, addresses):
    addresses.is_away = True
    asked = {"name": "x", "notificationUrl": HOOK, "descriptor": "another"}
    with pytest.raises(Unavailable, match="bitcoind is away"):
        await Office(context).call("POST", "/projects", body=asked)


async def test_what_cannot_be_stored_is_refused_as_over_the_wire(context):
    """The command line gives bytes that are no UTF-8 as lone surrogates."""
    with pytest.raises(Rejected, match="name: holds a NUL character or half a surrogate pair"):
        await Office(context).call("POST", "/projects", body={"name": "\udcff", "notificationUrl": HOOK})
    with pytest.raises(Rejected, match="reference: holds"):
        await Office(context).call("GET", "/invoices", query={"reference": "\udcff"})


async def test_a_table_is_that_of_the_api(operator, context, pool):
    world = await World.begin(pool)
    world.send(await world.tx("A", (await world.invoice(1000), 1000)))
    await world.look()
    table = Office(context).table("/projects/{id}/report", world.project_id, {})
    text = "".join([part async for part in table])
    assert text == (await operator.get(f"/projects/{world.project_id}/report?format=csv")).body
    assert text.count("\r\n") == 2
    with pytest.raises(NotFound):
        await anext(Office(context).table("/projects/{id}/report", UNKNOWN, {}))


async def test_an_office_asks_the_node_only_when_it_must(database_url, pool):
    """Listing needs no login for bitcoind; a new descriptor does."""
    async with office(Settings(database_url=database_url, network="regtest", encryption_keys=ENCRYPTION_KEY)) as opened:
        assert json.dumps(await opened.call("GET", "/projects")) == '{"items": [], "nextCursor": null}'
        with pytest.raises(Misconfigured, match="no login for bitcoind"):
            await opened.call(
                "POST",
                "/projects",
                body={"name": "x", "notificationUrl": "https://shop.example", "descriptor": "wpkh(a/*)"},
            )
