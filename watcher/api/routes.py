"""The table of all calls below `/api/v1`: the server, the OpenAPI document and `/docs` are made from it."""

from watcher.api import (
    anomalies,
    api_keys,
    deliveries,
    endpoints,
    events,
    invoices,
    operators,
    projects,
    reports,
    webhook_secrets,
)
from watcher.api.dispatch import Route
from watcher.api.schemas import answers, requests
from watcher.api.schemas import api_keys as key_schemas
from watcher.api.schemas import endpoints as of_endpoints
from watcher.api.schemas import webhook_secrets as secret_schemas
from watcher.api.schemas.replays import Queued
from watcher.api.schemas.simulation import Simulated, Simulation

BASE = "/api/v1"

ROUTES = (
    Route(
        "POST", "/projects", projects.create, "Make a project", answers.CreatedProject,
        body=requests.NewProject, status=201, operator_only=True, also=(503,),
    ),
    Route(
        "GET", "/projects", projects.show_all, "List projects", answers.ProjectList,
        query=requests.ProjectPage,
    ),
    Route("GET", "/projects/{id}", projects.show, "Show a project", answers.Project),
    Route(
        "PATCH", "/projects/{id}", projects.change, "Change a project, or switch its mode", answers.Project,
        body=requests.ProjectChange, also=(403,),
    ),
    Route("GET", "/projects/{id}/balance", projects.balance, "Show a project's balance", answers.Balance),
    Route(
        "GET", "/projects/{id}/report", reports.report, "Report a project's confirmed money", answers.Report,
        query=requests.ReportPage, table=reports.table,
    ),
    Route(
        "POST", "/projects/{id}/webhook-secrets", webhook_secrets.rotate_webhook_secret, "Make a new webhook secret",
        secret_schemas.CreatedWebhookSecret, body=secret_schemas.NewWebhookSecret, status=201,
    ),
    Route(
        "GET", "/projects/{id}/webhook-secrets", webhook_secrets.show_webhook_secrets,
        "List a project's webhook secrets", secret_schemas.WebhookSecretList,
    ),
    Route(
        "POST", "/webhook-secrets/{id}/revoke", webhook_secrets.revoke, "Revoke an old webhook secret",
        secret_schemas.WebhookSecret, body=secret_schemas.Revocation, also=(409,),
    ),
    Route(
        "POST", "/projects/{id}/api-keys", api_keys.create_api_key, "Make another key of a project",
        key_schemas.CreatedApiKey, body=key_schemas.KeyChange, status=201, also=(409,),
    ),
    Route("GET", "/projects/{id}/api-keys", api_keys.show_api_keys, "List a project's keys", key_schemas.ApiKeyList),
    Route(
        "POST", "/api-keys/{id}/revoke", api_keys.revoke, "Revoke a project's key", key_schemas.ApiKey,
        body=key_schemas.KeyChange,
    ),
    Route(
        "POST", "/invoices", invoices.create, "Make an invoice", answers.Invoice,
        body=requests.NewInvoice, status=201, also=(404, 503),
    ),
    Route(
        "GET", "/invoices", invoices.show_all, "List invoices", answers.InvoiceList,
        query=requests.InvoicePage, also=(404,),
    ),
    Route("GET", "/invoices/{id}", invoices.show, "Show an invoice", answers.Invoice),
    Route(
        "GET", "/invoices/{id}/events", invoices.show_events, "List what was sent about an invoice",
        answers.EventList, query=requests.LinePage,
    ),
    Route(
        "GET", "/invoices/{id}/timeline", invoices.show_timeline, "List what happened to an invoice, and why",
        answers.Timeline, query=requests.LinePage,
    ),
    Route(
        "POST", "/invoices/{id}/confirm-without-payment", invoices.confirm_without_payment,
        "Confirm a test invoice without payment", answers.Confirmation, also=(409,),
    ),
    Route(
        "POST", "/invoices/{id}/simulate", invoices.simulate, "Play a scenario on a test invoice, without coins",
        Simulated, body=Simulation, also=(409,),
    ),
    Route(
        "POST", "/invoices/{id}/cancel", invoices.cancel, "Cancel a NEW invoice", answers.Invoice,
        body=requests.Cancellation, also=(409,),
    ),
    Route(
        "GET", "/anomalies", anomalies.show_all, "List exceptions: money that is held", answers.AnomalyList,
        query=requests.AnomalyPage, also=(404,),
    ),
    Route("GET", "/anomalies/{id}", anomalies.show, "Show an exception", answers.Anomaly),
    Route(
        "POST", "/anomalies/{id}/resolve", anomalies.resolve, "Decide about held money", answers.Anomaly,
        body=requests.Decision, operator_only=True, also=(409,),
    ),
    Route(
        "GET", "/operator-actions", operators.show_all, "List what operators did, and why",
        answers.OperatorActionList, query=requests.ActionPage, operator_only=True,
    ),
    Route(
        "GET", "/events", events.feed, "Pull a project's events", answers.EventFeed,
        query=requests.Feed, also=(404,),
    ),
    Route(
        "POST", "/events/redeliver", events.redeliver, "Send events again", Queued,
        body=requests.EventReplay, status=202, also=(404,),
    ),
    Route(
        "GET", "/deliveries", deliveries.show_all, "List deliveries", answers.DeliveryList,
        query=requests.DeliveryPage, also=(404,),
    ),
    Route("GET", "/deliveries/{id}", deliveries.show, "Show a delivery with its attempts", answers.DeliveryDetail),
    Route(
        "POST", "/deliveries/{id}/redeliver", deliveries.redeliver, "Send a delivery's event again",
        answers.Delivery, status=202, also=(409,),
    ),
    Route(
        "POST", "/deliveries/{id}/cancel", deliveries.cancel, "Take back a delivery", answers.Delivery,
        body=requests.Withdrawal, operator_only=True, also=(409,),
    ),
    Route(
        "GET", "/endpoints", endpoints.show_all, "List endpoints", of_endpoints.EndpointList,
        query=requests.EndpointPage, also=(404,),
    ),
    Route("GET", "/endpoints/{id}", endpoints.show, "Show an endpoint", of_endpoints.Endpoint),
    Route(
        "PATCH", "/endpoints/{id}", endpoints.change, "Change an endpoint", of_endpoints.Endpoint,
        body=requests.EndpointChange, operator_only=True,
    ),
    Route(
        "POST", "/endpoints/{id}/enable", endpoints.enable, "Send to an endpoint again", of_endpoints.Endpoint,
        body=requests.EndpointAction, also=(403, 409),
    ),
    Route(
        "POST", "/endpoints/{id}/disable", endpoints.disable, "Hold what goes to an endpoint", of_endpoints.Endpoint,
        body=requests.EndpointAction, also=(409,),
    ),
    Route(
        "POST", "/endpoints/{id}/retire", endpoints.retire, "Cancel what waits for the URL of an invoice",
        of_endpoints.RetiredEndpoint, body=requests.EndpointAction, operator_only=True, also=(409,),
    ),
)  # fmt: skip
