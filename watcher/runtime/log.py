"""Logs: constant event names, decisions as fields, secrets never.

Text on a terminal, else one JSON object a line; always to stderr, since stdout carries data.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog

from watcher.runtime.text import printable

SECRET = re.compile(
    r"whsec_[A-Za-z0-9+/=_-]+"
    r"|pw_[a-z]+_[A-Za-z0-9_-]{20,}"
    r"|[A-Za-z0-9+/]{43}=(?![A-Za-z0-9+/=])"  # 32 bytes in base64, whatever stands before: encryption keys
    r"|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"
)


def redact(text: str) -> str:
    """Webhook secrets, API keys, encryption keys and passwords in URLs become ***."""
    return SECRET.sub("***", text)


class _Redacted:
    """Redacts the line as it is written, so that nothing is passed over: nested values, names of fields, tracebacks."""

    def __init__(self, render: structlog.typing.Processor) -> None:
        self._render = render

    def __call__(self, logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
        return redact(str(self._render(logger, method, fields)))


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What nobody has caught ends the process, and is told as a line like any other."""
    if not issubclass(kind, Exception):  # Ctrl-C
        sys.__excepthook__(kind, error, trace)
        return
    structlog.get_logger().critical("crashed", exc_info=(kind, error, trace))


def _escape(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What others wrote does nothing to a terminal; JSON escapes by itself."""
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = printable(value, keep="\n" if name == "exception" else "")
    return fields


class _Libraries(logging.Handler):
    """What libraries say by the standard library's logging goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        level = max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL))
        said = {"logger": record.name, "message": record.getMessage(), "exc_info": record.exc_info}
        structlog.get_logger().log(level, "library", **said)


def configure(level: str, style: str, role: str) -> None:
    """Set up structlog for a process; `style` is auto, json or text."""
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([_escape] if text else []),
            _Redacted(renderer),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)
    sys.excepthook = _crashed
