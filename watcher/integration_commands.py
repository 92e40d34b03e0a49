"""`paywatch check-integration`: whether a merchant's endpoint is right."""

import asyncio
from typing import Annotated

import typer

from watcher.command_line import Json, say
from watcher.runtime.config import Settings
from watcher.settings_flags import with_settings


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("check-integration")(with_settings(_check_integration))


def _check_integration(
    settings: Settings,
    *,
    project: Annotated[str, typer.Option(metavar="ID", help="The project, in test mode; its endpoint is posted to.")],
    scenarios: Annotated[
        bool, typer.Option("--scenarios/--no-scenarios", help="Whether whole scenarios are played too.")
    ] = True,
    as_json: Json = False,
) -> int:
    """Try a project's endpoint; say what to mend. Exits 1 when something fails.

    Real events of test invoices are posted, and variants of them: with wrong signatures, old, doubled, several at once.
    All of them have test: true. A notifier and a watcher must run.
    """
    from watcher.integration import check

    async def tell() -> dict[str, int]:
        counts = dict.fromkeys(("pass", "fail", "not judged"), 0)
        async for finding in check(settings, project, with_scenarios=scenarios):
            counts[finding.verdict] += 1
            told = {"check": finding.check, "verdict": finding.verdict, "seen": finding.seen}
            text = f"{finding.verdict:11} {finding.check}: {finding.seen}"
            advice = {"advice": finding.advice} if finding.advice else {}
            say(told | advice, text + (f"\n{'':12}mend: {finding.advice}" if advice else ""), as_json)
        return counts

    counts = asyncio.run(tell())
    if not as_json:
        typer.echo(f"{counts['pass']} pass, {counts['fail']} fail, {counts['not judged']} not judged")
    return 1 if counts["fail"] else 0
