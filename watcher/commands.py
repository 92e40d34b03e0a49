"""`paywatch project …` and `paywatch invoice …`: the calls of the API as verbs."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from watcher.command_line import Json, group, say
from watcher.rules.types import Scenario
from watcher.runtime.config import Settings
from watcher.runtime.text import printable
from watcher.settings_flags import ALL, DATABASE, with_settings

if TYPE_CHECKING:  # verbs import what they need, so that --help is quick
    from watcher.in_process import Office

T = TypeVar("T")

project = group("Projects: their settings, their balance, reports of their money.")
invoice = group("Invoices.")
secret = group("The secrets that a project's notifications are signed with.")
project.add_typer(secret, name="secret")

ProjectId = Annotated[str, typer.Argument(metavar="ID", help="The project's id (prj_…).")]
InvoiceId = Annotated[str, typer.Argument(metavar="ID", help="The invoice's id (inv_…).")]
Limit = Annotated[int, typer.Option(help="So many at the most, up to 200.")]
WhySecret = Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is kept in the log of actions.")]
Cursor = Annotated[str | None, typer.Option(help="Those behind; it is named at the end of a full list.")]

TOLERATED = "so much {} settles an invoice all the same"

# Options of a project's policy: the field that each sets, its type, metavar and help.
POLICY: dict[str, tuple[tuple[str, ...], Any, str, str]] = {
    "tier": (
        ("confirmationPolicy", "tiers"), list[str], "UPTO=N",
        "Amounts up to UPTO need N confirmations; repeated for each, ascending. Replaces all tiers; none: no tier.",
    ),
    "above": (("confirmationPolicy", "above"), int, "N", "Amounts above every tier need N confirmations."),
    "unconfirmed_cap": (
        ("confirmationPolicy", "unconfirmedCap"), str, "AMOUNT|none",
        "The most that may stand accepted and unconfirmed at one time, in the project's currency.",
    ),
    "tolerance_under_sat": (
        ("tolerance", "underSat"), int, "SAT", f"In satoshi, {TOLERATED.format('too little')}.",
    ),
    "tolerance_under_percent": (
        ("tolerance", "underPercent"), str, "PERCENT", "The same in per cent of what is due; the larger holds.",
    ),
    "tolerance_over_sat": (("tolerance", "overSat"), int, "SAT", f"In satoshi, {TOLERATED.format('too much')}."),
    "tolerance_over_percent": (
        ("tolerance", "overPercent"), str, "PERCENT", "The same in per cent of what is due; the larger holds.",
    ),
    "anomaly_confirmations": (
        ("anomalyConfirmations",), int, "N", "Money that changes no invoice is reported at N confirmations.",
    ),
    "eviction_limit_hours": (
        ("evictionLimitHours",), int, "HOURS", "A payment that only left the mempool still counts for so long.",
    ),
}  # fmt: skip


def _with_policy(run: Callable[..., int]) -> Callable[..., int]:
    """Give a verb the options of `POLICY`."""
    own = [one for one in inspect.signature(run).parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None,
            annotation=Annotated[kind | None, typer.Option(metavar=metavar, help=text)],
        ) for name, (_, kind, metavar, text) in POLICY.items()
    ]  # fmt: skip
    run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return run


def _body(fields: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """The request's body: what was given, by the names of the API."""
    body = {name: value for name, value in fields.items() if value is not None}
    for name, value in policy.items():
        if value is None:
            continue
        (*outer, last), into = POLICY[name][0], body
        for step in outer:
            into = into.setdefault(step, {})
        into[last] = _VALUES[name](value) if name in _VALUES else value
    return body


def _tiers(texts: Sequence[str]) -> list[dict[str, Any]]:
    return [] if texts == ["none"] else [_tier(text) for text in texts]


def _tier(text: str) -> dict[str, Any]:
    up_to, _, confirmations = text.partition("=")
    if not confirmations.isascii() or not confirmations.isdecimal():
        raise typer.BadParameter(f"write an amount, = and a number, such as 100=0, not {text}", param_hint="--tier")
    return {"upTo": up_to, "confirmations": int(confirmations)}


def _cap(text: str) -> str | None:
    return None if text == "none" else text


_VALUES: dict[str, Callable[[Any], Any]] = {"tier": _tiers, "unconfirmed_cap": _cap}


def given(**values: object) -> dict[str, str]:
    """Query parameters that were given."""
    return {name.rstrip("_"): str(value) for name, value in values.items() if value is not None}


