import ipaddress

import pytest

from tests.watcher.runtime.spellings import FORBIDDEN_HOSTS
from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured, Rejected
from watcher.runtime.targets import check_notification_url, check_url, is_allowed_address, is_allowed_target

NOTHING: tuple[str, ...] = ()
LOOPBACK = ("127.0.0.0/8", "::1/128")

FORBIDDEN_URLS = [
    "", "shop.test", "//shop.test/", "https:", "https://", "https:///hook", "https:shop.test", "file:///etc/passwd",
    "ftp://shop.test/", "gopher://shop.test/", "data:text/plain,x", "javascript:alert(1)", "ws://shop.test/",
    "https://user:pass@shop.test/", "https://user@shop.test/", "https://@shop.test/", "https://:@shop.test/",
    "https://shop.test@127.0.0.1/", "https://127.0.0.1\\@shop.test/", "https://shop.test\\.evil.test/",
    "https://shop.test/#fragment", "https://shop.test/#", "https://shop.test/hook?a=1#b",
    "https://shop.test/%0d%0aX: y", "https://shop.test/%0D%0AX:y", "https://shop.test/%00", "https://shop.test/?a=%0a",
    "https://shop.test/a b", " https://shop.test/", "https://shop.test/\n", "https://sh\top.test/", "https://shop\u200b.test/",
    "https://shop.test:5432/", "https://shop.test:8332/", "https://shop.test:18443/", "https://shop.test:22/", "https://shop.test:0/",
    "https://shop.test:65536/", "https://shop.test:-1/", "https://shop.test:x/", "https://[::1/", "https://::1/",
    "https://.shop.test/", "https://shop..test/", "https://-/", "https://shop_/%zz\x7f", "https://*.shop.test/",
    "https://" + "a" * 64 + ".test/", "https://" + "a." * 130 + "test/", "https://shop.test/" + "a" * 2000,
    "https://xn--/", "https://1.2.3/", "https://shop.test.0x1/", "https://shop.123/",
]  # fmt: skip

ALLOWED_URLS = [
    "https://shop.test", "https://shop.test/", "https://SHOP.test/Hook", "https://shop.test:443/hook",
    "https://shop.test:8443/hook?token=a%20b&x=1", "https://shop.test:80/", "https://shop.test./hook",
    "https://bücher.test/ärger", "https://xn--bcher-kva.test/", "https://a-b.c-d.test/~x/!$&'()*+,;=:@", "https://a_b.test/",
    "https://intranet/", "https://1.1.1.1/", "https://192.0.1.1/", "https://172.32.0.1/", "https://100.128.0.1/",
    "https://[2606:4700::1111]/", "https://[64:ff9b::1.1.1.1]/", "https://[2002:101:101::1]/", "https://[::ffff:1.1.1.1]/",
    "https://127.0.0.1.shop.test/", "https://localhost.shop.test/", "https://notlocalhost/", "https://123.shop.test/",
]  # fmt: skip


def test_there_are_enough_spellings():
    assert len(set(FORBIDDEN_HOSTS)) >= 60


@pytest.mark.case(33)
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_no_spelling_of_an_inner_address_passes(host: str):
    with pytest.raises(Rejected) as caught:
        check_url(f"https://{host}/hook", False, NOTHING)
    assert caught.value.hint


@pytest.mark.case(38)
@pytest.mark.parametrize("url", FORBIDDEN_URLS)
def test_urls_that_are_none(url: str):
    with pytest.raises(Rejected) as caught:
        check_url(url, True, NOTHING)
    assert caught.value.hint


@pytest.mark.parametrize("url", ALLOWED_URLS)
def test_urls_on_the_public_internet_pass(url: str):
    check_url(url, False, NOTHING)


OWN_URLS = [
    "https://pay.example/api/v1", "https://pay.example/api/v1/", "https://pay.example/api/v1/invoices?a=1",
    "https://PAY.example:443/api/v1/projects", "https://pay.example./api/v1/projects", "https://pay.example/x/../api/v1/a",
    "https://pay.example/%61pi/v1/a", "https://pay.example/pay/inv_1", "http://127.0.0.1:8480/", "http://localhost:8480/hook",
    "http://[::1]:8480/hook", "http://[::ffff:127.0.0.1]:8480/hook", "http://127.0.0.2:8480/hook",
]  # fmt: skip
OTHER_URLS = [
    "https://pay.example/hook", "https://pay.example/", "https://pay.example/api/v10/a", "https://pay.example:8443/api/v1/a",
    "http://pay.example/api/v1/a", "https://shop.example/api/v1/a", "https://a.pay.example/api/v1/a",
    "http://127.0.0.1:8481/api/v1/a", "http://localhost:9000/pay/x", "https://shop.example:8480/hook",
]  # fmt: skip


def ours(public_url: str = "https://pay.example", **changes: object) -> Settings:
    values = {"allow_http_targets": True, "allow_targets": LOOPBACK, "public_url": public_url, **changes}
    return Settings(database_url="", **values)


