"""`paywatch regtest trigger` as a process: that it plays, and that it notices whatever is not as it must be."""

import json
import re
from pathlib import Path

import pytest

from regtest.api import request
from regtest.scenario import BY_NAME, packaged
from regtest.trigger import PROJECT
from tests.regtest.running import Done, Running, paywatch

pytestmark = pytest.mark.regtest

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "regtest.md"


@pytest.fixture(scope="module")
async def up(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("up") / "environment")
    await running.start("--port", "0")
    yield running
    await running.delete()


@pytest.fixture
def trigger(up):
    async def run(*arguments: str) -> Done:
        return await paywatch("regtest", "trigger", *arguments, "--dir", str(up.directory))

    return run


@pytest.fixture
def play(trigger, tmp_path: Path):
    """Play a scenario of the test's own."""

    async def run(text: str, *arguments: str) -> Done:
        file = tmp_path / "own.toml"
        file.write_text(f'title = "t"\n{text}')
        return await trigger("--file", str(file), *arguments)

    return run


def step(do: str, events: str | None = None, more: str = "") -> str:
    return f'\n[[steps]]\ndo = "{do}"\n{more}\n' + (f"events = [{events}]\n" if events is not None else "")


UNDERPAID = '{ status = "UNDERPAID", paid = "40%" }'
CONFIRMED = '{ status = "CONFIRMED", paid = "due" }'
EXPIRED = '{ status = "EXPIRED", paid = "0 sat" }'
PART = 'amount = "40%"'
REST = 'amount = "due - 40%"'


async def test_the_list_names_and_explains_each():
    people, programs = [await paywatch("regtest", "trigger", "list", *more) for more in ((), ("--json",))]
    assert [line.split()[0] for line in people.output.splitlines()] == list(packaged())
    assert [item["name"] for item in programs.json["items"]] == list(packaged())
    assert all(item["title"] in people.output for item in programs.json["items"])


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["payed"], 3, "there is no scenario payed"),
        (["payed"], 3, "underpaid-completed"),
        ([], 2, "SCENARIO or --file"),
        (["paid", "--file", "x.toml"], 2, "SCENARIO or --file"),
        (["--file", "nowhere.toml"], 4, "cannot read nowhere.toml"),
        (["paid", "--amount", "much"], 2, "'much' is not a number"),
        (["paid", "--invoice", "inv_1", "--amount", "1.00"], 2, "the invoice has a project and an amount"),
        (["all", "--invoice", "inv_1"], 2, "each scenario has an invoice of its own"),
        (["all", "--project", "prj_1"], 2, "each scenario has an invoice of its own"),
        (["paid"], 5, "no regtest environment runs in"),
        (["all"], 5, "start one: paywatch regtest up"),
    ],
)
async def test_what_cannot_be_begun_is_told(tmp_path, arguments, code, text):
    done = await paywatch("regtest", "trigger", *arguments, "--dir", str(tmp_path))
    assert (done.code, done.output) == (code, "")
    assert text in done.errors
    assert "Traceback" not in done.errors


async def test_it_plays_tells_and_makes_one_project_for_all(up, trigger):
    first, second = [await trigger("paid", "--json") for _ in range(2)]
    assert (first.code, second.code) == (0, 0)
    told = first.json
    assert (told["ok"], told["problems"]) == (True, [])
    assert told["told"] == told["expected"]
    assert told["told"] == [{"event": "CONFIRMED", "paidBtc": "0.00050000", "paidAmount": "25.00"}]
    assert told["projectId"] == second.json["projectId"]
    invoice = await up.api.get(f"/invoices/{told['invoiceId']}")
    assert (invoice["status"], invoice["reference"]) == ("CONFIRMED", "paid")
    names = [project["name"] for project in (await up.api.get("/projects"))["items"]]
    assert names.count(f"{PROJECT}, p2wpkh") == 1
    people = await trigger("expired")
    assert people.code == 0
    assert "told at " + up.links["sink"] in people.output
    assert "is told EXPIRED 0.00000000 (0.00)" in people.output
    assert "just these events came" in people.output


async def test_an_invoice_of_ones_own_is_played_on_in_its_own_amounts(up, trigger):
    invoice = await up.add_invoice("60.00")
    done = await trigger("underpaid-completed", "--invoice", invoice["id"], "--json")
    assert (done.code, done.json["invoiceId"], done.json["projectId"]) == (0, invoice["id"], invoice["projectId"])
    assert done.json["told"][0] == {"event": "UNDERPAID", "paidBtc": "0.00048001", "paidAmount": "24.00"}
    again = await trigger("paid", "--invoice", invoice["id"])
    assert again.code == 4
    assert f"{invoice['id']} is CONFIRMED" in again.errors
    assert "make another" in again.errors


async def test_a_project_and_an_amount_are_as_wished(up, trigger):
    project = (await up.add_invoice())["projectId"]
    done = await trigger("underpaid", "--project", project, "--amount", "12.34", "--json")
    assert (done.code, done.json["projectId"]) == (0, project)
    assert [one["paidAmount"] for one in done.json["told"]] == ["4.93", "4.93"]


