"""The documentation page: complete, and it loads nothing."""

import re

from watcher.api.routes import BASE, ROUTES


async def test_it_shows_every_call_webhook_and_object(server, session):
    async with session.get(server.make_url("/docs")) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert "default-src 'none'" in policy
    for route in ROUTES:
        assert f"<code>{route.method} {BASE}{route.path}</code>" in text
    for shown in ("invoice.confirmed", "invoice.anomaly", "webhook-signature", "requiredConfirmations", "/readyz"):
        assert shown in text


async def test_its_links_lead_somewhere_and_nothing_comes_from_elsewhere(server, session):
    async with session.get(server.make_url("/docs")) as response:
        text = await response.text()
    anchors = set(re.findall(r'id="([^"]+)"', text))
    links = set(re.findall(r'href="#([^"]+)"', text))
    assert links <= anchors
    assert set(re.findall(r'(?:href|src)="(?!#)([^"]+)"', text)) == {"/api/v1/openapi.json"}
    assert "<script" not in text
