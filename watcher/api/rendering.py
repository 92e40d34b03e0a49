"""Pages from templates: everything escaped, headers that allow our own files and nothing else, and those files."""

import hashlib
from importlib.resources import files
from typing import Any

import segno
from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_ASSETS = {
    file.name: (file.read_bytes(), _TYPES[file.name.rpartition(".")[2]])
    for file in files("watcher.api").joinpath("assets").iterdir()
    if file.name.rpartition(".")[2] in _TYPES
}

# No inline script or style, no frame, no form, no other origin.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

CONSOLE_POLICY = POLICY.replace("form-action 'none'", "form-action 'self'")

# How the console names the statuses, as merchants know them.
SHOWN_STATUS = {
    "NEW": "Created", "UNDERPAID": "Underpaid", "UNCONFIRMED": "Unconfirmed", "CONFIRMED": "Paid", "EXPIRED": "Expired",
    "INVALID": "Invalid",
}  # fmt: skip

# What a page says after a form was taken, by the word in its address.
WORDS = {
    "made": "The invoice was made.",
    "confirm": "The endpoint took the notification: the invoice is Paid.",
    "not-confirmed": "The endpoint did not take the notification: the invoice is still Created. Its answer is below.",
    "simulated": "The scenario was played: what follows are its events, without any coins.",
    "cancelled": "The invoice was cancelled.",
    "paid": "It is paid on the regtest chain: a moment, and the page shows it.",
    "mined": "A block was mined.",
    "sent-again": "The notification is sent again.",
    "decided": "It is decided, and kept with your reason.",
    "saved": "The settings are saved. Open invoices keep the terms they were made with.",
    "revoked": "It is revoked, and good for nothing any more.",
    "mode-live": "The project is live: only a full payment confirms an invoice.",
    "mode-test": "The project is in test mode: new invoices are tests.",
}


def page_headers(policy: str) -> dict[str, str]:
    """The headers of every page, beside its content's.

    No other site learns what page sent somebody. With `no-referrer` a browser would also keep the Origin of forms from
    us, and over plain http from another machine it sends no Sec-Fetch-Site: the console's own forms would be refused.
    """
    return {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "same-origin" if policy == CONSOLE_POLICY else "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


def html(text: str, *, status: int = 200, policy: str = POLICY) -> web.Response:
    """A page."""
    return web.Response(
        text=text, status=status, content_type="text/html", charset="utf-8", headers=page_headers(policy)
    )


def asset_url(name: str) -> str:
    """Where a file is: the address changes with the content, so that a browser may keep it. Raises `KeyError`."""
    return f"/assets/{name}?{hashlib.sha256(_ASSETS[name][0]).hexdigest()[:16]}"


def rendered(template: str, **values: Any) -> str:
    """A template of `templates/` with these values; one that it lacks is an error."""
    return _ENVIRONMENT.get_template(template).render(values)


def qr_code(uri: str) -> Markup:
    """The QR code as SVG: black on white, whatever the page's colours, since some wallets read no other."""
    code = segno.make_qr(uri, error="m").svg_inline(border=0, omitsize=True)
    return Markup(code)  # noqa: S704 (segno's own markup: the text is drawn, not written)


def moment(text: str) -> str:
    """A time of the API, for reading."""
    return text.replace("T", " ").replace("Z", " UTC")


async def asset(request: web.Request) -> web.Response:
    """Serve one of the files that pages load."""
    found = _ASSETS.get(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    body, content_type = found
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)


_ENVIRONMENT = Environment(
    loader=PackageLoader("watcher.api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_ENVIRONMENT.globals |= {"asset_url": asset_url, "shown_status": SHOWN_STATUS, "words": WORDS}
_ENVIRONMENT.filters["moment"] = moment
