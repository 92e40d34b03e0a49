"""Where notifications may be sent: the rules for URLs and addresses, without clock, socket or name lookup.

Two callers: the API when a URL is registered (`check_notification_url`, for a good message early), and the notifier's
guard, which asks again at each POST (`check_url`) and immediately before each connection
(`is_allowed_target`, the layer that holds: a name may answer with another address each time).

The table of addresses is our own, since `ipaddress.is_global` lets some special-purpose networks pass. It
follows the IANA's special-purpose registries for IPv4 and IPv6 (RFC 6890 and its updates) and adds multicast.
Of IPv6 only 2000::/3 is in use on the public internet, so all else is refused without being listed. An IPv6
address that carries an IPv4 address is judged by that one: to block the NAT64 prefix as a whole would cut off
networks that have nothing else.
"""

import ipaddress
import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import unquote

from yarl import URL

from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured, Rejected

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

URL_LENGTH_MAX = 2000  # characters; what common servers take in a request line, with room for the rest
PORTS = frozenset({80, 443, 8443})  # elsewhere only in networks that the operator has opened


def _table(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part) for part in text.split())


_SPECIAL = _table(
    """0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
       192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
       2001::/23 2001:db8::/32 3fff::/20"""
)
_IPV6_IN_USE = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")

# Link-local networks and the addresses at which clouds hand out credentials: only an allowed network that
# lies wholly inside opens them, so that 100.64.0.0/10, fd00::/8 or 0.0.0.0/0 do not.
_OPENED_ONLY_BY_NAME = _table(
    """169.254.0.0/16 100.100.100.200/32 192.0.0.192/32 fe80::/10 fd00:ec2::254/128 fd20:ce::254/128"""
)

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(\.{_LABEL})*\.?")
_LOCALHOST = re.compile(r"(.*\.)?(localhost|localdomain)\.?|ip6-(localhost|loopback)\.?")
_AUTHORITY_END = re.compile(r"[/?]")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_EXAMPLE = "write it like https://shop.example/webhooks"
_OWN_PATHS = ("/api/v1/", "/pay/")  # below public_url; what else is on that host may be the shop's
_ANY_HOST = frozenset({"", "0.0.0.0", "::", "localhost"})  # noqa: S104 (listeners that hear loopback, none is opened)


def check_notification_url(url: str, settings: Settings) -> None:
    """Raise `Rejected`, with what to write instead as the hint, unless `url` may be registered.

    As `check_url`, and it is not paywatch's own: that would take no notification, and hide that none arrives.
    """
    check_url(url, settings.allow_http_targets, settings.allow_targets)
    asked = URL(url)
    if _is_listener(asked, settings) or _is_public_api(asked, settings.public_url):
        raise Rejected("the URL is paywatch's own address", "name the page of your shop that takes notifications")


@lru_cache(maxsize=1024)  # the notifier asks the same again and again; refusals are not kept
def check_url(url: str, allow_http: bool, allow_targets: tuple[str, ...]) -> None:  # noqa: FBT001 (as the setting)
    """Raise `Rejected`, with what to write instead as the hint, unless `url` may be notified.

    `allow_http` and `allow_targets` are the settings `allow_http_targets` and `allow_targets`. A name passes
    here whatever it resolves to; the guard judges its addresses.
    """
    parsed = _parsed(url)
    if parsed.scheme not in ({"https", "http"} if allow_http else {"https"}):
        raise Rejected(f"the scheme {parsed.scheme!r} is not allowed", _EXAMPLE)
    if "@" in _AUTHORITY_END.split(url.partition("//")[2])[0]:
        raise Rejected("the URL holds a user name or password", "leave them out: notifications are signed")
    host, port = parsed.raw_host or "", parsed.port or 0
    address = _literal(host)
    if address is None:
        _check_name(host, allow_targets)
    elif not is_allowed_address(address, allow_targets):
        raise Rejected(f"the address {host} is not on the public internet", "name a host that is")
    if not (port in PORTS or _may_use_any_port(address, port, allow_targets)):
        raise Rejected(f"the port {port} is not allowed", "use port 443, 8443 or 80")


def is_allowed_target(address: str, port: int, allow_targets: tuple[str, ...]) -> bool:
    """Whether a connection to this address and port may be opened; for use immediately before connecting."""
    parsed = _literal(address)
    if parsed is None or not is_allowed_address(parsed, allow_targets):
        return False
    return port in PORTS or _may_use_any_port(parsed, port, allow_targets)


