"""The story that `paywatch regtest up` tells a newcomer: one invoice, from its creation to the merchant's webhook."""

from collections.abc import Callable
from typing import Any

from regtest.api import Api, request
from regtest.chain import Chain
from regtest.received import Request
from regtest.rpc import Rpc
from regtest.state import PAYER, State
from regtest.wait import wait_for
from regtest.wallet import sat
from watcher.runtime.errors import PaywatchError

AMOUNT, CURRENCY = "25.00", "EUR"
WEBHOOK_SECONDS = 20.0

Say = Callable[[str], None]


async def tell(state: State, say: Say) -> None:
    """Play it and tell each step. A failure is told too, and harms nothing."""
    try:
        await _play(state, say)
    except PaywatchError as error:
        say(f"\nThe story ends here: {error.message}\n{error.hint}\nEverything still runs; the logs say more.\n")


async def _play(state: State, say: Say) -> None:
    chain = Chain(Rpc(state.rpc_url, state.rpc_user, state.rpc_password), payer=PAYER)
    project = await _add_project(state)
    api = Api(state.api, project["apiKey"])
    say(f"A shop    {project['name']} ({project['id']}) takes payments in {CURRENCY}.")

    invoice = await api.post("/invoices", {"amount": AMOUNT, "currency": CURRENCY, "reference": "order-1"})
    say(f"asks for  {AMOUNT} {CURRENCY} = {invoice['btc']} BTC, to {invoice['address']}:")
    say(f"          {invoice['paymentUrl']}")

    txid = await chain.pay(invoice["address"], sat(invoice["btc"]))
    await chain.flush()
    say(f"is paid   by transaction {txid}")

    webhook = await _webhook(state, invoice["id"])
    event = webhook.json
    say(f"is told   {event['type']} (event {event['data']['eventId']}), signature verified,")
    say(f"          received {webhook.received_at:%H:%M:%S.%f}: {state.sink}/requests?invoiceId={invoice['id']}")
    final = await api.get(f"/invoices/{invoice['id']}")
    say(f"and reads {final['status']}, paid {final['paidAmount']} of {final['amount']} {final['currency']}.\n")


async def _add_project(state: State) -> dict[str, Any]:
    """A project that notifies the sink, and the sink knows its secret."""
    body = {"name": "Corner shop", "notificationUrl": f"{state.sink}/hook/corner-shop", "currency": CURRENCY}
    project = await Api(state.api, state.operator_key).post("/projects", body)
    secret = {"secret": project["webhookSecret"], "projectId": project["id"]}
    status, answer = await request("POST", f"{state.sink}/secrets", json=secret)
    if status >= 400:  # noqa: PLR2004 - of HTTP
        raise PaywatchError(f"the sink refuses the secret: {answer}")
    return project


async def _webhook(state: State, invoice_id: str) -> Request:
    """The first verified notification about the invoice."""

    async def verified() -> Request | None:
        _, answer = await request("GET", f"{state.sink}/requests?invoiceId={invoice_id}")
        return next((Request.from_json(item) for item in answer["items"] if item["verified"]), None)

    found = await wait_for(verified, WEBHOOK_SECONDS, "a verified webhook")
    assert found is not None
    return found
