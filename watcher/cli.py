"""The one command, `paywatch`: a verb for each role and task. Verbs import what they need, so `--help` is quick.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 rejected, 5 nobody to ask, 69 node or database away,
78 wrong settings, 130 Ctrl-C.
"""

import asyncio
import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from watcher import (
    __version__,
    account_commands,
    commands,
    delivery_commands,
    endpoint_commands,
    history_commands,
    integration_commands,
    operator_commands,
    receiver_commands,
)
from watcher.command_line import Json
from watcher.command_line import group as _group
from watcher.command_line import say as _say
from watcher.command_line import tell as _tell
from watcher.runtime.config import Settings
from watcher.runtime.errors import PaywatchError
from watcher.settings_flags import DATABASE, reference, with_settings

RATES = ("database_url", "fixed_rate", "rate_sources", "rate_sources_min")

app = _group("A self-hosted Bitcoin payment watcher and notifier.")
db = _group("The database's schema.")
key = _group("Keys of the API.")
descriptor = _group("Descriptors: which addresses were given out, and which may be next.")
rate = _group("Rates: what a bitcoin costs, and who says so.")
config = _group("Settings.")
chain = _group("The chain that is followed.")
history_commands.add_to(commands.invoice)
app.add_typer(commands.project, name="project")
app.add_typer(commands.invoice, name="invoice")
app.add_typer(db, name="db")
app.add_typer(key, name="key")
app.add_typer(descriptor, name="descriptor")
app.add_typer(rate, name="rate")
app.add_typer(config, name="config")
app.add_typer(chain, name="chain")


def main() -> None:
    """Run the command; errors are one line of what is wrong and one of what to do."""
    try:
        app(prog_name="paywatch")
    except PaywatchError as error:
        from watcher.runtime.log import redact

        _tell(redact(f"error: {error.message}"))
        if error.hint:
            _tell(redact(f"hint: {error.hint}"))
        sys.exit(error.exit_code)


def _watcher(settings: Settings) -> int:
    """Run the watcher: it follows bitcoind and judges invoices."""
    from watcher.app import main as run

    return run(settings)


def _api(settings: Settings) -> int:
    """Run the HTTP API and the payment pages."""
    from watcher.api.app import main as run

    return run(settings)


def _notifier(settings: Settings) -> int:
    """Run the notifier: it posts events to the merchants."""
    from notifier.app import main as run

    return run(settings)


def _doctor(settings: Settings, *, as_json: Json = False) -> int:
    """Check all that the roles need. Exits 1 when something is wrong."""
    from watcher.doctor import examine

    async def tell() -> bool:
        is_well = True
        async for finding in examine(settings):
            is_well = is_well and finding.ok
            told = {"name": finding.name, "ok": finding.ok, "detail": finding.detail}
            hint = "" if finding.ok else finding.hint
            lines = f"{'ok' if finding.ok else 'WRONG':6}{finding.name:9} {finding.detail}"
            _say(told | ({"hint": hint} if hint else {}), lines + (f"\n{'':16}hint: {hint}" if hint else ""), as_json)
        return is_well

    return 0 if asyncio.run(tell()) else 1


