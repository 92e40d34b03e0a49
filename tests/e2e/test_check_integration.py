"""`paywatch check-integration` against endpoints that are right, and others that have one fault each."""

import json
import os

import pytest

from notifier.rules.probes import ADVICE, Check
from tests.docs.shop import Shop
from tests.e2e.merchants import Merchant, opened
from tests.notifier.certificates import Authority
from tests.regtest.running import Done, Running, paywatch

pytestmark = pytest.mark.regtest

SECONDS = 150  # for a check, on a machine that others use too
SCENARIOS = {
    f"scenario {name}"
    for name in (
        "paid", "underpaid-completed", "unconfirmed", "overpaid", "expired", "paid-late", "confirm-without-payment",
    )
}  # fmt: skip


STUTTERED = "invoice.anomaly was answered 500"


@pytest.fixture(scope="module")
async def up(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("up") / "environment")
    await running.start("--port", "0")
    yield running
    await running.delete()


@pytest.fixture
def check(up):
    """Run the command on a project."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PAYWATCH_")}
    settings |= {"PAYWATCH_CONFIG": str(up.directory / "paywatch.toml")}

    async def run(project_id: str, *arguments: str) -> Done:
        return await paywatch(
            "check-integration", "--project", project_id, *arguments, environment=settings, seconds=SECONDS
        )

    return run


async def project_of(up: Running, merchant: Merchant, **fields) -> str:
    project = await up.api.post("/projects", {"name": "shop", "notificationUrl": merchant.url, **fields})
    merchant.secret = project["webhookSecret"]
    return project["id"]


def found(done: Done) -> dict[str, dict]:
    return {line["check"]: line for line in map(json.loads, done.output.splitlines())}


def named(lines: dict[str, dict], verdict: str) -> set[str]:
    return {name for name, line in lines.items() if line["verdict"] == verdict}


@pytest.mark.timeout(300)
async def test_a_good_endpoint_passes_everything(up, check):
    async with opened(Merchant()) as merchant:
        done = await check(await project_of(up, merchant), "--json")
        lines = found(done)
        assert (done.code, named(lines, "pass")) == (0, set(Check) | SCENARIOS), done.errors
        assert not any("advice" in line for line in lines.values())
        bodies = [json.loads(body) for _, body, _ in merchant.received]
        assert all(body["data"]["test"] is True for body in bodies)
        for invoice_id in {body["data"]["invoiceId"] for body in bodies}:
            assert (await up.api.get(f"/invoices/{invoice_id}"))["test"]
        agents = {headers["user-agent"].partition("/")[0] for headers, _, _ in merchant.received}
        assert agents == {"paywatch"}
        assert any("check-integration" in headers["user-agent"] for headers, _, _ in merchant.received)


ONE_LINE = {
    "trusts": {Check.BAD_SIGNATURE},
    "looks": {Check.WRONG_SECRET, Check.CHANGED_BODY},
    "optional": {Check.MISSING_HEADERS},
    "timeless": {Check.OLD_TIMESTAMP},
    "rewritten": {Check.RAW_BYTES},
    "rewritten compactly": {Check.RAW_BYTES},
    "first signature": {Check.SIGNATURES},
    "known types": {Check.UNKNOWN_TYPES},
    "known fields": {Check.UNKNOWN_FIELDS},
    "duplicate": {Check.DUPLICATE},
    "overlapping": {Check.AT_ONCE},
    "redirect": {Check.NO_REDIRECT},
    "forbids": {Check.ACCEPTS},
    "absent": {Check.REACHABLE},
    "untrusted": {Check.REACHABLE},
    "slow": {Check.REACHABLE},
}


@pytest.mark.parametrize("fault", ONE_LINE)
async def test_each_fault_fails_on_its_own_line(up, check, fault, tmp_path):
    async with opened(Merchant(fault), Authority(tmp_path).server(signed=False)) as merchant:
        done = await check(await project_of(up, merchant), "--json", "--no-scenarios")
        lines = found(done)
        assert (done.code, named(lines, "fail")) == (1, ONE_LINE[fault]), done
        assert set(lines) == set(Check)
        for name in ONE_LINE[fault]:
            assert lines[name]["advice"] == ADVICE[name] or fault in ("absent", "untrusted")


async def test_the_fault_of_a_connection_is_told_apart(up, check, tmp_path):
    said = {}
    for fault in ("absent", "untrusted"):
        async with opened(Merchant(fault), Authority(tmp_path).server(signed=False)) as merchant:
            lines = found(await check(await project_of(up, merchant), "--json", "--no-scenarios"))
            said[fault] = lines[Check.REACHABLE]["advice"]
            assert named(lines, "not judged") == set(Check) - {Check.REACHABLE}
    assert "the server behind it runs" in said["absent"]
    assert "a certificate that is trusted" in said["untrusted"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("fault", "line"), [("order", Check.OLDER), ("stutters", "scenario paid-late")])
async def test_what_only_whole_scenarios_show(up, check, fault, line):
    async with opened(Merchant(fault)) as merchant:
        lines = found(await check(await project_of(up, merchant), "--json"))
        assert named(lines, "fail") == {line}
    assert lines[line]["seen"].startswith("sequence 1 after 2: answered 409" if fault == "order" else STUTTERED)
    assert named(lines, "pass") == (set(Check) | SCENARIOS) - {line}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["", "stutters"])
async def test_where_nobody_can_pay_scenarios_are_simulated(up, check, fault):
    failed = {"scenario paid-late"} if fault else set()
    await up.rpc.call("unloadwallet", "payer")
    try:
        async with opened(Merchant(fault)) as merchant:
            lines = found(await check(await project_of(up, merchant), "--json"))
            assert {lines[name]["seen"] for name in named(lines, "fail")} == ({STUTTERED} if failed else set())
            assert named(lines, "fail") == failed
            assert named(lines, "pass") == (set(Check) | SCENARIOS) - failed
            payments = [json.loads(body)["data"]["payments"] for _, body, _ in merchant.received]
        assert all(payment["simulated"] for paid in payments for payment in paid)
    finally:
        await up.rpc.call("loadwallet", "payer")


async def test_people_read_what_to_mend(up, check):
    async with opened(Merchant("duplicate")) as merchant:
        done = await check(await project_of(up, merchant), "--no-scenarios")
    assert "fail        duplicate: the same event again: answered 500 in " in done.output
    assert "            mend: An event may come twice. Keep the webhook-id in the transaction" in done.output
    assert done.output.splitlines()[-1] == "13 pass, 1 fail, 1 not judged"


@pytest.mark.timeout(300)
async def test_the_sample_shop_passes(up, check, tmp_path):
    shop = Shop(tmp_path, {"PAYWATCH_API": up.links["api"], "PAYWATCH_OPERATOR_KEY": up.links["operatorKey"]})
    await shop.start()
    try:
        projects = (await up.api.get("/projects"))["items"]
        project_id = next(one["id"] for one in projects if one["notificationUrl"] == f"{shop.url}/webhook")
        done = await check(project_id, "--json")
        assert (done.code, named(found(done), "pass")) == (0, set(Check) | SCENARIOS), done.output
    finally:
        await shop.kill()


async def test_a_live_project_and_an_unknown_one_are_refused(up, check):
    live = await project_of(up, Merchant("absent"))
    done = await paywatch(
        "project", "set", live, "--mode", "live",
        environment=os.environ | {"PAYWATCH_CONFIG": str(up.directory / "paywatch.toml")},
    )  # fmt: skip
    assert done.code == 0, done.errors
    refused, unknown = await check(live), await check("prj_00000000000000000000000000")
    assert (refused.code, unknown.code) == (4, 3)
    assert "is in live mode" in refused.errors


async def test_a_disabled_endpoint_is_told(up, check):
    async with opened(Merchant("gone")) as merchant:
        project_id = await project_of(up, merchant)
        first = found(await check(project_id, "--json", "--no-scenarios"))
        assert named(first, "fail") == {Check.ACCEPTS}
        done = await check(project_id)
    assert done.code == 4
    assert "it is disabled" in done.errors
    assert f"paywatch endpoint list --project {project_id}" in done.errors


async def test_a_project_in_bitcoin_is_looked_at_in_bitcoin(up, check):
    async with opened(Merchant()) as merchant:
        project_id = await project_of(up, merchant, currency="BTC")
        assert (await check(project_id, "--no-scenarios")).code == 0
        assert {json.loads(body)["data"]["currency"] for _, body, _ in merchant.received} == {"BTC"}
