"""The console's addresses."""

from aiohttp import web

from watcher.console import exceptions, health, invoice, notifications, payments, projects, settings, sign_in
from watcher.console.visits import Visit, public, see, signed_in


async def start(_visit: Visit) -> web.Response:
    """Who is signed in begins with the projects."""
    return see("/projects")


_PUBLIC = (
    ("GET", "/sign-in", sign_in.show_sign_in),
    ("POST", "/sign-in", sign_in.sign_in),
    ("POST", "/sign-out", sign_in.sign_out),
    ("GET", "/welcome/{token}", sign_in.show_welcome),
    ("POST", "/welcome/{token}", sign_in.welcome),
)

_SIGNED_IN = (
    ("GET", "/", start),
    ("GET", "/projects", projects.show),
    ("GET", "/projects/new", projects.show_new),
    ("POST", "/projects/new", projects.create),
    ("POST", "/projects/{id}/mode", projects.switch_mode),
    ("GET", "/projects/{id}", payments.show),
    ("GET", "/projects/{id}/invoices/new", payments.show_new),
    ("POST", "/projects/{id}/invoices/new", payments.create),
    ("GET", "/projects/{id}/notifications", notifications.show),
    ("GET", "/projects/{id}/exceptions", exceptions.show),
    ("POST", "/projects/{id}/exceptions/{payment}", exceptions.resolve),
    ("GET", "/projects/{id}/settings", settings.show),
    ("POST", "/projects/{id}/settings", settings.change),
    ("POST", "/projects/{id}/keys", settings.make_key),
    ("POST", "/projects/{id}/keys/{other}/revoke", settings.revoke_key),
    ("POST", "/projects/{id}/secrets", settings.rotate_secret),
    ("POST", "/projects/{id}/secrets/{other}/revoke", settings.revoke_secret),
    ("GET", "/health", health.show),
    ("GET", "/invoices/{id}", invoice.show),
    ("POST", "/invoices/{id}/confirm", invoice.confirm),
    ("POST", "/invoices/{id}/simulate", invoice.simulate),
    ("POST", "/invoices/{id}/cancel", invoice.cancel),
    ("POST", "/invoices/{id}/chain", invoice.act_on_chain),
    ("POST", "/deliveries/{id}/redeliver", invoice.redeliver),
)


def add_to(router: web.UrlDispatcher) -> None:
    """Serve the console's pages."""
    for method, path, handler in _PUBLIC:
        router.add_route(method, path, public(handler))
    for method, path, page in _SIGNED_IN:
        router.add_route(method, path, signed_in(page))
