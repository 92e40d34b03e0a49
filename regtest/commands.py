"""Run an environment on regtest, and act on the chain of a running one.

What an action did is told in one line, with `--json` as one object, when the node has written it to disk.
"""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from signal import SIGTERM
from typing import Annotated, Any

import typer

from regtest import scenario as scenarios
from regtest import state as states
from regtest import trigger as triggers
from regtest.api import Api, request
from regtest.chain import Chain
from regtest.environment import DEFAULT_DIRECTORY, DEFAULT_PORT, DEFAULT_RATE, Options
from regtest.postgres import Postgres
from regtest.process import end_process
from regtest.rpc import Rpc
from regtest.state import PAYER, RECEIVER, NotRunning, State
from regtest.up import up as run_up
from regtest.wallet import btc, sat
from watcher.runtime.errors import Broken, PaywatchError, Rejected, Transient

DOWN_SECONDS = 120.0

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)

Dir = Annotated[Path, typer.Option("--dir", help="Directory of the environment.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]
Txid = Annotated[str, typer.Argument(metavar="TXID", help="A transaction of the payer's wallet.")]

Outcome = tuple[str, dict[str, Any]]  # for people, for programs
Action = Callable[[State, Chain], Awaitable[Outcome]]


@app.command()
def up(
    directory: Dir = DEFAULT_DIRECTORY,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Port of the API; 0: any free one. [default: {DEFAULT_PORT}]"),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Say nothing but one line when all is ready.")] = False,
    story: Annotated[
        bool | None, typer.Option("--story/--no-story", help="Play one invoice. [default: at the first start]")
    ] = None,
    zmq: Annotated[bool, typer.Option("--zmq/--no-zmq", help="Whether the node publishes over ZMQ.")] = True,
    rate: Annotated[str, typer.Option(help="Units of any currency for one bitcoin.")] = str(DEFAULT_RATE),
) -> None:
    """Run everything on embedded defaults; Ctrl-C ends it.

    That is bitcoind on regtest with a funded payer, PostgreSQL, watcher, api, notifier, and a webhook sink.
    """
    options = Options(directory, port, zmq, _positive(rate, "--rate"))
    raise typer.Exit(run_up(options, as_json=as_json, with_story=story))


@app.command()
def down(
    directory: Dir = DEFAULT_DIRECTORY,
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Remove all its data too.")] = False,
    as_json: Json = False,
) -> None:
    """End a running environment. Its data stay for the next `up`."""
    _say(asyncio.run(_down(directory, delete=delete)), as_json=as_json)


@app.command()
def status(directory: Dir = DEFAULT_DIRECTORY, *, as_json: Json = False) -> None:
    """Tell what runs, and where."""
    _act(directory, _status, as_json=as_json)


@app.command()
def mine(
    blocks: Annotated[int, typer.Argument(min=1, metavar="N", help="How many blocks.")] = 1,
    directory: Dir = DEFAULT_DIRECTORY,
    *,
    empty: Annotated[bool, typer.Option("--empty", help="Leave the mempool as it is.")] = False,
    as_json: Json = False,
) -> None:
    """Mine blocks, with all of the mempool or with nothing."""

    async def action(_state: State, chain: Chain) -> Outcome:
        hashes = await (chain.mine_empty(blocks) if empty else chain.mine(blocks))
        height = await chain.client.call("getblockcount")
        return f"mined {_count(hashes, 'block')}; the tip is {height}, {hashes[-1]}", {
            "blocks": hashes,
            "height": height,
        }

    _act(directory, action, as_json=as_json)


@app.command()
def pay(
    target: Annotated[str, typer.Argument(metavar="ID", help="An invoice, or an address.")],
    directory: Dir = DEFAULT_DIRECTORY,
    amount: Annotated[
        str | None, typer.Option(metavar="BTC", help="How much. [default: what remains due of the invoice]")
    ] = None,
    split: Annotated[int, typer.Option(min=1, max=100, help="In how many transactions.")] = 1,
    *,
    as_json: Json = False,
) -> None:
    """Pay an invoice or an address. Nothing is mined."""
    amount_sat = None if amount is None else _satoshi(amount)

    async def action(state: State, chain: Chain) -> Outcome:
        address, due_sat = await _to_pay(state, target, amount_sat)
        txids = [await chain.pay(address, part_sat) for part_sat in parts(due_sat, split)]
        told = {"txids": txids, "address": address, "amount": btc(due_sat)}
        return f"paid {btc(due_sat)} BTC to {address}: {' '.join(txids)}", told

    _act(directory, action, as_json=as_json)


