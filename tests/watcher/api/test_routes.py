"""The table of calls is the contract's."""

from watcher.api.routes import ROUTES

CONTRACT = """
POST /projects
GET /projects
GET /projects/{id}
PATCH /projects/{id}
GET /projects/{id}/balance
GET /projects/{id}/report
POST /projects/{id}/webhook-secrets
GET /projects/{id}/webhook-secrets
POST /webhook-secrets/{id}/revoke
POST /projects/{id}/api-keys
GET /projects/{id}/api-keys
POST /api-keys/{id}/revoke
POST /invoices
GET /invoices
GET /invoices/{id}
GET /invoices/{id}/events
GET /invoices/{id}/timeline
POST /invoices/{id}/confirm-without-payment
POST /invoices/{id}/simulate
POST /invoices/{id}/cancel
GET /anomalies
GET /anomalies/{id}
POST /anomalies/{id}/resolve
GET /operator-actions
GET /events
GET /deliveries
GET /deliveries/{id}
POST /deliveries/{id}/redeliver
POST /deliveries/{id}/cancel
GET /endpoints
GET /endpoints/{id}
PATCH /endpoints/{id}
POST /endpoints/{id}/enable
POST /endpoints/{id}/disable
POST /endpoints/{id}/retire
POST /events/redeliver
"""


def test_every_call_of_the_contract_is_there_and_no_other():
    assert sorted(f"{route.method} {route.path}" for route in ROUTES) == sorted(CONTRACT.split("\n")[1:-1])


def test_what_is_for_operators_alone():
    only = {f"{route.method} {route.path}" for route in ROUTES if route.operator_only}
    assert only == {
        "POST /projects", "POST /anomalies/{id}/resolve", "GET /operator-actions", "POST /deliveries/{id}/cancel",
        "PATCH /endpoints/{id}", "POST /endpoints/{id}/retire",
    }  # fmt: skip