def _health(
    settings: Settings,
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Only whether it answers, not whether all it needs works.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Ask the running API whether it is ready. Exits 1 when it is not."""
    from watcher.health import ask

    health = ask(settings, live=live)
    _say({"ok": health.ok, "detail": health.detail}, health.detail, as_json)
    return 0 if health.ok else 1


def _audit(
    settings: Settings,
    *,
    from_height: Annotated[int | None, typer.Option(min=0, help="First block; default: 1,000 blocks.")] = None,
    to_height: Annotated[int | None, typer.Option(min=0, help="Last block; default: our tip.")] = None,
    utxo: Annotated[
        bool,
        typer.Option(
            "--utxo",
            help="Compare with the node's unspent outputs instead of blocks. That reaches back to the first block, on "
            "a pruned node too, and to addresses that were never derived here. It proves nothing about outputs that "
            "were spent since, nor about the mempool. Takes minutes on mainnet.",
        ),
    ] = False,
    beyond: Annotated[
        int | None,
        typer.Option(min=0, max=1_000_000, help="With --utxo: so many indexes after the derived ones. [default: 1000]"),
    ] = None,
    heal: Annotated[
        bool,
        typer.Option(
            "--heal",
            help="Make what was found wrong what the node says, and have the watcher judge it. Needs --reason.",
        ),
    ] = False,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --heal: why; it is kept with what was done.")
    ] = None,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Also judge every invoice a second time, as `paywatch invoice replay` does."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Prove payments against the node, and all books against the payments. Exits 1 with findings.

    Without --heal nothing is written. With it, exits 1 when something cannot be healed.
    """
    from watcher.audit import DEFAULT_BEYOND, Scope
    from watcher.runtime import log

    log.configure(settings.log_level, settings.log_format, "audit")
    if utxo and (from_height is not None or to_height is not None):
        raise typer.BadParameter("heights and unspent outputs are two audits: run one after the other")
    if beyond is not None and not utxo:
        raise typer.BadParameter("only unspent outputs are looked for beyond: give --utxo too", param_hint="--beyond")
    if heal and not (reason and reason.strip()):
        raise typer.BadParameter("healing needs a reason, which is kept with what is done", param_hint="--reason")
    if reason is not None and not heal:
        raise typer.BadParameter("a reason is for --heal alone", param_hint="--reason")
    scope = Scope(from_height, to_height, utxo, DEFAULT_BEYOND if beyond is None else beyond, replay)
    work = _heal(settings, scope, reason, as_json) if heal and reason else _examine(settings, scope, as_json)
    return 0 if asyncio.run(work) else 1


async def _examine(settings: Settings, scope: Any, as_json: bool) -> bool:  # noqa: FBT001 - the option
    """Tell what does not agree; whether all agrees."""
    from watcher.audit import examine
    from watcher.rules.audit import Note
    from watcher.rules.heal import Remedy, remedy_of

    count = 0
    async for result in examine(settings, scope):
        if isinstance(result, Note):
            _tell(f"note: {result.text}")
            continue
        count += 1
        told: dict[str, Any] = {"kind": result.kind, "what": result.what, "detail": result.detail}
        told |= {"healable": remedy_of(result) is not Remedy.NONE}
        _say(told, f"{result.kind:17}{result.what}: {result.detail}", as_json)
    if not as_json:
        typer.echo(f"{count} findings" if count else "everything agrees")
    return not count


async def _heal(settings: Settings, scope: Any, reason: str, as_json: bool) -> bool:  # noqa: FBT001 - the option
    """Heal, and tell what became of each finding; whether all is healed."""
    from watcher.heal import heal
    from watcher.rules.audit import Note

    done = left = 0
    async for result in heal(settings, scope, reason):
        if isinstance(result, Note):
            _tell(f"note: {result.text}")
            continue
        done, left = done + result.done, left + (not result.done)
        finding = result.finding
        told: dict[str, Any] = {"kind": finding.kind, "what": finding.what, "detail": finding.detail}
        told |= {"healed": True} if result.done else {"healed": False, "advice": result.advice}
        text = f"{'healed' if result.done else 'LEFT':7}{finding.kind:17}{finding.what}: {finding.detail}"
        _say(told, text if result.done else f"{text}\n{'':24}hint: {result.advice}", as_json)
    if not as_json:
        typer.echo(f"{done} healed, {left} left" if done or left else "everything agrees")
    return not left


def _db_upgrade(settings: Settings) -> int:
    """Bring the schema up to date, and encrypt webhook secrets with the first of encryption_keys."""
    from watcher.administration import upgrade

    done = asyncio.run(upgrade(settings))
    typer.echo("applied " + ", ".join(done.applied) if done.applied else "the schema is up to date")
    if done.encrypted:
        typer.echo(f"encrypted {done.encrypted} webhook secrets with the first of encryption_keys")
    for reason in done.unopenable:
        typer.echo(f"warning: {reason}", err=True)
    return 0


def _db_status(settings: Settings, *, as_json: Json = False) -> int:
    """Tell which migrations the database has. Exits 1 when some are missing."""
    from watcher.administration import schema_status

    status = asyncio.run(schema_status(settings))
    lines = [f"applied  {name}" for name in status.applied] + [f"missing  {name}" for name in status.missing]
    _say({"applied": status.applied, "missing": status.missing}, "\n".join(lines), as_json)
    return 1 if status.missing else 0


def _key_create(
    settings: Settings,
    *,
    operator: Annotated[bool, typer.Option("--operator", help="A key for all projects.")] = False,
    project: Annotated[str | None, typer.Option(metavar="ID", help="A key for this project.")] = None,
    as_json: Json = False,
) -> int:
    """Make a key and print it; it is never shown again."""
    from watcher.administration import create_key

    if operator == bool(project):
        raise typer.BadParameter("name one of them", param_hint="--operator or --project")
    key_id, made = asyncio.run(create_key(settings, project))
    _say({"id": key_id, "key": made}, made, as_json)
    return 0


def _chain_accept_gap(
    settings: Settings,
    *,
    first: Annotated[int, typer.Option("--from", min=0, help="First block of the gap.")],
    last: Annotated[int, typer.Option("--to", min=0, help="Last block of the gap.")],
    reason: Annotated[str, typer.Option(help="Why these blocks need not be read; it is kept and shown.")],
    as_json: Json = False,
) -> int:
    """Go on without blocks that the node has pruned before they were read. Money in them is not seen.

    The range is the one that the watcher names when it ends with pruned_gap.
    """
    from watcher.gaps import accept

    gap = asyncio.run(accept(settings, first, last, reason))
    told = {"firstHeight": gap.first, "lastHeight": gap.last, "reason": gap.reason}
    then = f"the watcher goes on at block {gap.last + 1}; `paywatch audit --utxo` finds what is unspent of the gap"
    _say(told, f"{gap.told()}\n{then}", as_json)
    return 0


Descriptor = Annotated[str, typer.Argument(metavar="DESCRIPTOR", help="A descriptor, or its id in the list.")]


def _descriptor_list(settings: Settings, *, as_json: Json = False) -> int:
    """List the descriptors, and how many addresses in a row nobody paid. Exits 1 when that is beyond gap_limit."""
    from watcher.descriptors import listing

    is_well = True
    for one in asyncio.run(listing(settings)):
        is_beyond = one.runs.longest > settings.gap_limit
        is_well = is_well and not is_beyond
        told = {
            "id": one.id, "descriptor": one.descriptor, "nextIndex": one.next_index, "derived": one.derived,
            "longestUnpaidRun": one.runs.longest, "currentUnpaidRun": one.runs.current, "beyondGapLimit": is_beyond,
        }  # fmt: skip
        unpaid = f"unpaid in a row: {one.runs.longest} at the most, {one.runs.current} now"
        lines = f"{one.id}  {one.descriptor}\n   next index {one.next_index}, derived {one.derived}, {unpaid}"
        hint = f"\n   WARNING: beyond the gap limit of {settings.gap_limit}: paywatch descriptor export {one.id}"
        _say(told, lines + (hint if is_beyond else ""), as_json)
    return 0 if is_well else 1


def _descriptor_export(settings: Settings, *, name: Descriptor, as_json: Json = False) -> int:
    """Print what Bitcoin Core's importdescriptors takes: a wallet that has it finds the money on every address."""
    from watcher.descriptors import export

    request = json.dumps(asyncio.run(export(settings, name)))
    typer.echo(request if as_json else f"bitcoin-cli -rpcwallet=WALLET importdescriptors {shlex.quote(request)}")
    return 0


def _descriptor_skip(
    settings: Settings,
    *,
    name: Descriptor,
    to: Annotated[int, typer.Option(min=1, metavar="INDEX", help="The first index that may be given out.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept.")],
) -> int:
    """Pass over addresses that were given out although the database does not know it."""
    from watcher.descriptors import skip

    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    raised = asyncio.run(skip(settings, name, to, reason))
    typer.echo(f"the next index is {raised.to_index}; {raised.from_index} to {raised.to_index - 1} are passed over")
    return 0


def _rate_show(
    settings: Settings,
    *,
    currency: Annotated[str | None, typer.Argument(metavar="[CURRENCY]", help="Such as EUR. Default: all.")] = None,
    as_json: Json = False,
) -> int:
    """Show the rates that new invoices get, how old they are, and what each source said. Exits 1 without a rate."""
    from watcher.rates import shown

    lines = asyncio.run(shown(settings, currency and currency.upper()))
    for line in lines:
        _say(line.document, line.text, as_json)
    return 0 if lines and all(line.is_good for line in lines) else 1


app.command("watcher")(with_settings(_watcher))
app.command("api")(with_settings(_api))
app.command("notifier")(with_settings(_notifier))
app.command("doctor")(with_settings(_doctor))
app.command("audit")(with_settings(_audit))
app.command("health")(with_settings(_health, ("api_host", "api_port")))
db.command("upgrade")(with_settings(_db_upgrade, DATABASE))
db.command("status")(with_settings(_db_status, DATABASE))
key.command("create")(with_settings(_key_create, DATABASE))
chain.command("accept-gap")(with_settings(_chain_accept_gap))
rate.command("show")(with_settings(_rate_show, RATES))
descriptor.command("list")(with_settings(_descriptor_list, ("database_url", "gap_limit")))
descriptor.command("export")(with_settings(_descriptor_export, DATABASE))
descriptor.command("skip")(with_settings(_descriptor_skip))
operator_commands.register(app)
account_commands.register(app)
integration_commands.register(app)
delivery_commands.register(app)
endpoint_commands.register(app)


@config.command("reference")
def config_reference() -> None:
    """Print docs/configuration.md: every setting, and its meaning."""
    typer.echo(reference(), nl=False)


@app.command("version")
def version(*, as_json: Json = False) -> None:
    """Print the version."""
    told = {"version": __version__, "python": platform.python_version()}
    _say(told, f"paywatch {__version__}", as_json)


@app.command("sink")
def sink(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 0,
    secret: receiver_commands.SecretOption = None,
    secret_file: receiver_commands.SecretFile = None,
    journal: Annotated[Path | None, typer.Option(help="File by which it goes on after a restart.")] = None,
) -> None:
    """Receive webhooks: verify, list, misbehave on demand.

    It listens on 127.0.0.1, records what is posted to /hook or below, and answers 200. Without a secret nothing is
    verified. GET / explains how to list requests, name secrets, and have it refuse, hang, redirect or answer late.
    """
    from regtest.received import Request
    from regtest.sink import Sink, line_of, serve

    def tell(request: Request) -> None:
        typer.echo(line_of(request))

    known = receiver_commands.secrets_of(secret, secret_file)
    asyncio.run(serve(Sink(port=port, secrets=known, journal=journal, on_request=tell)))


receiver_commands.register(app)


@app.command(
    "regtest",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "allow_interspersed_args": False, "ignore_unknown_options": True},
)
def regtest(context: typer.Context) -> None:
    """Run everything on regtest, and act on its chain."""
    from regtest.commands import app as commands

    commands(args=context.args, prog_name="paywatch regtest")


if __name__ == "__main__":
    main()
