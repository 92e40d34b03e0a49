"""`paywatch project` and `paywatch invoice` as an operator types them, on a real database and a real node."""

import asyncio
import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regtest.chain import Chain
from regtest.node import Node
from tests.support import ENCRYPTION_KEY
from tests.watcher.test_cli import paywatch
from tests.watcher.world import World
from watcher.commands import flat, lines, table
from watcher.runtime.db import Pool
from watcher.runtime.ids import new_id
from watcher.store.witness import Witness

pytestmark = pytest.mark.regtest

HOOK = "https://93.184.216.34/hook"
DUE = 100_000

Run = Callable[..., Any]


@pytest.fixture
def run(database_url: str, node: Node) -> Run:
    async def done(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        wanted = {
            "database_url": database_url, "network": "regtest", "bitcoind_url": node.rpc_url, "fixed_rate": "50000",
            "bitcoind_user": node.rpc_user, "bitcoind_password": node.rpc_password, "log_format": "json",
            "public_url": "https://pay.example", "encryption_keys": ENCRYPTION_KEY,
        } | settings  # fmt: skip
        return await asyncio.to_thread(paywatch, *arguments, **wanted)

    return done


@pytest.fixture
async def descriptor(chain: Chain) -> str:
    return await chain.receiving_descriptor()


@pytest.fixture
async def made(run: Run, descriptor: str) -> dict[str, Any]:
    """A project, by the command."""
    done = await run(
        "project", "create", "--name", "shop", "--notification-url", HOOK, "--descriptor", descriptor, "--json"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def words(text: str) -> dict[str, str]:
    """Lines of a name and a value."""
    return {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines()}


async def test_a_project_is_made_with_all_its_settings(run: Run, descriptor: str):
    done = await run(
        "project", "create", "--name", "my shop", "--notification-url", HOOK, "--descriptor", descriptor,
        "--currency", "JPY", "--tier", "1000=0", "--tier", "5000=1", "--above", "6", "--unconfirmed-cap", "none",
        "--tolerance-under-sat", "5", "--tolerance-under-percent", "0.5", "--tolerance-over-sat", "7",
        "--tolerance-over-percent", "20", "--anomaly-confirmations", "3", "--eviction-limit-hours", "24",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told = words(done.stdout)
    assert told["apiKey"].startswith("pw_project_")
    assert told["webhookSecret"].startswith("whsec_")
    shown = await run("project", "show", told["id"], "--json")
    project = json.loads(shown.stdout)
    assert (project["name"], project["mode"], project["currency"]) == ("my shop", "test", "JPY")
    assert project["confirmationPolicy"] == {
        "tiers": [{"upTo": "1000", "confirmations": 0}, {"upTo": "5000", "confirmations": 1}], "above": 6,
        "unconfirmedCap": None,
    }  # fmt: skip
    assert project["tolerance"] == {"underSat": 5, "underPercent": "0.5", "overSat": 7, "overPercent": "20"}
    assert (project["anomalyConfirmations"], project["evictionLimitHours"]) == (3, 24)
    in_words = words((await run("project", "show", told["id"])).stdout)
    assert in_words == {name: " ".join(text.split()) for name, text in flat(project).items()}


async def test_what_is_set_is_told_and_the_rest_stays(run: Run, made: dict[str, Any]):
    done = await run("project", "set", made["id"], "--tolerance-under-sat", "100", "--mode", "live", "--above", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "mode: test -> live", "confirmationPolicy.above: 1 -> 2", "tolerance.underSat: 0 -> 100",
    ]  # fmt: skip
    again = await run("project", "set", made["id"], "--tolerance-under-sat", "100")
    assert (again.returncode, again.stdout) == (0, "nothing has changed\n")
    tiers = await run("project", "set", made["id"], "--tier", "none", "--unconfirmed-cap", "5", "--json")
    assert json.loads(tiers.stdout)["confirmationPolicy"] == {"tiers": [], "above": 2, "unconfirmedCap": "5.00"}


WRONG = [
    (("--tier", "100=1", "--tier", "50=0"), 4, "50 comes after 100: write the tiers in ascending order of upTo"),
    (("--tolerance-over-percent", "21"), 4, "tolerance.overPercent: write a number from 0 to 20"),
    (("--tolerance-under-sat", "-1"), 4, "tolerance.underSat: write a number of at least 0"),
    (("--eviction-limit-hours", "999"), 4, "evictionLimitHours: write a number of at most 336"),
    (("--mode", "real"), 4, "mode: write 'test' or 'live'"),
    (("--notification-url", "http://127.0.0.1/"), 4, "notificationUrl: "),
    (("--tier", "100"), 2, "write an amount, = and a number, such as 100=0"),
    (("--above", "x"), 2, "--above"),
]


async def test_what_is_wrong_changes_nothing(run: Run, made: dict[str, Any]):
    for arguments, code, said in WRONG:
        done = await run("project", "set", made["id"], *arguments)
        assert (done.returncode, said in done.stderr, done.stdout) == (code, True, ""), done.stderr
        assert "Traceback" not in done.stderr
    shown = json.loads((await run("project", "show", made["id"], "--json")).stdout)
    assert shown == {name: value for name, value in made.items() if name not in ("apiKey", "webhookSecret")}


async def test_errors_have_their_exit_codes(run: Run, postgres):
    for project_id in (new_id("prj"), "prj_x"):
        unknown = await run("project", "show", project_id)
        assert (unknown.returncode, unknown.stderr) == (3, "error: there is no such project\n")
    wrong = await run("project", "create", "--name", "x", "--notification-url", HOOK, "--descriptor", "wpkh(nonsense)")
    assert (wrong.returncode, wrong.stderr.startswith("error: descriptor: this is not a valid")) == (4, True)
    usage = await run("project", "create", "--name", "x")
    assert usage.returncode == 2
    away = await run("project", "list", database_url="postgresql://u:p@127.0.0.1:1/x")
    assert away.returncode == 69
    no_node = await run(
        "project", "create", "--name", "x", "--notification-url", HOOK, "--descriptor", "wpkh(tpubx/0/*)",
        bitcoind_url="http://127.0.0.1:1",
    )  # fmt: skip
    assert (no_node.returncode, "Traceback" in no_node.stderr) == (69, False)
    no_schema = await run("invoice", "list", database_url=postgres.url)
    assert (no_schema.returncode, "paywatch db upgrade" in no_schema.stderr) == (78, True)


async def test_lists_are_tables_with_a_place_to_go_on(run: Run, made: dict[str, Any], descriptor: str):
    second = await run("project", "create", "--name", "b", "--notification-url", HOOK, "--descriptor", descriptor)
    first_page = await run("project", "list", "--limit", "1")
    newest = words(second.stdout)["id"]
    assert first_page.stdout.splitlines() == [f"{newest}  test  EUR  b", f"more: --cursor {newest}"]
    rest = await run("project", "list", "--cursor", newest, "--json")
    assert [item["id"] for item in json.loads(rest.stdout)["items"]] == [made["id"]]
    assert (await run("invoice", "list")).stdout == "none\n"
    wrong = await run("project", "list", "--limit", "0")
    assert (wrong.returncode, wrong.stderr) == (4, "error: limit: write a number of at least 1\n")


async def test_invoices_are_made_shown_and_listed(run: Run, made: dict[str, Any]):
    done = await run(
        "invoice", "create", "--project", made["id"], "--amount", "12.50", "--currency", "EUR", "--reference",
        "order 1", "--expires-in", "60", "--confirmations", "2", "--metadata", '{"basket": [1]}', "--json",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    invoice = json.loads(done.stdout)
    assert (invoice["btc"], invoice["requiredConfirmations"], invoice["metadata"]) == ("0.00025000", 2, {"basket": [1]})
    assert json.loads((await run("invoice", "show", invoice["id"], "--json")).stdout) == invoice
    told = words((await run("invoice", "show", invoice["id"])).stdout)
    assert (told["status"], told["reference"], told["payments"]) == ("NEW", "order 1", "none")
    listed = await run("invoice", "list", "--project", made["id"], "--status", "NEW", "--reference", "order 1")
    assert listed.stdout == f"{invoice['id']}  NEW  12.50  EUR  0.00000000  order 1\n"
    assert (await run("invoice", "list", "--label", "test")).stdout == listed.stdout
    assert (await run("invoice", "list", "--label", "late")).stdout == "none\n"
    for arguments, code, said in (
        (("--amount", "12.505", "--currency", "EUR"), 4, "amount: EUR amounts have at most 2 decimals"),
        (("--amount", "12", "--currency", "EURO"), 4, "currency: write an ISO 4217 code such as EUR, or BTC"),
        (("--amount", "12", "--currency", "EUR", "--metadata", "{"), 2, "write a JSON object"),
        (("--amount", "12", "--currency", "EUR", "--metadata", "[]"), 4, "metadata: write a JSON object, in braces"),
        (("--amount", "12", "--currency", "EUR", "--confirmations", "-1"), 4, "confirmations: write a number of at"),
    ):
        wrong = await run("invoice", "create", "--project", made["id"], *arguments)
        assert (wrong.returncode, said in wrong.stderr, wrong.stdout) == (code, True, ""), wrong.stderr


async def test_only_a_new_invoice_touches_the_state_directory(run: Run, made: dict[str, Any], tmp_path: Path):
    """It notes its address there, as the API does."""
    state = tmp_path / "state"
    assert (await run("project", "show", made["id"], state_directory=str(state))).returncode == 0
    assert not state.exists()
    order = ("--amount", "1", "--currency", "EUR")
    done = await run("invoice", "create", "--project", made["id"], *order, state_directory=str(state))
    assert done.returncode == 0, done.stderr
    with Witness(str(state)) as witness:
        assert witness.next_index(made["descriptor"]) == 1


async def test_balance_and_report_are_those_of_the_ledger(run: Run, pool):
    world = await World.begin(pool)
    invoice = await world.invoice(DUE, confirmations=1)
    await pool.execute("UPDATE invoice SET reference = '=1+1'")
    payment = await world.tx("A", (invoice, DUE))
    for step in (lambda: world.mine(payment), lambda: world.reorg(1, (), ()), lambda: world.mine(payment)):
        step()
        await world.look()
        world.wait(minutes=1)
    balance = words((await run("project", "balance", world.project_id)).stdout)
    assert balance == {"confirmed": "0.00100000", "pending": "0.00000000", "held": "0.00000000", "test": "0.00000000"}
    lines = [line.split() for line in (await run("project", "report", world.project_id)).stdout.splitlines()]
    assert [line[1:4] for line in lines[:3]] == [
        ["confirmed", "0.00100000", "50.00"],
        ["reversed", "-0.00100000", "-50.00"],
        ["confirmed", "0.00100000", "50.00"],
    ]  # fmt: skip
    assert lines[3:] == [["total", "0.00100000", "50.00", "EUR"]]
    report = json.loads((await run("project", "report", world.project_id, "--from", lines[1][0], "--json")).stdout)
    assert ([line["kind"] for line in report["items"]], report["totals"]["btc"]) == (
        ["reversed", "confirmed"], "0.00000000",
    )  # fmt: skip
    table = (await run("project", "report", world.project_id, "--csv", "--to", lines[2][0])).stdout
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [(row["kind"], row["reference"]) for row in rows] == [("confirmed", "'=1+1"), ("reversed", "'=1+1")]
    wrong = await run("project", "report", world.project_id, "--from", "yesterday", "--csv")
    assert (wrong.returncode, wrong.stderr.startswith("error: from: write a time such as")) == (4, True)
    assert (await run("project", "report", world.project_id, "--csv", "--json")).returncode == 2


async def test_an_invoice_is_cancelled_with_a_reason(run: Run, made: dict[str, Any]):
    asked = ("invoice", "create", "--project", made["id"], "--amount", "5", "--currency", "EUR", "--json")
    invoice_id = json.loads((await run(*asked)).stdout)["id"]
    assert (await run("invoice", "cancel", invoice_id)).returncode == 2
    wordless = await run("invoice", "cancel", invoice_id, "--reason", " ")
    assert (wordless.returncode, wordless.stderr) == (4, "error: reason: say why, in a few words\n")
    done = await run("invoice", "cancel", invoice_id, "--reason", "out of stock")
    assert (done.returncode, done.stdout) == (0, f"{invoice_id} is EXPIRED (cancelled)\n")
    again = await run("invoice", "cancel", invoice_id, "--reason", "out of stock")
    assert (again.returncode, "only a NEW one can be cancelled" in again.stderr) == (4, True)
    assert "cancel_invoice by command line: out of stock" in (await run("actions")).stdout


async def test_a_scenario_is_played(run: Run, made: dict[str, Any], pool: Pool):
    asked = ("invoice", "create", "--project", made["id"], "--amount", "5", "--currency", "EUR", "--json")
    invoice_id = json.loads((await run(*asked)).stdout)["id"]
    unfollowed = await run("invoice", "simulate", invoice_id, "underpaid")
    assert (unfollowed.returncode, "the watcher was never started" in unfollowed.stderr) == (4, True)
    await World.begin(pool, addresses=0)
    wrong = await run("invoice", "simulate", invoice_id, "under_paid")
    assert (wrong.returncode, "unconfirmed-invalidated" in wrong.stderr) == (2, True)
    done = await run("invoice", "simulate", invoice_id, "underpaid")
    assert (done.returncode, done.stdout.splitlines()) == (0, [
        "invoice.underpaid  partial_payment  0.00005000  2.50",
        "invoice.invalid    underpaid        0.00005000  2.50",
        f"{invoice_id} is INVALID (underpaid)",
    ])  # fmt: skip
    again = await run("invoice", "simulate", invoice_id, "paid", "--json")
    assert (again.returncode, again.stderr) == (4, "error: the invoice is INVALID; a scenario is played on a NEW one\n")
    told = (await run("invoice", "explain", invoice_id)).stdout
    assert "The scenario underpaid was simulated by command line: what follows is made up." in told
    assert (await run("invoice", "replay", invoice_id)).stdout.splitlines()[-1].startswith("the same history")
    other = json.loads((await run(*asked)).stdout)["id"]
    played = json.loads((await run("invoice", "simulate", other, "paid", "--json")).stdout)
    assert (played["scenario"], played["invoice"]["status"], len(played["events"])) == ("paid", "CONFIRMED", 1)


@pytest.mark.parametrize(
    ("group", "verbs"),
    [("project", "list show create set balance report"), ("invoice", "create list show cancel simulate")],
)
def test_every_verb_has_its_help(group: str, verbs: str):
    listed = paywatch(group, "--help").stdout
    for verb in verbs.split():
        assert f"\n  {verb} " in listed
        shown = paywatch(group, verb, "--help")
        assert shown.returncode == 0
        assert shown.stdout.split("\n\n")[1].strip()


def test_values_are_shown_as_one_reads_them():
    document = {"a": None, "b": True, "c": [], "d": [{"x": 1, "y": {"z": "q"}}, "s"], "e": {}, "f": {"g": False}}
    assert lines({"n": 1, "l": ["x", "y"], "p": [{"i": 1}, {"i": 2}], "e": []}).split("\n") == [
        "n    1", "l    x; y", "p.0  i 1", "p.1  i 2", "e    none",
    ]  # fmt: skip
    assert flat(document) == {"a": "-", "b": "yes", "c": "none", "d": "x 1, y.z q; s", "e": "none", "f.g": "no"}


def test_what_others_wrote_stays_on_its_line_and_does_nothing_to_the_terminal():
    """References and descriptions are a shop's, or its customers'."""
    document = {"reference": "a\x1b[2J\nstatus  CONFIRMED", "metadata": {"k\x07": ["\x9b31m", {"x": "\u202e"}]}}
    text = lines(document)
    assert all(line.isprintable() for line in text.splitlines())
    assert words(text) == {"reference": "a\\x1b[2J\\nstatus CONFIRMED", "metadata.k\\x07": "\\x9b31m; x \\u202e"}
    assert table([["a\x1b", 1], ["b", "\n"]]) == "a\\x1b  1\nb      \\n"
