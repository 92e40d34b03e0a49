"""Logs: constant event names, decisions as fields, secrets never.

Text on a terminal, else one JSON object a line; always to stderr, since stdout carries data.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from watcher.runtime.text import printable

SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]+|pw_[a-z]+_[A-Za-z0-9_-]{20,}|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")


def redact(value: str) -> str:
    """Webhook secrets, API keys and passwords in URLs become ***."""
    return SECRET.sub("***", value)


def _redact(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = redact(value)
    return fields


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
            _redact,
            *([_escape] if text else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)
