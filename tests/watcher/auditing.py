"""A shop on a real node whose books an audit finds in order, and a vandal's hands upon its database."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from regtest.chain import Chain
from regtest.node import Node
from tests.support import add_project
from tests.watcher.bitcoind.watching import Interrupted, Watching
from watcher.app import _newest_blocks
from watcher.audit import Scope, examine
from watcher.bitcoind.look import Look
from watcher.heal import Healed, heal
from watcher.pipeline import Pipeline
from watcher.rules.audit import Finding, Note
from watcher.runtime.config import Settings
from watcher.runtime.db import Pool
from watcher.store import chain as store
from watcher.store import service

_branches = count(2)  # every test has addresses of its own

ADDRESSES = 25

BLOCKS = Scope()


@dataclass
class Audited(Watching):
    """A watcher taken apart, and the audit of what it wrote."""

    settings: Settings
    descriptor: str
    left: set[str] = field(default_factory=set)  # the kinds that an audit finds in the end
    is_another_history: bool = False  # in the end an invoice was told what no judgement explains

    async def invoice(self, due_sat: int = 100_000, **fields: Any) -> tuple[str, str]:
        invoice_id, address = await super().invoice(due_sat, **fields)
        await self.pool.execute(
            "INSERT INTO timeline (invoice_id, happened_at, kind, detail) VALUES ($1, now(), 'created', '{}')",
            invoice_id,
        )
        return invoice_id, address

    async def confirmed(self) -> tuple[str, str]:
        """Id of an invoice that was told UNCONFIRMED and then CONFIRMED, and its payment's txid."""
        [confirmed] = await self.many_confirmed(1)
        return confirmed

    async def many_confirmed(self, count: int) -> list[tuple[str, str]]:
        paid = [await self.paid(confirmations=1) for _ in range(count)]
        await self.whole()
        await self.chain.mine(1)
        await self.whole()
        for invoice_id, _ in paid:
            assert await self.told(invoice_id) == [("UNCONFIRMED", "0.00100000"), ("CONFIRMED", "0.00100000")]
        return paid

    async def judge(self) -> None:
        """The watcher's next look, and what it judges then."""
        await self.whole()
        while await self.pipeline.judge_due(datetime.now(UTC), tell_net=False):
            pass

    async def findings(self, scope: Scope = BLOCKS) -> list[Finding]:
        return [one async for one in examine(self.settings, scope) if isinstance(one, Finding)]

    async def kinds(self, scope: Scope = BLOCKS) -> set[str]:
        return {one.kind for one in await self.findings(scope)}

    async def notes(self, scope: Scope = BLOCKS) -> list[str]:
        return [one.text async for one in examine(self.settings, scope) if isinstance(one, Note)]

    async def heal(self, scope: Scope = BLOCKS, reason: str = "a test") -> list[Healed]:
        return [one async for one in heal(self.settings, scope, reason) if isinstance(one, Healed)]

    async def vandalise(self, *statements: str, **values: Any) -> None:
        """Change rows behind the product's back; `:name` stands for a value. Foreign keys look away."""
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                used = [name for name in values if f":{name}" in statement]
                text = statement
                for number, name in enumerate(used, 1):
                    text = text.replace(f":{name}", f"${number}")
                await connection.execute(text, *[values[name] for name in used])

    async def actions(self) -> list[Any]:
        return await self.pool.fetch("SELECT action, reason, detail FROM operator_action ORDER BY id")

    async def healed_lines(self, invoice_id: str) -> int:
        return await self.pool.fetchval(
            "SELECT count(*) FROM timeline WHERE invoice_id = $1 AND kind = 'healed'", invoice_id
        )

    async def written(self, invoice_id: str) -> list[Any]:
        """Every row of an invoice that is told or booked."""
        events = await self.pool.fetch("SELECT * FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice_id)
        entries = await self.pool.fetch("SELECT * FROM ledger_entry WHERE invoice_id = $1 ORDER BY id", invoice_id)
        return [*events, *entries, await self.pool.fetchrow("SELECT * FROM invoice WHERE id = $1", invoice_id)]

    async def bodies(self, invoice_id: str) -> list[dict[str, Any]]:
        rows = await self.pool.fetch("SELECT body FROM event WHERE invoice_id = $1 ORDER BY sequence", invoice_id)
        return [json.loads(row["body"]) for row in rows]


@asynccontextmanager
async def auditing(pool: Pool, node: Node, chain: Chain, database_url: str) -> AsyncIterator[Audited]:
    """A shop whose descriptor was never used before, at the node's tip."""
    async with Interrupted(node) as rpc:
        plain = (await chain.receiving_descriptor()).partition("#")[0]
        branch = plain.replace("/0/*", f"/{next(_branches)}/*")
        descriptor = (await rpc.validate_descriptor(branch)).canonical
        addresses = await rpc.derive(descriptor, 0, ADDRESSES - 1)
        project_id = await add_project(pool, addresses)
        await pool.execute("UPDATE descriptor SET descriptor = $1", descriptor)
        genesis_hash = await rpc.block_hash_at(0)
        assert genesis_hash is not None
        await store.initialise(
            pool, "regtest", genesis_hash, await _newest_blocks(rpc, await rpc.best_block_hash(), 101)
        )
        epoch = await service.take_lease(pool, "test")
        assert epoch is not None
        settings = Settings(
            database_url=database_url, network="regtest", bitcoind_url=node.rpc_url, bitcoind_user=node.rpc_user,
            bitcoind_password=node.rpc_password,
        )  # fmt: skip
        await pool.execute("UPDATE chain_state SET lease_until = '-infinity'")  # no watcher runs by itself
        pipeline = Pipeline(pool, "http://shop", epoch)
        yield Audited(pool, node, chain, rpc, project_id, pipeline, Look(rpc, pool, 100), settings, descriptor)
