"""The calls about projects."""

from watcher.api import documents
from watcher.api.dispatch import Answer, Call
from watcher.api.errors import Problem, about, not_found, unprocessable
from watcher.api.policies import changed_policy, policy_of
from watcher.api.schemas.requests import NewProject, Nothing, ProjectChange, ProjectPage
from watcher.runtime.ids import new_id
from watcher.runtime.sealing import Keyring
from watcher.runtime.targets import check_notification_url
from watcher.store import api_keys, descriptors, projects, webhook_secrets
from watcher.store.descriptors import Derived
from watcher.store.projects import Project


async def create(call: Call[NewProject, Nothing]) -> Answer:
    """Make a project with its key, its signing secret, and a descriptor that has its first addresses.

    The node is asked only about a descriptor that is new to us, and before the transaction begins.
    """
    ring = Keyring.required(call.context.settings)
    _check_notification_url(call, call.body.notification_url)
    policy = policy_of(call.body, call.body.currency)
    text, derived = await _descriptor(call)
    async with call.work() as connection:
        descriptor_id = await descriptors.add(connection, text, derived)
        project = Project(
            new_id("prj"), call.body.name, "test", call.body.currency, descriptor_id, text, policy,
            call.body.notification_url, "active", call.now.replace(microsecond=0),
        )  # fmt: skip
        await projects.insert(connection, project)
        _, secret = await webhook_secrets.create(connection, project.id, ring)
        _, key = await api_keys.create(connection, project.id, call.now)
        document = documents.project(project, to_operator=True)
        return await call.answer(connection, Answer(201, document, {"apiKey": key, "webhookSecret": secret}))


async def _descriptor(call: Call[NewProject, Nothing]) -> tuple[str, Derived]:
    """The descriptor's text, and its first addresses if it is not known yet."""
    asked = call.body.descriptor or call.context.settings.default_descriptor
    if not asked:
        raise unprocessable([("descriptor", "is missing, and this server has no default one")])
    if await descriptors.is_known(call.context.pool, asked):
        return asked, ()
    with about("descriptor"):
        text = await call.context.source.describe(asked)
        return text, await call.context.source.derive(text, 0, descriptors.FIRST_BATCH)


def _check_notification_url(call: Call[NewProject, Nothing] | Call[ProjectChange, Nothing], url: str) -> None:
    with about("notificationUrl"):
        check_notification_url(url, call.context.settings)


async def show_all(call: Call[Nothing, ProjectPage]) -> Answer:
    """All projects for an operator; a project's key sees its own."""
    query, own = call.query, call.principal.project
    found = await projects.page(call.context.pool, [own.id] if own else None, query.cursor, query.limit)
    items = [documents.project(project, to_operator=own is None) for project in found]
    return Answer(200, documents.listing(items, query.limit))


async def show(call: Call[Nothing, Nothing]) -> Answer:
    """One project."""
    return Answer(200, documents.project(await _found(call), to_operator=call.principal.project is None))


async def _found(call: Call[Nothing, Nothing] | Call[ProjectChange, Nothing]) -> Project:
    project = await projects.find(call.context.pool, call.id) if call.sees(call.id) else None
    if project is None:
        raise not_found("project")
    return project


async def change(call: Call[ProjectChange, Nothing]) -> Answer:
    """Change what is given. Only an operator may switch between test and live."""
    project = await _found(call)
    body, url = call.body, call.body.notification_url
    if body.mode is not None and call.principal.project is not None:
        raise Problem(403, "only an operator's key may change the mode")
    if url is not None:
        _check_notification_url(call, url)
    async with call.work() as connection:
        locked = await projects.find(connection, project.id, lock=True)
        assert locked is not None  # projects are never deleted
        policy = changed_policy(locked.policy, body, locked.currency)
        await projects.update(connection, project.id, name=body.name, mode=body.mode, policy=policy)
        if url is not None:
            await projects.set_notification_url(connection, project.id, url)
        changed = await projects.find(connection, project.id)
        assert changed is not None
    return Answer(200, documents.project(changed, to_operator=call.principal.project is None))


async def balance(call: Call[Nothing, Nothing]) -> Answer:
    """The project's money by ledger account."""
    project = await _found(call)
    return Answer(200, documents.balance(await projects.balance(call.context.pool, project.id)))
