"""Every setting as a flag of a command, and the reference of all settings: both made from the model itself."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
import typer
from pydantic.fields import FieldInfo

from watcher.runtime.config import Settings, load

ALL = tuple(Settings.model_fields)
DATABASE = ("database_url",)

_HEAD = """\
# Configuration

Made from the model by `paywatch config reference`; do not edit.

Every setting has one name: `database_url` is the flag `--database-url`, the environment variable
`PAYWATCH_DATABASE_URL` and the TOML key `database_url`. What counts, the first first: the flag, the environment, a file
that `PAYWATCH_DATABASE_URL_FILE` names (for secrets), the TOML file that `--config` or `PAYWATCH_CONFIG` names, the
default. Unknown names are refused everywhere. Give secrets by a file or the environment: flags are seen by every user
of a machine.

| setting | values | default | meaning |
|---|---|---|---|
"""


def with_settings(run: Callable[..., int], names: Sequence[str] = ALL) -> Callable[..., None]:
    """A typer command of `run(settings, **its own options)`, which returns the exit code.

    `names` are the settings that can be given as flags. Raises `Misconfigured` before `run` is called.
    """

    def command(**values: Any) -> None:
        flags = {name: values.pop(name) for name in ("config", *names)}
        settings = load({name: _text(value) for name, value in flags.items() if value is not None})
        if code := run(settings, **values):
            raise typer.Exit(code)

    own = list(inspect.signature(run).parameters.values())[1:]
    signature = inspect.Signature([*own, _config_flag(), *map(_flag, names)])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__doc__ = run.__doc__
    return command


def reference() -> str:
    """docs/configuration.md."""
    return _HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _flag(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    flag = "--" + name.replace("_", "-")
    if field.annotation is bool:
        return _parameter(name, bool | None, f"{flag}/--no-{flag[2:]}", _help(field))
    return _parameter(name, str | None, flag, _help(field))


def _config_flag() -> inspect.Parameter:
    return _parameter("config", str | None, "--config", "TOML file with settings.")


def _parameter(name: str, kind: Any, declaration: str, text: str) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(declaration, help=text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(field: FieldInfo) -> str:
    default = _default(field)
    return f"{field.description} [default: {default}]" if default else str(field.description)


def _text(value: str | bool) -> str:  # noqa: FBT001 - a flag's value
    return str(value).lower() if isinstance(value, bool) else value


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{_default(field)}`" if _default(field) else ""
    return f"| `{name}` | {_values(field)} | {default} | {field.description} |\n"


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default in (None, "", ()):
        return ""
    return _text(field.default) if isinstance(field.default, bool) else str(field.default)


def _values(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    if field.annotation is bool:
        return "`true`, `false`"
    bounds = [bound for rule in field.metadata if (bound := _bound(rule))]
    return ", ".join(bounds) if bounds else "text"


def _bound(rule: object) -> str:
    match rule:
        case annotated_types.Gt(gt=bound):
            return f"more than {bound}"
        case annotated_types.Ge(ge=bound):
            return f"at least {bound}"
        case annotated_types.Le(le=bound):
            return f"at most {bound}"
        case _:
            return ""