@pytest.mark.case(38)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::"])
@pytest.mark.parametrize("url", OWN_URLS)
def test_paywatch_does_not_notify_itself(url: str, host: str):
    with pytest.raises(Rejected, match="paywatch's own address") as caught:
        check_notification_url(url, ours(api_host=host))
    assert caught.value.hint


@pytest.mark.parametrize("url", OTHER_URLS)
def test_what_else_is_on_its_host_may_be_notified(url: str):
    check_notification_url(url, ours())


def test_below_a_path_of_its_own_too():
    settings = ours(public_url="https://shop.example/btc/")
    check_notification_url("https://shop.example/api/v1/hook", settings)
    with pytest.raises(Rejected, match="own address"):
        check_notification_url("https://shop.example/btc/api/v1/hook", settings)


@pytest.mark.parametrize("public_url", ["", "pay.example", "nonsense:", "https://[", "https://pay.example:x"])
def test_without_a_public_url_the_listener_alone_is_its_own(public_url: str):
    check_notification_url("https://pay.example/api/v1", ours(public_url=public_url))
    with pytest.raises(Rejected, match="own address"):
        check_notification_url("http://127.0.0.1:8480/api/v1", ours(public_url=public_url))


@pytest.mark.parametrize("host", ["10.0.0.9", "paywatch.lan"])
def test_a_listener_elsewhere_is_its_own_there(host: str):
    settings = ours(api_host=host, allow_targets=("10.0.0.0/8", *LOOPBACK))
    check_notification_url("http://127.0.0.1:8480/hook", settings)
    with pytest.raises(Rejected, match="own address"):
        check_notification_url(f"http://{host}:8480/hook", settings)


def test_a_notification_url_is_a_url_first():
    with pytest.raises(Rejected, match="not on the public internet"):
        check_notification_url("http://10.0.0.1/hook", ours())


def test_http_only_when_the_operator_says_so():
    with pytest.raises(Rejected, match="scheme 'http'"):
        check_url("http://shop.test/", False, NOTHING)
    check_url("http://shop.test/", True, NOTHING)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
def test_opened_loopback_may_be_named_with_any_port(host: str):
    check_url(f"http://{host}:32768/hook", True, LOOPBACK)


@pytest.mark.case(39)
@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.0.0.5", True), ("10.255.255.255", True), ("::ffff:10.0.0.5", True), ("64:ff9b::a00:5", True),
        ("127.0.0.1", False), ("169.254.169.254", False), ("192.168.0.1", False), ("::1", False), ("1.1.1.1", True),
    ],
)  # fmt: skip
def test_opening_10_opens_nothing_else(*, address: str, allowed: bool):
    assert is_allowed_address(ipaddress.ip_address(address), ("10.0.0.0/8",)) is allowed


@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        (("0.0.0.0/0", "::/0"), "192.168.0.1", True),
        (("0.0.0.0/0", "::/0"), "169.254.169.254", False),
        (("0.0.0.0/0", "::/0"), "fe80::1", False),
        (("0.0.0.0/0", "::/0"), "::ffff:169.254.169.254", False),
        (("169.254.0.0/16",), "169.254.169.254", True),
        (("169.254.7.0/24",), "169.254.7.1", True),
        (("169.254.7.0/24",), "169.254.169.254", False),
        (("100.64.0.0/10",), "100.64.0.1", True),
        (("100.64.0.0/10",), "100.100.100.200", False),
        (("fd00::/8",), "fd12::1", True),
        (("fd00::/8",), "fd00:ec2::254", False),
        (("fd00:ec2::254/128",), "fd00:ec2::254", True),
    ],
)
def test_link_local_and_metadata_are_opened_by_name_only(*, networks: tuple[str, ...], address: str, allowed: bool):
    assert is_allowed_address(ipaddress.ip_address(address), networks) is allowed


@pytest.mark.parametrize(
    ("address", "port", "allowed"),
    [
        ("1.1.1.1", 443, True), ("1.1.1.1", 80, True), ("1.1.1.1", 8443, True), ("1.1.1.1", 5432, False),
        ("127.0.0.1", 5432, True), ("127.0.0.1", 0, False), ("::1", 8332, True), ("::ffff:127.0.0.1", 8332, True),
        ("10.0.0.1", 443, False), ("fe80::1%lo", 443, False), ("not an address", 443, False), ("", 443, False),
    ],
)  # fmt: skip
def test_a_connection_is_judged_by_address_and_port(*, address: str, port: int, allowed: bool):
    assert is_allowed_target(address, port, LOOPBACK) is allowed


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "everything", "", "::1/129"])
def test_a_setting_that_is_no_network_is_named(text: str):
    with pytest.raises(Misconfigured, match="allow_targets"):
        is_allowed_address(ipaddress.ip_address("10.0.0.1"), (text,))
