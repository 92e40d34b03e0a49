"""What verbs have in common."""

import json

import pytest
from typer.testing import CliRunner

from watcher.command_line import group, say


def test_a_group_without_a_verb_shows_its_help():
    verbs = group("What it is about.")
    for name in ("one", "other"):
        verbs.command(name)(lambda: None)
    shown = CliRunner().invoke(verbs, [])
    assert "What it is about." in shown.output


@pytest.mark.parametrize("as_json", [True, False])
def test_an_object_is_told_as_json_or_in_words(capsys, *, as_json: bool):
    say({"a": "ü"}, "in words", as_json)
    told = capsys.readouterr().out
    assert (json.loads(told) if as_json else told) == ({"a": "ü"} if as_json else "in words\n")
