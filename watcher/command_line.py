"""What the verbs of `paywatch` have in common: groups, `--json`, and how they tell what came of it."""

import json
from typing import Annotated, Any

import typer

from watcher.runtime.text import printable

Json = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def group(text: str) -> typer.Typer:
    """A group of verbs that shows its help when none is named."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def say(told: dict[str, Any], text: str, as_json: bool) -> None:  # noqa: FBT001 - the option
    """Print one object, as JSON or in words. Nothing in either acts on the terminal, but for the ends of lines."""
    typer.echo(json.dumps(told) if as_json else printable(text, keep="\n"))


def tell(text: str) -> None:
    """Say something beside the data, on stderr."""
    typer.echo(printable(text, keep="\n"), err=True)
