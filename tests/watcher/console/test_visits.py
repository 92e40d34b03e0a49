"""Who may see what, and which forms are taken."""

import pytest

from watcher.console.routes import _SIGNED_IN

ORDER = {"amount": "10.00", "currency": "EUR"}


@pytest.fixture
async def places(shop, pool) -> dict[str, str]:
    """What stands for each id in the console's paths: things of the project `shop`."""
    invoice = (await shop.client.post("/invoices", ORDER)).body
    await shop.client.post(f"/invoices/{invoice['id']}/cancel", {"reason": "test"})
    delivery = (await shop.client.get("/deliveries"))["items"][0]["id"]
    return {"projects": shop.id, "invoices": invoice["id"], "deliveries": delivery}


def filled(path: str, places: dict[str, str]) -> str:
    collection = path.split("/")[1]
    return (
        path.replace("{id}", places.get(collection, ""))
        .replace("{payment}", "a1" * 32 + ":0")
        .replace("{other}", "key_01M7WQ6HTQY71YCHXQZN66ZEXZ")
    )


OWN = [(method, path) for method, path, _ in _SIGNED_IN if "{id}" in path]


async def test_without_a_session_there_is_nothing(visitor, places):
    for method, path, _ in _SIGNED_IN:
        if method == "GET":
            assert (await visitor.get(filled(path, places))).path.startswith("/sign-in"), path
        else:
            shown = await visitor.post(filled(path, places), mode="live", reason="x")
            assert shown.status == 401, path
            assert "not signed in" in shown.words


async def test_what_is_somebody_elses_is_not_there(mallory, shop, places):
    before = (await shop.client.get(f"/projects/{shop.id}")).body
    fields = {"mode": "live", "reason": "x", "resolution": "accepted", "amount": "1", "currency": "EUR"}
    for method, path in OWN:
        place = filled(path, places)
        shown = await (mallory.get(place) if method == "GET" else mallory.post(place, **fields))
        assert shown.status == 404, path
        assert not any(one in shown.text for one in (before["name"], before["notificationUrl"])), path
    assert (await shop.client.get(f"/projects/{shop.id}")).body == before
    assert len((await shop.client.get("/invoices"))["items"]) == 1
    assert len((await shop.client.get("/deliveries"))["items"]) == 1
    assert shop.id not in (await mallory.get("/projects")).text


async def test_the_owner_and_an_operator_see_it(alice, boss, places):
    for path in [path for method, path in OWN if method == "GET"]:
        assert (await alice.get(filled(path, places))).status == 200, path
        assert (await boss.get(filled(path, places))).status == 200, path


async def test_a_form_from_elsewhere_is_refused(alice, shop, server):
    own = f"http://{server.host}:{server.port}"
    for headers in (
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": own},
    ):
        shown = await alice.post(f"/projects/{shop.id}/mode", headers=headers, mode="live")
        assert shown.status == 403, headers
    assert (await shop.client.get(f"/projects/{shop.id}"))["mode"] == "test"


async def test_an_old_browser_is_known_by_the_origin(alice, shop, server):
    shown = await alice.post(
        f"/projects/{shop.id}/mode", headers={"Origin": f"http://{server.host}:{server.port}"}, mode="live"
    )
    assert shown.path == "/projects?done=mode-live"


async def test_what_is_not_there_is_404(alice):
    for path in ("/invoices/x", "/projects/x", "/invoices/inv_01M7WQ6HTQY71YCHXQZN66ZEXZ", "/nothing"):
        assert (await alice.get(path)).status == 404, path


async def test_every_page_forbids_what_it_does_not_need(alice, shop, places):
    for path in ("/projects", f"/projects/{shop.id}", f"/invoices/{places['invoices']}", "/health", "/sign-in"):
        shown = await alice.get(path)
        policy = shown.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "form-action 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert shown.headers["Cache-Control"] == "no-store"
        assert " onclick=" not in shown.text
        assert " style=" not in shown.text


async def test_a_failure_of_ours_is_a_page_without_internals(alice, monkeypatch, caplog):
    async def broken(*_arguments):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("watcher.store.projects.find", broken)
    shown = await alice.get("/projects")
    assert shown.status == 500
    assert "secret detail" not in shown.text
