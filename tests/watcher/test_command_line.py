"""What verbs have in common."""

import json

import pytest
from typer.testing import CliRunner

from watcher.command_line import group, say, tell


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


def test_nothing_that_is_told_acts_on_the_terminal(capsys):
    for as_json in (True, False):
        say({"a": "\x1b[31m\0"}, "one\x1b[31m\0\ntwo", as_json)
    tell("a\x1b]0;title\x07")
    told = capsys.readouterr()
    assert told.out == '{"a": "\\u001b[31m\\u0000"}\none\\x1b[31m\\x00\ntwo\n'
    assert told.err == "a\\x1b]0;title\\x07\n"
