"""Where notifications may not be sent to, as who registers it is told; with the settings of production."""

import pytest

from tests.watcher.api.conftest import Shop
from tests.watcher.api.support import Client
from tests.watcher.runtime.spellings import FORBIDDEN_HOSTS
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool

OUTSIDE = "https://shop.example/hook"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Nothing inside is opened; http is allowed, so that it is never the scheme that is refused."""
    return settings.model_copy(update={"allow_targets": ()})


@pytest.fixture
async def shop(operator: Client) -> Shop:
    made = await operator.post("/projects", {"name": "shop", "notificationUrl": OUTSIDE})
    return Shop(made["id"], operator.with_key(made["apiKey"]), made["webhookSecret"])


async def refusals(operator: Client, shop: Shop, url: str) -> list[tuple[int, str]]:
    """The status and the field of each call that takes a notification URL."""
    order = {"amount": "1", "currency": "EUR", "notificationUrl": url}
    answers = [
        await operator.post("/projects", {"name": "other", "notificationUrl": url}),
        await operator.patch(f"/projects/{shop.id}", {"notificationUrl": url}),
        await shop.client.patch(f"/projects/{shop.id}", {"notificationUrl": url}),
        await shop.client.post("/invoices", order),
    ]
    return [(answer.status, answer.body["errors"][0]["field"] if answer.status == 422 else "") for answer in answers]


async def endpoints(pool: Pool) -> list[str]:
    return [row["url"] for row in await pool.fetch("SELECT url FROM endpoint")]


@pytest.mark.case(33)
async def test_no_spelling_of_this_machine_or_its_neighbours_is_registered(operator: Client, shop: Shop, pool: Pool):
    for scheme in ("https", "http"):
        for host in FORBIDDEN_HOSTS:
            found = await refusals(operator, shop, f"{scheme}://{host}/hook")
            assert found == [(422, "notificationUrl")] * 4, host
    assert await endpoints(pool) == [OUTSIDE]
    assert await pool.fetchval("SELECT count(*) FROM invoice") == 0


@pytest.mark.case(38)
@pytest.mark.parametrize(
    "url",
    [
        "http://user:pass@shop.example/", "https://shop.example:5432/", "https://shop.example:8332/",
        "https://shop.example:18443/", "file:///etc/passwd", "gopher://shop.example/",
        "https://shop.example/%0d%0aX: y", "https://shop.example/%0d%0aX:y", "https://shop.example/\r\nX: y", "https://shop.example/#part",
    ],
)  # fmt: skip
async def test_urls_that_are_none_are_not_registered(operator: Client, shop: Shop, pool: Pool, url: str):
    assert await refusals(operator, shop, url) == [(422, "notificationUrl")] * 4
    assert await endpoints(pool) == [OUTSIDE]


@pytest.mark.case(38)
async def test_paywatch_itself_is_not_registered(operator: Client, shop: Shop, pool: Pool):
    for url in ("https://pay.example/api/v1/projects", "https://pay.example/pay/inv_1"):
        assert await refusals(operator, shop, url) == [(422, "notificationUrl")] * 4
    assert await endpoints(pool) == [OUTSIDE]


@pytest.mark.case(39)
async def test_what_the_operator_has_opened_may_be_registered_and_nothing_else(
    operator: Client, shop: Shop, context, settings: Settings
):
    opened = settings.model_copy(update={"allow_targets": ("10.0.0.0/8",)})
    object.__setattr__(context, "settings", opened)
    for url in ("http://10.1.2.3/hook", "http://10.1.2.3:8000/hook"):
        assert (await shop.client.patch(f"/projects/{shop.id}", {"notificationUrl": url})).status == 200
    for host in ("127.0.0.1", "169.254.169.254", "192.168.0.1", "localhost", "[::1]", "11.0.0.1:8000"):
        assert await refusals(operator, shop, f"http://{host}/hook") == [(422, "notificationUrl")] * 4


@pytest.mark.case(40)
@pytest.mark.parametrize("field", ["headers", "customHeaders", "notificationHeaders", "notificationUrlHeaders"])
@pytest.mark.parametrize("headers", [{"Host": "a"}, {"webhook-signature": "v1,x"}, {"X": "a\r\nY: b"}, ["X: y"]])
async def test_no_field_takes_headers(operator: Client, shop: Shop, field: str, headers: object):
    asked = {"name": "other", "notificationUrl": OUTSIDE, field: headers}
    order = {"amount": "1", "currency": "EUR", field: headers}
    for answer in (
        await operator.post("/projects", asked),
        await operator.patch(f"/projects/{shop.id}", {field: headers}),
        await shop.client.post("/invoices", order),
    ):
        assert (answer.status, answer["errors"][0]["field"]) == (422, field)


@pytest.mark.case(40)
async def test_no_field_of_the_documented_api_is_about_headers(operator: Client):
    """So that whoever adds one thinks of what may not be set."""
    schemas = (await operator.get("/openapi.json"))["components"]["schemas"]
    fields = {name for schema in schemas.values() for name in schema.get("properties", {})}
    assert fields
    assert [name for name in fields if "header" in name.lower()] == []