@app.command()
def reorg(
    blocks: Annotated[int, typer.Argument(min=1, metavar="N", help="How many blocks to replace.")],
    directory: Dir = DEFAULT_DIRECTORY,
    conflict: Annotated[
        str | None,
        typer.Option(metavar="TXID", help="The new blocks double spend this transaction."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Replace the last N blocks by N + 1 empty ones.

    Their transactions go back to the mempool.
    """

    async def action(_state: State, chain: Chain) -> Outcome:
        hashes = await chain.reorg(blocks, conflict_of=conflict)
        height = await chain.client.call("getblockcount")
        line = f"replaced {_many(blocks, 'block')} by {_count(hashes, 'block')}; the tip is {height}, {hashes[-1]}"
        return line, {"replaced": blocks, "blocks": hashes, "height": height}

    _act(directory, action, as_json=as_json)


@app.command("double-spend")
def double_spend(
    txid: Txid,
    directory: Dir = DEFAULT_DIRECTORY,
    *,
    mined: Annotated[bool, typer.Option("--mined", help="In a block at once, never in the mempool.")] = False,
    as_json: Json = False,
) -> None:
    """Double spend an unconfirmed payment.

    Its coins are paid back to the payer.
    """

    async def action(_state: State, chain: Chain) -> Outcome:
        await _refuse_unless_unconfirmed(chain, txid)
        by = await chain.double_spend(txid, mined=mined)
        height = await chain.client.call("getblockcount")
        where = f"in block {height}" if mined else "in the mempool"
        return f"{txid} is double-spent by {by}, {where}", {
            "txid": by,
            "replaces": txid,
            "mined": mined,
            "height": height,
        }

    _act(directory, action, as_json=as_json)


@app.command()
def bump(txid: Txid, directory: Dir = DEFAULT_DIRECTORY, *, as_json: Json = False) -> None:
    """Raise the fee of an unconfirmed payment."""

    async def action(_state: State, chain: Chain) -> Outcome:
        await _refuse_unless_unconfirmed(chain, txid)
        by = await chain.bump(txid)
        return f"{txid} is replaced by {by} with a higher fee", {"txid": by, "replaces": txid}

    _act(directory, action, as_json=as_json)


@app.command()
def trigger(
    scenario: Annotated[
        str | None, typer.Argument(metavar="SCENARIO", help="A name, or: list, all. Left out with --file.")
    ] = None,
    directory: Dir = DEFAULT_DIRECTORY,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="A scenario of your own.")] = None,
    invoice: Annotated[
        str | None, typer.Option(metavar="ID", help="Play it on this NEW invoice. [default: one is made]")
    ] = None,
    project: Annotated[
        str | None, typer.Option(metavar="ID", help="Make the invoice in this project. [default: one with the sink]")
    ] = None,
    amount: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Amount of the invoice that is made, such as 25.00.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Play a scenario on the real chain. Exits 1 unless just the expected events come, in order.

    `trigger list` shows which there are, `trigger all` plays all of them.
    """
    if (scenario is None) == (file is None):
        raise typer.BadParameter("name one of them", param_hint="SCENARIO or --file")
    if scenario == "list":
        _say(triggers.listing(), as_json=as_json)
        return
    if invoice is not None and (project is not None or amount is not None):
        raise typer.BadParameter("the invoice has a project and an amount", param_hint="--invoice")
    if scenario == "all" and (invoice, project, amount) != (None, None, None):
        raise typer.BadParameter("each scenario has an invoice of its own", param_hint="all")
    if amount is not None:
        _positive(amount, "--amount")
    wish = triggers.Wish(invoice, project, amount)
    say = _quiet if as_json else typer.echo
    if scenario == "all":
        _tell_all(directory, say, as_json=as_json)
        return
    wanted = scenarios.load(file) if file else scenarios.named(scenario or "")
    played = _on_stage(directory, lambda stage: triggers.trigger(stage, wanted, wish, say))
    if as_json:
        typer.echo(json.dumps(played.to_json()))
    raise typer.Exit(0 if played.outcome.ok else 1)


def _tell_all(directory: Path, say: Callable[[str], None], *, as_json: bool) -> None:
    played = _on_stage(directory, lambda stage: triggers.trigger_all(stage, say))
    failed = [one.outcome.scenario for one in played if not one.outcome.ok]
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "scenarios": [one.to_json() for one in played]}))
    else:
        typer.echo(f"{_count(played, 'scenario')}, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    raise typer.Exit(1 if failed else 0)


def _on_stage(directory: Path, work: Callable[[triggers.Triggers], Awaitable[Any]]) -> Any:
    async def done() -> Any:
        async with triggers.on_stage(directory) as stage:
            return await work(stage)

    try:
        return asyncio.run(done())
    except Transient as error:
        raise NotRunning(error.message, error.hint or "it may be starting again: try once more") from None
    except ExceptionGroup as group:
        errors = group.exceptions
        raise next((error for error in errors if isinstance(error, PaywatchError)), errors[0]) from None


def _quiet(_line: str) -> None:
    """For programs: nothing but the object at the end."""


def parts(amount_sat: int, count: int) -> list[int]:
    """An amount in so many parts, as equal as can be, the larger first. Raises `Rejected` when one would be 0."""
    if amount_sat < count:
        raise Rejected(f"{amount_sat} satoshi cannot be paid in {count} parts")
    least, more = divmod(amount_sat, count)
    return [least + (number < more) for number in range(count)]


def _act(directory: Path, action: Action, *, as_json: bool) -> None:
    """Do one thing to the chain of a running environment, have the node write it down, and tell."""

    async def act() -> Outcome:
        state = states.running_in(directory)
        client = Rpc(state.rpc_url, state.rpc_user, state.rpc_password)
        async with Chain(client, payer=PAYER, receiver=RECEIVER, bitcoind=state.executable) as chain:
            outcome = await action(state, chain)
            await chain.flush()
            return outcome

    try:
        _say(asyncio.run(act()), as_json=as_json)
    except Transient as error:
        raise NotRunning(error.message, error.hint or "it may be starting again: try once more") from None


def _say(outcome: Outcome, *, as_json: bool) -> None:
    typer.echo(json.dumps(outcome[1]) if as_json else outcome[0])


async def _status(state: State, chain: Chain) -> Outcome:
    height = await chain.client.call("getblockcount")
    mempool = await chain.client.call("getrawmempool")
    code, _ = await request("GET", f"{state.api}/readyz")
    announced = state.announcement()
    runs = {name: process.runs for name, process in state.processes.items()}
    told = {**announced, "height": height, "mempool": len(mempool), "ready": code == 200, "running": runs}  # noqa: PLR2004
    lines = [
        f"API       {state.api}/api/v1, {'ready' if told['ready'] else 'not ready'}",
        f"sink      {state.sink}/requests",
        f"bitcoind  {state.rpc_url}, block {height}, {_count(mempool, 'transaction')} in the mempool",
        f"database  {state.database}",
        *(f"{name:9} pid {pid}{'' if runs[name] else ', ended'}" for name, pid in announced["pids"].items()),
    ]
    return "\n".join(lines), told


async def _to_pay(state: State, target: str, amount_sat: int | None) -> tuple[str, int]:
    """Address and amount in satoshi."""
    if not target.startswith("inv_"):
        if amount_sat is None:
            raise Rejected("how much is to be paid to an address?", "add --amount BTC")
        return target, amount_sat
    invoice = await Api(state.api, state.operator_key).get(f"/invoices/{target}")
    remaining_sat = sat(invoice["btc"]) - sat(invoice["paidBtc"])
    if amount_sat is None and remaining_sat <= 0:
        raise Rejected(f"nothing remains due of {target}: it is {invoice['status']}", "pay more with --amount BTC")
    return invoice["address"], remaining_sat if amount_sat is None else amount_sat


async def _refuse_unless_unconfirmed(chain: Chain, txid: str) -> None:
    if not await chain.in_mempool(txid):
        hint = "what is mined already: paywatch regtest reorg N --conflict TXID"
        raise Rejected(f"{txid} is not in the mempool", hint)


async def _down(directory: Path, *, delete: bool) -> Outcome:
    state = states.read(directory)
    if state is None:
        raise NotRunning(f"there is no regtest environment in {directory}")
    was_running = state.up is not None and state.up.runs
    if state.up is not None and was_running:
        await end_process(state.up.pid, SIGTERM, DOWN_SECONDS)
    lock = states.lock(directory)
    if lock is None:
        raise Broken(f"another process holds {directory}/lock")
    with lock:
        left = await states.end_leftovers(states.read(directory) or state)
        if not (was_running or left or delete):
            raise NotRunning(f"no regtest environment runs in {directory}")
        if delete:
            await Postgres(directory).delete()
            _delete(directory)
    ended = was_running or bool(left)
    done = " and ".join(word for word, is_so in (("ended", ended), ("deleted", delete)) if is_so)
    return f"{done} the environment in {directory}", {"ended": ended, "deleted": delete}


def _delete(directory: Path) -> None:
    """Remove what `up` has made but PostgreSQL's data, and the directory if nothing else is in it."""
    for made in ("bitcoind", "logs", "state"):
        shutil.rmtree(directory / made, ignore_errors=True)
    for made in ("sink.jsonl", "state.json", "paywatch.toml", "lock"):
        (directory / made).unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()


def _satoshi(text: str) -> int:
    try:
        return sat(_positive(text, "--amount"))
    except Broken as error:
        raise typer.BadParameter(error.message, param_hint="--amount") from None


def _positive(text: str, option: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not a number", param_hint=option) from None
    if not number.is_finite() or number <= 0:
        raise typer.BadParameter(f"{text} is not a positive number", param_hint=option)
    return number


def _count(things: list[Any], name: str) -> str:
    return _many(len(things), name)


def _many(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
