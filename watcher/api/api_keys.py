"""The calls about the keys by which a project asks."""

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import conflict, not_found
from watcher.api.schemas.api_keys import KeyChange
from watcher.api.schemas.requests import Nothing
from watcher.runtime.db import Connection
from watcher.store import actions, api_keys, projects

KEYS_MAX = 20


async def create_api_key(call: Call[KeyChange, Nothing]) -> Answer:
    """Make another key of the project, shown this once. The others stay valid, so that a shop can change over."""
    async with call.work() as connection:
        await _check(call, connection)
        if len(await api_keys.of_project(connection, call.id)) >= KEYS_MAX:
            raise conflict(f"the project has {KEYS_MAX} keys: revoke those that nobody uses")
        key_id, key = await api_keys.create(connection, call.id, call.now)
        await _log(call, connection, "create_api_key", {"projectId": call.id, "keyId": key_id})
        [made] = [one for one in await api_keys.of_project(connection, call.id) if one.id == key_id]
        return await call.answer(connection, Answer(201, documents.api_key(made), {"apiKey": key}))


async def show_api_keys(call: Call[Nothing, Nothing]) -> Answer:
    """The project's keys that can be used; never the keys themselves."""
    async with call.snapshot() as connection:
        await _check(call, connection)
        found = await api_keys.of_project(connection, call.id)
    return Answer(200, {"items": [documents.api_key(one) for one in found], "nextCursor": None})


async def revoke(call: Call[KeyChange, Nothing]) -> Answer:
    """End a project's key now. The last one too: then an operator makes another."""
    async with call.work() as connection:
        project_id = await api_keys.project_of(connection, call.id)
        if project_id is None or not call.sees(project_id):
            raise not_found("key")
        ended = await api_keys.revoke(connection, project_id, call.id, call.now)
        if ended is None:
            raise not_found("key")
        await _log(call, connection, "revoke_api_key", {"projectId": project_id, "keyId": call.id})
        return await call.answer(connection, Answer(200, documents.api_key(ended)))


async def _check(call: Call[KeyChange, Nothing] | Call[Nothing, Nothing], connection: Connection) -> None:
    if not call.sees(call.id) or await projects.find(connection, call.id) is None:
        raise not_found("project")


async def _log(call: Call[KeyChange, Nothing], connection: Connection, action: str, detail: dict[str, str]) -> None:
    reason = call.body.reason or actions.NO_REASON
    await actions.log(connection, call.principal.key_id, action, reason, detail, call.now)