def is_allowed_address(address: Address, allow_targets: tuple[str, ...]) -> bool:
    """Whether the address is on the public internet or in a network that the operator has opened.

    Raises `Misconfigured` when `allow_targets` holds something else than networks.
    """
    embedded = _embedded(address)
    if embedded:
        return all(is_allowed_address(inner, allow_targets) for inner in embedded)
    return _is_public(address) or _is_opened(address, allow_targets)


@lru_cache
def networks(allow_targets: tuple[str, ...]) -> tuple[Network, ...]:
    """The setting `allow_targets`, read. Raises `Misconfigured` with the text that is not a network."""
    try:
        return tuple(ipaddress.ip_network(text) for text in allow_targets)
    except ValueError as error:
        raise Misconfigured(f"allow_targets: {error}", "write networks such as 10.0.0.0/8") from None


def _parsed(url: str) -> URL:
    """The URL as aiohttp will read it: both use yarl, so there is no second opinion on what the host is."""
    if len(url) > URL_LENGTH_MAX:
        raise Rejected(f"the URL is longer than {URL_LENGTH_MAX} characters", _EXAMPLE)
    if any(not mark.isprintable() or mark in " \\" for mark in url):
        raise Rejected("the URL holds a space, a backslash or a control character", "percent-encode it")
    if any(not mark.isprintable() for mark in unquote(url, errors="replace")):
        raise Rejected("the URL holds a percent-encoded control character", "leave it out")
    if "#" in url:
        raise Rejected("the URL holds a fragment", "leave out the # and what follows: no server would see it")
    try:
        return URL(url)
    except ValueError:
        raise Rejected("the URL cannot be read", _EXAMPLE) from None


def _is_listener(asked: URL, settings: Settings) -> bool:
    """Whether the API itself listens there, reached without a proxy."""
    host, own = _host(asked), settings.api_host.lower()
    address, own_address = _literal(host), _literal(own)
    if asked.port != settings.api_port:
        return False
    if own in _ANY_HOST or (own_address and own_address.is_loopback):
        return _LOCALHOST.fullmatch(host) is not None or (address is not None and _is_loopback(address))
    return host == own


def _is_public_api(asked: URL, public_url: str) -> bool:
    """Whether a request would end at the API, or at a payment page, as `public_url` has them."""
    try:
        public = URL(public_url)
    except ValueError:
        return False
    if (asked.scheme, _host(asked), asked.port) != (public.scheme, _host(public), public.port):
        return False
    return f"{asked.path}/".startswith(tuple(public.path.rstrip("/") + path for path in _OWN_PATHS))


def _host(url: URL) -> str:
    return (url.raw_host or "").rstrip(".")


def _is_loopback(address: Address) -> bool:
    return any(inner.is_loopback for inner in (address, *_embedded(address)))


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_name(host: str, allow_targets: tuple[str, ...]) -> None:
    if not _NAME.fullmatch(host):
        raise Rejected("the URL names no valid host", _EXAMPLE)
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise Rejected(f"{host} is a number where a name should be", "write an IPv4 address as 203.0.113.7")
    if _LOCALHOST.fullmatch(host) and not _loopback_is_opened(allow_targets):
        raise Rejected(f"{host} is this machine itself", "name a host on the public internet")


def _loopback_is_opened(allow_targets: tuple[str, ...]) -> bool:
    return any(_is_opened(ipaddress.ip_address(text), allow_targets) for text in ("127.0.0.1", "::1"))


def _may_use_any_port(address: Address | None, port: int, allow_targets: tuple[str, ...]) -> bool:
    """Only in opened networks. A name (None) may be in one; the guard will know."""
    if port == 0 or address is None:
        return port > 0 and bool(allow_targets)
    return all(_is_opened(inner, allow_targets) for inner in _embedded(address) or (address,))


def _embedded(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses inside an IPv6 one (RFC 4291 mapped, 6052 NAT64, 3056 6to4, 4380 Teredo)."""
    if isinstance(address, IPv4Address):
        return ()
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    carried = address.ipv4_mapped or address.sixtofour
    return (carried,) if carried else address.teredo or ()


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _IPV6_IN_USE:
        return False
    return not any(address in network for network in _SPECIAL)


def _is_opened(address: Address, allow_targets: tuple[str, ...]) -> bool:
    opened = networks(allow_targets)
    return any(address in network and not _is_too_wide(network, address) for network in opened)


def _is_too_wide(network: Network, address: Address) -> bool:
    """Whether `network` contains `address` only by containing a whole network that must be opened by name."""
    return any(address in closed and not _lies_in(network, closed) for closed in _OPENED_ONLY_BY_NAME)


def _lies_in(network: Network, outer: Network) -> bool:
    return network.network_address in outer and network.broadcast_address in outer
