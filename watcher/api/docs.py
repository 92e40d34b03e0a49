"""`/docs`: the OpenAPI document as one page, rendered here; it loads nothing from anywhere."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from watcher.api.rendering import html

Json = dict[str, Any]

STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; } h3 { margin-top: 2rem; }
code { background: #f2f2f2; padding: .1rem .3rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } tr { border-top: 1px solid #ddd; }
td { text-align: left; vertical-align: top; padding: .3rem .6rem; } td:last-child { width: 50%; }
td:first-child code { overflow-wrap: normal; }
nav { columns: 2; } pre { white-space: pre-wrap; font: inherit; }
"""


def docs_page(document: Json) -> Handler:
    """The handler of the page."""
    page = _page(document)
    policy = _policy(STYLE)

    async def handler(_request: web.Request) -> web.Response:
        return html(page, policy=policy)

    return handler


def _policy(style: str) -> str:
    """Nothing but this one inline style: no script, no frame, no form, no other origin."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _page(document: Json) -> str:
    info = document["info"]
    calls = [
        (f"{method.upper()} {path}", call) for path, item in document["paths"].items() for method, call in item.items()
    ]
    hooks = [(name, item["post"]) for name, item in document["webhooks"].items()]
    schemas = document["components"]["schemas"]
    links = "".join(f'<a href="#{_anchor(name)}"><code>{escape(name)}</code></a><br>' for name, _ in (*calls, *hooks))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><pre>{escape(info['description'])}</pre>"
        f'<p>The same for machines: <a href="/api/v1/openapi.json">openapi.json</a></p><nav>{links}</nav>'
        f"<h2>Calls</h2>{''.join(_call(*call) for call in calls)}"
        f"<h2>Webhooks</h2>{''.join(_call(*hook) for hook in hooks)}"
        f"<h2>Objects</h2>{''.join(_schema(name, schema) for name, schema in sorted(schemas.items()))}"
        "</body></html>"
    )


def _call(name: str, call: Json) -> str:
    body = call.get("requestBody", {}).get("content", {})
    sent = "".join(f"<p>Body: {_type(media['schema'])}</p>" for media in body.values())
    parameters = [
        (_code(item["name"]), item["in"], _type(item["schema"]), escape(item.get("description", "")))
        for item in call.get("parameters", ())
    ]
    return (
        f'<h3 id="{_anchor(name)}"><code>{escape(name)}</code></h3><p>{escape(call["summary"])}</p>'
        f"<pre>{escape(call.get('description', ''))}</pre>{sent}"
        f"{_table(parameters)}{_table([_answer(status, answer) for status, answer in call['responses'].items()])}"
    )


def _answer(status: str, answer: Json) -> tuple[str, str, str]:
    types = " ".join(_type(media["schema"]) for media in answer.get("content", {}).values())
    return _code(status), types, escape(answer["description"])


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = [
        (_code(field), _type(of), "" if field in required else "optional", escape(of.get("description", "")))
        for field, of in schema.get("properties", {}).items()
    ]
    values = " ".join(_code(value) for value in schema.get("enum", ()))
    text = escape(schema.get("description", ""))
    return f'<h3 id="{_anchor(name)}">{escape(name)}</h3><pre>{text}</pre><p>{values}</p>{_table(rows)}'


def _type(schema: Json) -> str:
    """A schema in a few words, with links to the objects that it names."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    limits = [f"{word} {_code(schema[key])}" for key, word in _LIMITS.items() if key in schema]
    return " ".join([escape(schema.get("type", "anything")), *limits])


_LIMITS = {
    "format": "", "const": "", "pattern": "like", "minimum": "from", "maximum": "to", "minLength": "from length",
    "maxLength": "to length", "default": "default",
}  # fmt: skip


def _code(value: object) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"<code>{escape(shown)}</code>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows whose cells are HTML already."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>" if rows else ""


def _anchor(name: str) -> str:
    return "".join(mark if mark.isalnum() else "-" for mark in name)
