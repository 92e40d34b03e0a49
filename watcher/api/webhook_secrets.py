"""The calls about the secrets that notifications are signed with."""

from datetime import timedelta

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import conflict, not_found
from watcher.api.schemas.requests import Nothing
from watcher.api.schemas.webhook_secrets import NewWebhookSecret, Revocation
from watcher.runtime.db import Connection
from watcher.runtime.sealing import Keyring
from watcher.store import actions, projects, webhook_secrets
from watcher.store.webhook_secrets import WebhookSecret


async def rotate_webhook_secret(call: Call[NewWebhookSecret, Nothing]) -> Answer:
    """Make a new secret, shown this once, that notifications are signed with from now on.

    Until the one before ends (`graceSeconds`), they carry a signature by each, so that a receiver verifies with either.
    Beside the current one four old ones are kept at the most; the oldest ends at once.
    """
    ring = Keyring.required(call.context.settings)
    grace = timedelta(seconds=call.body.grace_seconds)
    async with call.work() as connection:
        await _lock(call, connection)
        made, secret = await webhook_secrets.create(connection, call.id, ring, grace)
        detail = {"projectId": call.id, "secretId": made.id, "graceSeconds": call.body.grace_seconds}
        await actions.log(
            connection,
            call.principal.key_id,
            "rotate_webhook_secret",
            call.body.reason or actions.NO_REASON,
            detail,
            call.now,
        )
        answer = Answer(201, documents.webhook_secret(made), {"webhookSecret": secret})
        return await call.answer(connection, answer)


async def _lock(call: Call[NewWebhookSecret, Nothing], connection: Connection) -> None:
    if not call.sees(call.id) or await projects.find(connection, call.id, lock=True) is None:
        raise not_found("project")


async def show_webhook_secrets(call: Call[Nothing, Nothing]) -> Answer:
    """The secrets that notifications are signed with now, the current one first; never the secrets themselves."""
    if not call.sees(call.id) or await projects.find(call.context.pool, call.id) is None:
        raise not_found("project")
    found = await webhook_secrets.valid(call.context.pool, call.id)
    return Answer(200, {"items": [documents.webhook_secret(one) for one in found], "nextCursor": None})


async def revoke(call: Call[Revocation, Nothing]) -> Answer:
    """End an old secret now. The current one is ended by making a new one with `graceSeconds` 0."""
    async with call.work() as connection:
        found = await _found(call, connection)
        await projects.find(connection, found.project_id, lock=True)  # nobody makes a new one meanwhile
        if (await _found(call, connection)).expires_at is None:
            raise conflict(
                "this is the current secret, without which nothing could be signed; a new one with graceSeconds 0 ends "
                f"it: POST /projects/{found.project_id}/webhook-secrets"
            )
        ended = await webhook_secrets.revoke(connection, call.id)
        detail = {"projectId": ended.project_id, "secretId": ended.id}
        await actions.log(
            connection,
            call.principal.key_id,
            "revoke_webhook_secret",
            call.body.reason or actions.NO_REASON,
            detail,
            call.now,
        )
        return await call.answer(connection, Answer(200, documents.webhook_secret(ended)))


async def _found(call: Call[Revocation, Nothing], connection: Connection) -> WebhookSecret:
    found = await webhook_secrets.find(connection, call.id)
    if found is None or not call.sees(found.project_id):
        raise not_found("webhook secret")
    return found
