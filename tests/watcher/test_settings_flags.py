"""Flags and reference come from the model; so does this test."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from watcher.runtime.config import Settings
from watcher.settings_flags import reference, with_settings

REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def loaded():
    """Run a command with these arguments; the settings it was called with, and what it answered."""

    def load(*arguments: str, environment: dict[str, str] | None = None, code: int = 0):
        seen = []

        def run(settings: Settings, *, name: str = "") -> int:
            """Do a thing."""
            seen.append((settings, name))
            return code

        app = typer.Typer(rich_markup_mode=None)
        app.command()(with_settings(run))
        base = {"PAYWATCH_DATABASE_URL": "postgresql://a"} | (environment or {})
        result = CliRunner().invoke(app, arguments, env=base)
        return (*(seen[0] if seen else (None, None)), result)

    return load


def test_the_reference_is_up_to_date():
    assert REFERENCE.read_text() == reference(), "run: paywatch config reference > docs/configuration.md"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_reference_and_a_flag(name, loaded):
    assert f"| `{name}` | " in reference()
    assert "--" + name.replace("_", "-") in loaded("--help")[2].output


def test_flags_become_settings(loaded):
    settings, name, result = loaded(
        "--api-port", "9000", "--allow-http-targets", "--allow-targets", "127.0.0.0/8, ::1/128",
        "--fixed-rate", "50000.5", "--name", "own",
    )  # fmt: skip
    assert result.exit_code == 0
    assert (settings.api_port, settings.allow_http_targets, name) == (9000, True, "own")
    assert settings.allow_targets == ("127.0.0.0/8", "::1/128")
    assert str(settings.fixed_rate) == "50000.5"


def test_a_flag_counts_before_the_environment_and_what_is_not_given_does_not(loaded):
    environment = {"PAYWATCH_API_PORT": "9000", "PAYWATCH_ALLOW_HTTP_TARGETS": "true", "PAYWATCH_LOG_LEVEL": "debug"}
    settings, _, _ = loaded("--api-port", "9001", "--no-allow-http-targets", environment=environment)
    assert (settings.api_port, settings.allow_http_targets, settings.log_level) == (9001, False, "debug")


def test_the_answer_is_the_exit_code(loaded):
    assert loaded(code=3)[2].exit_code == 3
    assert loaded("--api-port", "none")[2].exception.exit_code == 78


def test_bounds_and_choices_are_told():
    text = reference()
    assert "| `api_port` | at least 1, at most 65535 | `8480` |" in text
    assert "| `log_format` | `auto`, `json`, `text` | `auto` |" in text
    assert "| `database_url` | text | required |" in text
    assert "| `allow_http_targets` | `true`, `false` | `false` |" in text
