"""`paywatch regtest up`: everything on embedded defaults, kept running until it is told to stop.

The first signal (Ctrl-C, SIGTERM, a closed terminal) stops all of it in order, the second ends it at once.
"""

import asyncio
import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from regtest import state as states
from regtest import story
from regtest.bitcoind import Bitcoind, find_bitcoind
from regtest.environment import SETTINGS, Environment, Options, Report
from regtest.state import State
from regtest.supervisor import Supervisor
from watcher.runtime.errors import PaywatchError

EXIT_KILLED = 130


class AlreadyRunning(PaywatchError):
    """Another `up` holds the directory."""


def up(options: Options, *, as_json: bool = False, with_story: bool | None = None) -> int:
    """Run the environment of a directory; the exit code: 0 after a clean stop.

    `with_story` None: the story is told at the first `up` on a directory, unless `as_json`.
    Raises `AlreadyRunning`, `Misconfigured` and `Unavailable`.
    """
    lock = states.lock(options.directory)
    if lock is None:
        raise AlreadyRunning(
            f"an environment runs in {options.directory} already",
            f"use it, choose another --dir, or end it: paywatch regtest down --dir {options.directory}",
        )
    with lock:
        report = reporter(options.directory, is_quiet=as_json)
        report("looking for a bitcoind; fetching one takes a minute, once")
        bitcoind = find_bitcoind()
        return asyncio.run(_run(options, bitcoind, report, as_json=as_json, with_story=with_story))


def reporter(directory: Path, *, is_quiet: bool) -> Report:
    """A function that writes lines to `up.log`, and to stderr unless it is to be quiet."""
    logs = directory / "logs"
    logs.mkdir(exist_ok=True)

    def report(text: str) -> None:
        with (logs / "up.log").open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n")
        if not is_quiet:
            print(text, file=sys.stderr)

    return report


async def _run(options: Options, bitcoind: Bitcoind, report: Report, *, as_json: bool, with_story: bool | None) -> int:
    stop, kill = catch_signals()
    previous = states.read(options.directory)
    if previous is not None:
        for name in await states.end_leftovers(previous):
            report(f"{name}: ended what an earlier run left")
    environment = Environment(options, bitcoind, previous, report)
    try:
        if await unless(stop, environment.start()):
            state, settings = environment.state, environment.directory / SETTINGS
            print(json.dumps(state.announcement()) if as_json else links(state, settings), flush=True)
            is_told = with_story if with_story is not None else previous is None and not as_json
            say = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
            await _keep_running(environment, stop, report, say if is_told else None)
    finally:
        report("stopping")
        is_clean = await unless(kill, environment.stop())
        if not is_clean:
            await environment.kill()
    return 0 if is_clean else EXIT_KILLED


async def _keep_running(environment: Environment, stop: asyncio.Event, report: Report, say: story.Say | None) -> None:
    """And tell the story meanwhile, if there is somewhere to `say` it."""
    supervisor = Supervisor(environment.parts, environment.note, report)
    telling = asyncio.create_task(story.tell(environment.state, say)) if say else None
    await supervisor.run_until(stop.wait())
    if telling is not None:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError, BrokenPipeError):  # nobody may have listened
            await telling


def catch_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Two events: the first is set by the first signal to end, the second by the second."""
    stop, kill = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (kill if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup has SIGHUP ignored, and it is to stay so.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, told)
    return stop, kill


async def unless(event: asyncio.Event, work: Awaitable[None]) -> bool:
    """Do the work; true when it is done, false when the event came first and the work was cancelled."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not working.done():
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        return False
    await working
    return True


def links(state: State, settings: Path) -> str:
    """What a newcomer needs, for reading."""
    return f"""
paywatch runs on regtest. Ctrl-C ends it; `paywatch regtest up` goes on where it was.

  console       {state.sign_in_link or state.api}{"   makes your account; it works once" if state.sign_in_link else ""}
  API           {state.api}/api/v1   described at {state.api}/docs
  operator key  {state.operator_key}
  webhook sink  {state.sink}/hook   what it received: {state.sink}/requests
  bitcoind      {state.rpc_url}   user {state.rpc_user}, password {state.rpc_password}
  database      {state.database}

In another terminal: paywatch regtest status | mine | pay ID | reorg N | double-spend TXID | bump TXID
Whole scenarios, and whether just the right events come of them: paywatch regtest trigger list
A shop to buy in: PAYWATCH_API={state.api} PAYWATCH_OPERATOR_KEY={state.operator_key} \\
                  {shlex.quote(sys.executable)} docs/shop/shop.py
For all other commands, such as paywatch doctor: export PAYWATCH_CONFIG={shlex.quote(str(settings))}
"""
