"""What the groups of commands have in common: how a group looks, and that everything can be told as JSON."""

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def group(text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def say(told: dict[str, Any], text: str, as_json: bool) -> None:  # noqa: FBT001 - the option
    """Print it for programs or for people."""
    typer.echo(json.dumps(told) if as_json else text)
