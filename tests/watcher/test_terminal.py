"""How commands tell what they did."""

import json

import pytest
import typer
from typer.testing import CliRunner

from watcher.terminal import group, say


@pytest.mark.parametrize(("as_json", "printed"), [(False, "one ä"), (True, json.dumps({"a": "ä"}))])
def test_for_people_or_for_programs(capsys: pytest.CaptureFixture[str], printed: str, *, as_json: bool):
    say({"a": "ä"}, "one ä", as_json)
    assert capsys.readouterr().out == f"{printed}\n"


def test_a_group_without_a_command_shows_its_help():
    things = group("Things.")
    things.command("list")(lambda: typer.echo("nothing"))
    things.callback()(lambda: None)
    shown = CliRunner().invoke(things, [])
    assert "Things." in shown.output
    assert "list" in shown.output
    assert CliRunner().invoke(things, ["list"]).output == "nothing\n"
