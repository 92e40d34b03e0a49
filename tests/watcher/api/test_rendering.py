"""Pages and the files they load."""

import pytest

from watcher.api.rendering import asset_url, rendered


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("style.css", "text/css"), ("payment.js", "text/javascript"), ("icon.svg", "image/svg+xml")],
)
async def test_a_file_is_served_to_be_kept(server, session, name, content_type):
    async with session.get(server.make_url(asset_url(name))) as response:
        assert response.status == 200
        assert response.content_type == content_type
        assert "immutable" in response.headers["Cache-Control"]
        assert await response.read()


@pytest.mark.parametrize("name", ["nothing.css", "__init__.py", "..%2frendering.py"])
async def test_no_other_file_is_served(server, session, name):
    async with session.get(f"{server.make_url('/assets/')}{name}") as response:
        assert response.status == 404


def test_a_file_that_is_not_there_has_no_address():
    with pytest.raises(KeyError):
        asset_url("nothing.css")


def test_a_template_is_complete():
    assert "There is nothing here" in rendered("missing.html")
