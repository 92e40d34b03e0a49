"""A bitcoind's JSON-RPC, for tests and the regtest commands: no retries, no lifecycle, amounts as Decimal."""

import json
from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import aiohttp

from watcher.runtime.errors import PaywatchError, Transient

# Codes of bitcoind's src/rpc/protocol.h that callers here look at.
RPC_INVALID_ADDRESS_OR_KEY = -5
RPC_IN_WARMUP = -28


class RpcError(PaywatchError):
    """The node answered, and the answer is an error: `code` and `message` are the node's own."""

    def __init__(self, code: int, message: str, method: str) -> None:
        super().__init__(f"{method}: {message} (code {code})")
        self.code = code


class Rpc:
    """A client of one node. Holds no connection, so it needs no closing and works in any event loop.

    `call("getblockhash", 7)` sends positional arguments, `call("sendtoaddress", a, b, fee_rate=5)` named ones
    as well.
    `wallet` names the wallet a wallet call is for.
    Raises `RpcError` for an error answer and `Transient` when the node cannot be reached or answers no JSON.
    """

    def __init__(self, url: str, user: str, password: str, *, timeout_seconds: float = 60.0) -> None:
        self.url = url
        self.user = user
        self.password = password
        self._headers = {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def call(self, method: str, *params: object, wallet: str | None = None, **named: object) -> Any:
        """Return the `result` of one call; fractional numbers arrive as `Decimal`."""
        arguments: object = {"args": params, **named} if named else params
        answer = await self._post({"id": 0, "method": method, "params": arguments}, wallet)
        return _result(answer, method)

    async def call_many(self, calls: Sequence[Sequence[object]], wallet: str | None = None) -> list[Any]:
        """One batch: each call is `(method, *params)`; results in the same order. Raises the first error."""
        if not calls:
            return []
        batch = [{"id": n, "method": call[0], "params": call[1:]} for n, call in enumerate(calls)]
        answers = await self._post(batch, wallet)
        if isinstance(answers, dict):
            return [_result(answers, "batch")]
        by_id = {answer["id"]: answer for answer in answers}
        return [_result(by_id[n], str(call[0])) for n, call in enumerate(calls)]

    async def _post(self, body: object, wallet: str | None) -> Any:
        url = self.url if wallet is None else f"{self.url}/wallet/{wallet}"
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, headers=self._headers) as session,
                session.post(url, data=json.dumps(body)) as response,
            ):
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Transient(f"no answer from the node at {self.url}: {error!r}") from error
        try:
            return json.loads(content, parse_float=Decimal)
        except ValueError as error:
            text = content[:200].decode(errors="replace").strip()
            raise Transient(f"the node answered HTTP {response.status}: {text}") from error


def _result(answer: Any, method: str) -> Any:
    if answer.get("error") is not None:
        raise RpcError(answer["error"]["code"], answer["error"]["message"], method)
    return answer["result"]
