"""`paywatch listen`: the events of a project, read from the API's feed and posted to a developer's own machine.

It posts as the notifier does, with the same bytes, headers and limits, signed with a secret of its own. It is a tool
for development: an event that is refused is tried a few times, and then the next one has its turn.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp

from notifier.client import Client, open_client
from notifier.guard import Guard
from notifier.rules.delivery import Answer, Outcome
from notifier.rules.signing import Message
from watcher.runtime.errors import PaywatchError, Rejected, Transient, Unavailable
from watcher.runtime.metrics import paywatch_version

WAIT_SECONDS = 25  # that the API waits for an event before it answers with none
ANSWER_SECONDS = 15.0  # that it may take beyond that
POST_SECONDS = 15.0  # as the notifier's default
PAGE = 50
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0  # for an API that is away
RETRY_SECONDS = (1.0, 2.0, 4.0)  # between the tries of an event that is refused

# The target is the developer's own: any address but link-local ones, which no web server of theirs has.
ANY_TARGET = ("0.0.0.0/0", "::/0")


class NoSuchProject(PaywatchError):
    """The API knows no such project, or the key is for another one."""

    exit_code = 3


class NoSuchCursor(Rejected):
    """The feed has never named this cursor: it is behind the newest event, or no number of one."""


@dataclass(frozen=True, slots=True)
class Source:
    """Whose events: the API's address without a slash at the end, a key, and with an operator's key the project."""

    api: str
    key: str = field(repr=False)
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the feed; `body` has the bytes that the notifier posts."""

    id: str
    cursor: str
    type: str
    data: dict[str, Any] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Try:
    """One POST of an event, and how long until the next one; None: there is none."""

    event: Event
    number: int
    answer: Answer
    pause_seconds: float | None

    @property
    def is_taken(self) -> bool:
        """Whether the receiver answered 2xx."""
        return self.answer.outcome is Outcome.SUCCESS


