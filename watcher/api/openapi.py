"""The OpenAPI 3.1.1 document, made from the route table and the same models that check requests."""

import inspect
from typing import Any

from openapi_pydantic import OpenAPI
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from watcher.api.dispatch import JSON, Route
from watcher.api.errors import CONTENT_TYPE
from watcher.api.routes import BASE, ROUTES
from watcher.api.schemas import answers
from watcher.api.schemas.base import ENDPOINT, ID, OUTPOINT, Model
from watcher.api.schemas.health import Health
from watcher.api.schemas.requests import Nothing
from watcher.api.tables import CSV
from watcher.runtime.metrics import paywatch_version

REF = "#/components/schemas/{model}"

DESCRIPTION = """\
Receive bitcoin payments: make an invoice, show its address, be told when it is paid.

Amounts are strings: BTC with eight decimals, other currencies with their own minor digits. Times are RFC 3339 in UTC.
Lists answer `items` and `nextCursor`, which is given as `cursor` for the next page and null at the end.
Errors are `application/problem+json`. A POST may carry an `Idempotency-Key`: for 24 hours the same key and body
answer the same, without doing it again.
"""

PROBLEMS = {
    400: "It cannot be read: no JSON, no UTF-8.",
    401: "No key, or none that is valid.",
    403: "The key may not do this.",
    404: "There is no such object, or it belongs to another project.",
    409: "Not in this state; or a request with this Idempotency-Key is still running.",
    413: "The body is larger than 64 KiB.",
    422: "A field is wrong; `errors` says which and why.",
    503: "The database, the node or a rate is away at the moment: try again after Retry-After seconds.",
}

EVENTS = {
    "invoice.new": "A partial payment was taken back: the invoice is NEW again.",
    "invoice.underpaid": "A part was paid.",
    "invoice.unconfirmed": "All was paid, and waits for confirmations.",
    "invoice.confirmed": "All was paid, and has the confirmations it needs.",
    "invoice.invalid": "Final: overpaid, underpaid at expiry, or taken back.",
    "invoice.expired": "Final: nothing was paid in time.",
    "invoice.anomaly": "Money came that no longer changes the invoice.",
}

WEBHOOK_HEADERS = {
    "webhook-id": "The event's id, the same at every attempt: de-duplicate by it.",
    "webhook-timestamp": "Of the attempt, in seconds since 1970.",
    "webhook-signature": "`v1,` and the base64 of HMAC-SHA256 over id.timestamp.body; several during a key rotation.",
}

IDS = {
    "projects": f"^prj_{ID}$", "invoices": f"^inv_{ID}$", "deliveries": f"^dlv_{ID}$", "anomalies": f"^{OUTPOINT}$",
    "webhook-secrets": f"^sec_{ID}$",
    "api-keys": f"^key_{ID}$",
    "endpoints": ENDPOINT,
}  # fmt: skip

Json = dict[str, Any]


def openapi_document(base_url: str) -> Json:
    """The document; it is checked to be one by being read as such."""
    document = {
        "openapi": "3.1.1",
        "info": {"title": "paywatch", "version": paywatch_version(), "description": DESCRIPTION},
        "servers": [{"url": base_url}],
        "security": [{"key": []}],
        "paths": _paths() | _probes(),
        "webhooks": {event: _webhook(event, summary) for event, summary in EVENTS.items()},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
            "schemas": _schemas(),
        },
    }
    checked: Json = OpenAPI.model_validate(document).model_dump(by_alias=True, exclude_unset=True, mode="json")
    return checked