@pytest.mark.parametrize(
    ("scenario", "invoice", "text"),
    [
        ("expired", {}, "waits until the invoice expires"),
        ("unconfirmed", {}, "needs 0 confirmations, unconfirmed one of 1"),
        ("paid", {"amount": "200.00"}, "needs 1 confirmations, paid one of 0"),
        ("p2wpkh", {}, "is no address of type p2wpkh"),
        ("receiver-down", {"notificationUrl": "http://127.0.0.1:1/"}, "makes the webhook sink misbehave"),
    ],
)
async def test_an_invoice_that_is_not_fit_is_refused(up, trigger, scenario, invoice, text):
    made = await up.add_invoice(**{"amount": "25.00", **invoice})
    done = await trigger(scenario, "--invoice", made["id"])
    assert done.code == 4
    assert text in done.errors
    assert (await up.api.get(f"/invoices/{made['id']}"))["status"] == "NEW"


async def test_an_unknown_invoice_is_not_found(trigger):
    assert (await trigger("paid", "--invoice", "inv_unknown")).code == 3


async def test_a_wrong_file_is_told(play):
    done = await play(step("explode", CONFIRMED))
    assert done.code == 4
    assert "own.toml: line 3, step 1 (explode): there is no step 'explode'" in done.errors


async def test_the_scenario_in_the_documentation_is_right(trigger, tmp_path):
    [text] = re.findall(r"```toml\n(title = .*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    file = tmp_path / "own.toml"
    file.write_text(text)
    done = await trigger("--file", str(file))
    assert done.code == 0, done.output


def test_the_documentation_names_every_step():
    for name, step_kind in BY_NAME.items():
        [row] = [line for line in DOCUMENTATION.read_text().splitlines() if line.startswith(f"| `{name}` | ")]
        fields = set(step_kind.model_fields) - {"do", "events", "limit_seconds"}
        assert all(f"`{field}" in row for field in fields), name


async def test_another_event_than_expected_is_shown_as_a_difference(play):
    done = await play(step("pay", CONFIRMED, PART))
    assert done.code == 1
    assert "FAILED         after step 1 (pay) other events are told than must be" in done.output
    assert "    - CONFIRMED 0.00050000 (25.00)\n    + UNDERPAID 0.00020000 (10.00)\n" in done.output


async def test_another_amount_than_expected_is_noticed(play):
    done = await play(step("pay", '{ status = "UNDERPAID", paid = "40% + 1 sat" }', PART), "--json")
    assert (done.code, done.json["ok"]) == (1, False)
    assert done.json["expected"][0]["paidBtc"] == "0.00020001"
    assert done.json["told"][0]["paidBtc"] == "0.00020000"


async def test_an_event_that_does_not_come_is_waited_for_only_so_long(play):
    done = await play(step("pay", UNDERPAID, PART) + step("mine", CONFIRMED, "limit_seconds = 1.0"))
    assert done.code == 1
    assert "1 s after step 2 (mine) CONFIRMED 0.00050000 (25.00) is not told" in done.output
    assert "      UNDERPAID 0.00020000 (10.00)\n    - CONFIRMED 0.00050000 (25.00)\n" in done.output


async def test_an_event_where_none_may_come_is_noticed(play):
    done = await play(step("pay", UNDERPAID, PART) + step("pay", "", REST))
    assert done.code == 1
    assert "after step 2 (pay) other events are told" in done.output
    assert "    + CONFIRMED 0.00050000 (25.00)\n" in done.output


async def test_an_event_that_only_more_blocks_bring_is_noticed(play):
    text = "[invoice]\nexpires_in = 1\n" + step("expire", EXPIRED) + step("pay") + step("mine", "")
    done = await play(text)
    assert done.code == 1
    assert "other events are told than expected" in done.output
    assert "    + paid_late 0.00050000 (25.00)\n" in done.output


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        ('labels = ["late"]', "its labels are ['test'], not ['test', 'late']"),
        ('reason = "overpaid"', "its reason is accepted_unconfirmed, not overpaid"),
    ],
)
async def test_how_it_ends_is_compared(play, end, problem):
    done = await play(step("pay", CONFIRMED) + f"\n[end]\n{end}\n")
    assert done.code == 1
    assert problem in done.output


async def test_the_attempts_are_counted(play):
    done = await play(step("pay", CONFIRMED.replace(" }", ", attempts = 2 }")))
    assert done.code == 1
    assert "was posted 1 times, not 2" in done.output


async def test_a_wrong_signature_is_noticed(up, trigger):
    invoice = await up.add_invoice()
    secret = {"secret": "whsec_" + "QUJD" * 8, "projectId": invoice["projectId"]}
    assert (await request("POST", f"{up.links['sink']}/secrets", json=secret))[0] == 204
    done = await trigger("paid", "--invoice", invoice["id"])
    assert done.code == 1
    assert "came with a wrong signature" in done.output


async def test_a_receiver_that_refuses_is_told_with_its_answer(up, play):
    invoice = await up.add_invoice(notificationUrl=f"{up.links['sink']}/hook/refuses")
    behaviour = {"path": "/hook/refuses", "status": 418}
    assert (await request("POST", f"{up.links['sink']}/behaviour", json=behaviour))[0] == 204
    done = await play(step("pay", CONFIRMED, "limit_seconds = 2.0"), "--invoice", invoice["id"])
    assert done.code == 1
    assert "the receiver has not accepted what it was told: evt_" in done.output
    assert "HTTP 418" in done.output


@pytest.mark.timeout(240)
async def test_all_of_them_play_side_by_side(up):
    done = await paywatch("regtest", "trigger", "all", "--json", "--dir", str(up.directory), seconds=200)
    assert [one for one in done.json["scenarios"] if not one["ok"]] == []
    assert (done.code, done.json["ok"]) == (0, True)
    assert sorted(one["scenario"] for one in done.json["scenarios"]) == sorted(packaged())
    assert json.loads(done.output) == done.json