@dataclass(frozen=True, slots=True)
class Feed:
    """The feed of one project."""

    session: aiohttp.ClientSession
    source: Source

    async def page(self, after: str, *, wait_seconds: int = 0, limit: int = PAGE) -> list[Event]:
        """The next events behind a cursor. Raises `Transient`, `Rejected`, `NoSuchCursor` and `NoSuchProject`."""
        query = {"after": after, "wait": str(wait_seconds), "limit": str(limit)}
        if self.source.project_id is not None:
            query["projectId"] = self.source.project_id
        timeout = aiohttp.ClientTimeout(total=wait_seconds + ANSWER_SECONDS)
        headers = {"authorization": f"Bearer {self.source.key}"}
        url = f"{self.source.api}/api/v1/events"
        try:
            async with self.session.get(
                url, params=query, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                return _events(answer.status, await answer.read(), self.source.api)
        except aiohttp.InvalidURL:
            raise Rejected(f"{self.source.api} is no address of an API", "write http://host:port") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Transient(f"no answer from {self.source.api}: {error or type(error).__name__}") from None

    async def end(self) -> str:
        """The cursor of the last event that there is, "0" without any: found by halving, in some 40 short questions."""
        if not await self.page("0", limit=1):
            return "0"
        low, high = 0, 1  # something is behind low, and nothing behind high
        while await self._has_more(high):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if await self._has_more(middle) else (low, middle)
        return str(high)

    async def _has_more(self, after: int) -> bool:
        try:
            return bool(await self.page(str(after), limit=1))
        except NoSuchCursor:
            return False


def _events(status: int, text: bytes, api: str) -> list[Event]:
    """The events in an answer of the feed."""
    try:
        document = json.loads(text)
        detail = str(document.get("detail", ""))
    except (ValueError, AttributeError):
        document, detail = None, ""
    if status >= 500 or status == 429:  # noqa: PLR2004 - of HTTP
        raise Transient(f"{api} answers {status}: {detail}")
    if status == 401:  # noqa: PLR2004
        raise Rejected("the API does not know this key", "paywatch key create --project ID makes one")
    if status == 404 and detail:  # noqa: PLR2004
        raise NoSuchProject(detail, "a project's own key needs no --project; an operator's key needs the right one")
    if status == 422 and detail.startswith("after: "):  # noqa: PLR2004
        raise NoSuchCursor(detail, "give --after a cursor that the feed has named, or 0 for all events")
    if status != 200 or document is None:  # noqa: PLR2004
        raise Rejected(f"{api} answers {status}: {detail or 'this is no API of paywatch'}")
    return [_event(item) for item in document["items"]]


def _event(item: dict[str, Any]) -> Event:
    """As the notifier posts it: the feed shows the body's members, in their order, beside id and cursor."""
    posted = {name: value for name, value in item.items() if name not in ("id", "cursor")}
    body = json.dumps(posted, ensure_ascii=False, separators=(",", ":")).encode()
    return Event(item["id"], item["cursor"], item["type"], item["data"], body)


@asynccontextmanager
async def open_feed(source: Source) -> AsyncIterator[Feed]:
    """A feed with a session of its own."""
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield Feed(session, source)


@dataclass(slots=True)
class Forwarder:
    """Posts a project's events to one address, one after another. `cursor` is that of the last one that was dealt with.

    `tell` hears of every try, `note` what else a developer must know, in a sentence.
    """

    feed: Feed
    url: str
    secret: str = field(repr=False)
    cursor: str
    tell: Callable[[Try], None]
    note: Callable[[str], None]
    retries: int = len(RETRY_SECONDS)

    async def run(self) -> None:
        """Follow the feed until cancelled; an API that goes away is waited for. Raises `Rejected`, `NoSuchProject`."""
        async with _client() as client:
            while True:
                for event in await self._next():
                    await self._forward(client, event)
                    self.cursor = event.cursor

    async def _next(self) -> list[Event]:
        pause_seconds, is_away = FIRST_PAUSE_SECONDS, False
        while True:
            try:
                began = time.monotonic()
                events = await self.feed.page(self.cursor, wait_seconds=0 if is_away else WAIT_SECONDS)
            except Transient as error:
                if not is_away:
                    self.note(f"{error.message}; trying again")
                is_away = True
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
                continue
            if is_away:
                self.note("the API is back")
            elif (
                not events and time.monotonic() - began < FIRST_PAUSE_SECONDS
            ):  # it is about to stop, and waits for nobody
                await asyncio.sleep(FIRST_PAUSE_SECONDS)
            return events

    async def _forward(self, client: Client, event: Event) -> None:
        pauses = [*RETRY_SECONDS[: self.retries], None]
        for number, pause_seconds in enumerate(pauses, 1):
            message = Message(self.url, event.id, event.body, (self.secret,), number)
            answer = await client.post(message)
            is_last = answer.outcome is Outcome.SUCCESS or pause_seconds is None
            self.tell(Try(event, number, answer, None if is_last else pause_seconds))
            if is_last or pause_seconds is None:
                return
            await asyncio.sleep(pause_seconds)


async def check(source: Source, after: str | None) -> str:
    """The cursor to begin at: the one given, or that of the last event by now.

    Raises `Unavailable` when the API does not answer, `Rejected` for a bad key, `NoSuchProject`.
    """
    async with open_feed(source) as feed:
        try:
            if after is None:
                return await feed.end()
            await feed.page(after, limit=1)
        except Transient as error:
            raise Unavailable(error.message, "is the API running, and is this its address? give --api") from None
        return after


def _client() -> AbstractAsyncContextManager[Client]:
    return open_client(
        guard=Guard(ANY_TARGET),
        timeout_seconds=POST_SECONDS,
        allow_http=True,
        allow_targets=ANY_TARGET,
        user_agent=f"paywatch/{paywatch_version()}",
        now=lambda: datetime.now(UTC),
    )