class _Untitled(GenerateJsonSchema):
    """Without a title that repeats each field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        del schema
        return False


def _schemas() -> Json:
    models = {route.answer for route in ROUTES} | {route.body for route in ROUTES if route.body is not Nothing}
    models |= {answers.Webhook, answers.AnomalyWebhook, answers.Problem, Health}
    ordered = sorted(models, key=lambda model: model.__name__)
    wanted: list[tuple[type[Model], JsonSchemaMode]] = [(model, "validation") for model in ordered]
    _, schemas = models_json_schema(wanted, ref_template=REF, schema_generator=_Untitled)
    definitions: Json = schemas["$defs"]
    return definitions


def _content(model: type[Model], content_type: str = JSON) -> Json:
    return {content_type: {"schema": {"$ref": REF.format(model=model.__name__)}}}


def _paths() -> Json:
    paths: Json = {}
    for route in ROUTES:
        paths.setdefault(BASE + route.path, {})[route.method.lower()] = _operation(route)
    return paths


def _operation(route: Route) -> Json:
    group = route.path.split("/")[1]
    operation: Json = {
        "operationId": f"{group}.{route.handler.__name__}",
        "tags": [group],
        "summary": route.summary,
        "description": inspect.cleandoc(route.handler.__doc__ or ""),
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.body is not Nothing:
        operation["requestBody"] = {"required": route.needs_body, "content": _content(route.body)}
    return operation


def _parameters(route: Route) -> list[Json]:
    parameters = [_in_query(*item) for item in _properties(route.query).items()]
    if "{id}" in route.path:
        schema = {"type": "string", "pattern": IDS[route.path.split("/")[1]]}
        parameters.insert(0, {"name": "id", "in": "path", "required": True, "schema": schema})
    if route.method == "POST":
        schema = {"type": "string", "pattern": "^[!-~]{1,255}$"}
        description = "Makes a repeated request harmless."
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": schema, "description": description})
    return parameters


def _properties(model: type[Model]) -> Json:
    schema = model.model_json_schema(ref_template=REF, schema_generator=_Untitled)
    properties: Json = schema.get("properties", {})
    return properties


def _in_query(name: str, schema: Json) -> Json:
    """A query parameter. It may be left out, but it has no null."""
    about = {"description": schema.pop("description")} if "description" in schema else {}
    given = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    return {"name": name, "in": "query", "schema": given[0] if given else schema, **about}


def _responses(route: Route) -> Json:
    usual = {400, 401, 422, 503} | set(route.also)
    usual |= {404} if "{id}" in route.path else set()
    usual |= {403} if route.operator_only else set()
    usual |= {409} if route.method == "POST" else set()
    usual |= {413} if route.method in ("POST", "PATCH") else set()
    table: Json = {CSV: {"schema": {"type": "string"}}} if route.table else {}
    success = {"description": route.summary, "content": _content(route.answer) | table}
    return {str(route.status): success} | {str(status): _problem(status) for status in sorted(usual)}


def _problem(status: int) -> Json:
    return {"description": PROBLEMS[status], "content": _content(answers.Problem, CONTENT_TYPE)}


def _probes() -> Json:
    """The calls for operators' machines, at the server's root and without a key."""
    ok = {"description": "It works.", "content": _content(Health)}
    verbose = {"name": "verbose", "in": "query", "schema": {"type": "string"}, "description": "Show every check."}
    common: Json = {"security": [], "tags": ["operations"]}
    return {
        "/livez": {"get": common | {
            "operationId": "livez", "summary": "The process answers", "responses": {"200": ok},
        }},
        "/readyz": {"get": common | {
            "operationId": "readyz", "summary": "Everything that is needed works", "parameters": [verbose],
            "responses": {"200": ok, "503": _problem(503)},
        }},
    }  # fmt: skip


def _webhook(event: str, summary: str) -> Json:
    model = answers.AnomalyWebhook if event == "invoice.anomaly" else answers.Webhook
    headers = [
        {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": description}
        for name, description in WEBHOOK_HEADERS.items()
    ]
    return {"post": {
        "operationId": event,
        "tags": ["webhooks"],
        "summary": summary,
        "parameters": headers,
        "requestBody": {"required": True, "content": _content(model)},
        "responses": {
            "2XX": {"description": "Received."},
            "410": {"description": "Send nothing here any more: the endpoint is disabled, its deliveries are held."},
            "default": {"description": "Not received: it is sent again, for about three days."},
        },
        "security": [],
    }}  # fmt: skip
