"""Posts probes to a project's endpoint, as guarded as every notification, and reads what they are made of."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from notifier.client import Client, open_client
from notifier.guard import Guard
from notifier.rules.delivery import Answer
from notifier.rules.probes import Event, Probe
from notifier.rules.signing import Message
from notifier.unsealing import opened
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool
from watcher.runtime.errors import Broken, Misconfigured
from watcher.runtime.ids import new_id
from watcher.runtime.metrics import paywatch_version
from watcher.runtime.sealing import Keyring

_SECRETS = """
SELECT s.key_number, s.sealed FROM project_secret s
WHERE s.project_id = $1 AND (s.expires_at IS NULL OR s.expires_at > now())
ORDER BY s.expires_at IS NOT NULL, s.key_number DESC
"""


@dataclass(frozen=True, slots=True)
class Prober:
    """Posts to one address."""

    client: Client
    url: str = field(repr=False)

    async def post(self, probe: Probe) -> Answer:
        """Post it with just its own headers; raises nothing but cancellation."""
        message = Message(self.url, probe.event_id, probe.body, (), 1)
        return await self.client.post(message, probe.headers)


def user_agent() -> str:
    """By which probes are told from notifications in a web server's log."""
    return f"paywatch/{paywatch_version()} check-integration"


@asynccontextmanager
async def open_prober(settings: Settings, url: str) -> AsyncIterator[Prober]:
    """A prober for this address, with the notifier's time limit and rules about targets."""
    async with open_client(
        guard=Guard(settings.allow_targets),
        timeout_seconds=settings.delivery_timeout_seconds,
        allow_http=settings.allow_http_targets,
        allow_targets=settings.allow_targets,
        user_agent=user_agent(),
        now=lambda: datetime.now(UTC),
    ) as client:
        yield Prober(client, url)


async def secrets_of(pool: Pool, ring: Keyring, project_id: str) -> tuple[str, ...]:
    """Every secret of the project that holds now, the current one first. Raises `Misconfigured` if one is shut."""
    secrets, fault = opened(ring, project_id, [tuple(row) for row in await pool.fetch(_SECRETS, project_id)])
    if fault is not None:
        raise Misconfigured(fault, "docs/operate.md, The encryption key")
    return secrets


async def event(pool: Pool, event_id: str) -> Event:
    """An event as it is posted. Raises `Broken` when there is none."""
    row = await pool.fetchrow("SELECT id, body FROM event WHERE id = $1", event_id)
    if row is None:
        raise Broken(f"there is no event {event_id}")
    return Event(row["id"], row["body"])


def fresh_ids() -> Iterator[str]:
    """Ids of events that there never were."""
    while True:
        yield new_id("evt")