def ask(settings: Settings, work: Callable[["Office"], Awaitable[T]], *, shows_addresses: bool = False) -> T:
    """Do the work in an office of its own."""
    from watcher.in_process import office

    async def done() -> T:
        async with office(settings, shows_addresses=shows_addresses) as opened:
            return await work(opened)

    return asyncio.run(done())


def _document(settings: Settings, method: str, path: str, object_id: str = "", **more: Any) -> dict[str, Any]:
    return ask(settings, lambda office: office.call(method, path, object_id, **more))


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A document as lines: names joined by dots, values as one would read them, each on one line."""
    found: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + printable(name)] = _readable(value)
    return found


def _readable(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | dict() if not value:
            return "none"
        case list():
            return "; ".join(map(_readable, value))
        case Mapping():
            return ", ".join(f"{name} {text}" for name, text in flat(value).items())
        case _:
            return printable(str(value))


def lines(document: Mapping[str, Any]) -> str:
    """A line for each value, and for each object of a list."""
    told: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            told |= {f"{name}.{number}": _readable(element) for number, element in enumerate(value)}
        else:
            told |= flat({name: value})
    width = max(map(len, told))
    return "\n".join(f"{name:{width}}  {value}" for name, value in told.items())


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows in columns."""
    cells = [[_readable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = (map(str.ljust, row, widths) for row in cells)
    return "\n".join("  ".join(row).rstrip() for row in padded)


def _say_list(document: Mapping[str, Any], columns: Sequence[str], as_json: bool) -> None:  # noqa: FBT001 - the option
    items, cursor = document["items"], document["nextCursor"]
    text = table([[item[name] for name in columns] for item in items]) if items else "none"
    say(dict(document), text + (f"\nmore: --cursor {cursor}" if cursor else ""), as_json)


def _project_list(settings: Settings, *, limit: Limit = 50, cursor: Cursor = None, as_json: Json = False) -> int:
    """List projects, newest first."""
    found = _document(settings, "GET", "/projects", query=given(limit=limit, cursor=cursor))
    _say_list(found, ("id", "mode", "currency", "name"), as_json)
    return 0


def _project_show(settings: Settings, *, project_id: ProjectId, as_json: Json = False) -> int:
    """Show a project with all its settings."""
    found = _document(settings, "GET", "/projects/{id}", project_id)
    say(found, lines(found), as_json)
    return 0


@_with_policy
def _project_create(
    settings: Settings,
    *,
    name: Annotated[str, typer.Option(help="What it is called.")],
    notification_url: Annotated[str, typer.Option(metavar="URL", help="Where its events are posted to.")],
    currency: Annotated[str | None, typer.Option(help="What its policy's amounts are in. [default: EUR]")] = None,
    descriptor: Annotated[
        str | None, typer.Option(help="Ranged public descriptor of its addresses. [default: default_descriptor]")
    ] = None,
    as_json: Json = False,
    **policy: Any,
) -> int:
    """Make a project, in test mode, and print it with its key and its secret, which are never shown again."""
    fields = {"name": name, "notificationUrl": notification_url, "currency": currency, "descriptor": descriptor}
    made = _document(settings, "POST", "/projects", body=_body(fields, policy))
    say(made, lines(made), as_json)
    return 0


@_with_policy
def _project_set(
    settings: Settings,
    *,
    project_id: ProjectId,
    name: Annotated[str | None, typer.Option(help="What it is called.")] = None,
    mode: Annotated[str | None, typer.Option(metavar="test|live", help="Test mode, or real money.")] = None,
    notification_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where its events are posted to, also those that wait.")
    ] = None,
    as_json: Json = False,
    **policy: Any,
) -> int:
    """Change settings of a project, and say what has changed. What is not named stays as it is.

    Confirmations, cap, tolerance and limits are for invoices that are made from then on; open ones keep their terms.
    """
    body = _body({"name": name, "mode": mode, "notificationUrl": notification_url}, policy)

    async def change(office: "Office") -> tuple[dict[str, Any], dict[str, Any]]:
        before = await office.call("GET", "/projects/{id}", project_id)
        return before, await office.call("PATCH", "/projects/{id}", project_id, body=body)

    before, after = ask(settings, change)
    say(after, _changes(flat(before), flat(after)), as_json)
    return 0


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    names = dict.fromkeys((*after, *before))
    told = [
        f"{name}: {before.get(name, '-')} -> {after.get(name, '-')}"
        for name in names if before.get(name) != after.get(name)
    ]  # fmt: skip
    return "\n".join(told) or "nothing has changed"


def _project_balance(settings: Settings, *, project_id: ProjectId, as_json: Json = False) -> int:
    """Show a project's money by account of the ledger, in BTC."""
    found = _document(settings, "GET", "/projects/{id}/balance", project_id)
    say(found, lines(found), as_json)
    return 0


def _project_report(
    settings: Settings,
    *,
    project_id: ProjectId,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Booked at this time or later: 2026-11-01T00:00:00Z.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Booked before this time.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV, for spreadsheets.")] = False,
    as_json: Json = False,
) -> int:
    """Report what was confirmed, taken back and accepted, by the time of booking, with the sums."""
    if as_csv and as_json:
        raise typer.BadParameter("name one of them", param_hint="--csv or --json")
    query = given(from_=start, to=end)
    if as_csv:
        ask(settings, lambda office: _print(office.table("/projects/{id}/report", project_id, query)))
        return 0
    report = ask(settings, lambda office: _whole_report(office, project_id, query))
    say(report, _report_text(report), as_json)
    return 0


def _secret_rotate(
    settings: Settings,
    *,
    project_id: ProjectId,
    grace_seconds: Annotated[
        int | None,
        typer.Option(
            "--grace-seconds",
            metavar="N",
            help="How long the secret before stays valid; 0: it ends at once. [default: 86400, a day]",
        ),
    ] = None,
    reason: WhySecret = None,
    as_json: Json = False,
) -> int:
    """Make a new secret for a project's notifications and print it; it is never shown again.

    While the one before is valid too, notifications carry a signature by each.
    """
    body = _body({"graceSeconds": grace_seconds, "reason": reason}, {})
    made = _document(settings, "POST", "/projects/{id}/webhook-secrets", project_id, body=body)
    say(made, lines(made), as_json)
    return 0


def _secret_list(settings: Settings, *, project_id: ProjectId, as_json: Json = False) -> int:
    """List the secrets that a project's notifications are signed with, the current one first; not what they are."""
    found = _document(settings, "GET", "/projects/{id}/webhook-secrets", project_id)
    _say_list(found, ("id", "createdAt", "expiresAt"), as_json)
    return 0


def _secret_revoke(
    settings: Settings,
    *,
    secret_id: Annotated[str, typer.Argument(metavar="SECRET", help="The secret's id (sec_…), as the list has it.")],
    reason: WhySecret = None,
    as_json: Json = False,
) -> int:
    """End an old secret now. The current one is ended by `rotate --grace-seconds 0`."""
    body = _body({"reason": reason}, {})
    ended = _document(settings, "POST", "/webhook-secrets/{id}/revoke", secret_id, body=body)
    say(ended, f"{ended['id']} of {ended['projectId']} has ended", as_json)
    return 0


async def _print(parts: AsyncIterator[str]) -> None:
    async for part in parts:
        typer.echo(part, nl=False)


async def _whole_report(office: "Office", project_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """All pages as one."""
    path = "/projects/{id}/report"
    report = await office.call("GET", path, project_id, query={**query, "limit": "200"})
    while (cursor := report["nextCursor"]) is not None:
        page = await office.call("GET", path, project_id, query={**query, "limit": "200", "cursor": cursor})
        report = report | {"items": report["items"] + page["items"], "nextCursor": page["nextCursor"]}
    return report


def _report_text(report: Mapping[str, Any]) -> str:
    names = ("at", "kind", "btc", "amount", "currency", "invoiceId", "reference")
    rows = [[item[name] for name in names] for item in report["items"]]
    totals = report["totals"]
    sums = [["total", "", one["btc"], one["amount"], one["currency"], "", ""] for one in totals["currencies"]]
    if len(sums) != 1:
        sums.append(["total", "", totals["btc"], "", "", "", ""])
    return table(rows + sums)


def _invoice_create(
    settings: Settings,
    *,
    project_id: Annotated[str, typer.Option("--project", metavar="ID", help="The project's id.")],
    amount: Annotated[str, typer.Option(help="What is to be paid, such as 12.50.")],
    currency: Annotated[str, typer.Option(help="Its currency, such as EUR, or BTC.")],
    reference: Annotated[str | None, typer.Option(help="Your own number for it.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    expires_in: Annotated[int | None, typer.Option(metavar="SECONDS", help="[default: 900]")] = None,
    confirmations: Annotated[int | None, typer.Option(help="Instead of the project's policy.")] = None,
    notification_url: Annotated[str | None, typer.Option(metavar="URL", help="Instead of the project's.")] = None,
    redirect_url: Annotated[str | None, typer.Option(metavar="URL", help="Where its page leads back to.")] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON", help="A JSON object to read back.")] = None,
    as_json: Json = False,
) -> int:
    """Make an invoice."""
    fields = {
        "projectId": project_id, "amount": amount, "currency": currency, "reference": reference,
        "description": description, "expiresIn": expires_in, "confirmations": confirmations,
        "notificationUrl": notification_url, "redirectUrl": redirect_url, "metadata": _json(metadata),
    }  # fmt: skip
    body = _body(fields, {})
    made = ask(settings, lambda office: office.call("POST", "/invoices", body=body), shows_addresses=True)
    say(made, lines(made), as_json)
    return 0


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"write a JSON object: {error}", param_hint="--metadata") from None


def _invoice_list(
    settings: Settings,
    *,
    project_id: Annotated[str | None, typer.Option("--project", metavar="ID", help="Of this project.")] = None,
    status: Annotated[str | None, typer.Option(help="In this status, such as UNDERPAID.")] = None,
    label: Annotated[str | None, typer.Option(help="With this label, such as late.")] = None,
    reference: Annotated[str | None, typer.Option(help="With this reference.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> int:
    """List invoices, newest first."""
    query = given(projectId=project_id, status=status, label=label, reference=reference, limit=limit, cursor=cursor)
    found = _document(settings, "GET", "/invoices", query=query)
    _say_list(found, ("id", "status", "amount", "currency", "paidBtc", "reference"), as_json)
    return 0


def _invoice_show(settings: Settings, *, invoice_id: InvoiceId, as_json: Json = False) -> int:
    """Show an invoice with its payments."""
    found = _document(settings, "GET", "/invoices/{id}", invoice_id)
    say(found, lines(found), as_json)
    return 0


def _invoice_cancel(
    settings: Settings,
    *,
    invoice_id: InvoiceId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept in the log of actions.")],
    as_json: Json = False,
) -> int:
    """Make a NEW invoice EXPIRED; its merchant is told. Money that comes later is an anomaly."""
    found = _document(settings, "POST", "/invoices/{id}/cancel", invoice_id, body={"reason": reason})
    say(found, f"{found['id']} is {found['status']} ({found['reason']})", as_json)
    return 0


def _invoice_simulate(
    settings: Settings,
    *,
    invoice_id: InvoiceId,
    scenario: Annotated[Scenario, typer.Argument(help="What is played.")],
    as_json: Json = False,
) -> int:
    """Play a scenario on a NEW test invoice, without coins. The notifications are sent as always."""
    found = _document(settings, "POST", "/invoices/{id}/simulate", invoice_id, body={"scenario": scenario})
    say(found, "\n".join(_simulated_lines(found)), as_json)
    return 0


def _simulated_lines(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [event["type"], event["data"]["reason"], event["data"]["paidBtc"], event["data"]["paidAmount"]]
        for event in found["events"]
    ]
    yield table(rows)
    yield f"{found['invoice']['id']} is {found['invoice']['status']} ({found['invoice']['reason']})"


_DOCUMENTS = ("database_url", "api_host", "api_port", "public_url")  # of invoices: they name their pages

project.command("list")(with_settings(_project_list, DATABASE))
project.command("show")(with_settings(_project_show, DATABASE))
project.command("create")(with_settings(_project_create, ALL))
project.command("set")(with_settings(_project_set, ("database_url", "allow_http_targets", "allow_targets")))
project.command("balance")(with_settings(_project_balance, DATABASE))
project.command("report")(with_settings(_project_report, DATABASE))
secret.command("rotate")(with_settings(_secret_rotate, DATABASE))
secret.command("list")(with_settings(_secret_list, DATABASE))
secret.command("revoke")(with_settings(_secret_revoke, DATABASE))
invoice.command("create")(with_settings(_invoice_create, ALL))
invoice.command("list")(with_settings(_invoice_list, _DOCUMENTS))
invoice.command("show")(with_settings(_invoice_show, _DOCUMENTS))
invoice.command("cancel")(with_settings(_invoice_cancel, _DOCUMENTS))
invoice.command("simulate")(with_settings(_invoice_simulate, _DOCUMENTS))
