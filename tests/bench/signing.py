"""What a signature costs: opening the secret that is stored sealed, and signing 1 KB with it."""

import base64
import timeit

from notifier.rules.signing import sign
from notifier.unsealing import opened
from tests.bench.report import Row
from watcher.runtime.sealing import Keyring, webhook_secret_place

PROJECT = "prj_01ARZ3NDEKTSV4RRFFQ69G5FAV"
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
BODY = b"x" * 1024
TIMES, ROUNDS = 500, 60


async def measure() -> list[Row]:
    """The best of many rounds: what it takes when nobody else takes the processor."""
    ring = Keyring([base64.b64encode(b"k" * 32).decode()])
    stored = [(1, ring.seal(SECRET, webhook_secret_place(PROJECT, 1)))]

    def sign_one() -> None:
        secrets, _ = opened(ring, PROJECT, stored)
        sign("evt_1", 1_795_164_165, BODY, secrets)

    best_seconds = min(timeit.repeat(sign_one, number=TIMES, repeat=ROUNDS)) / TIMES
    return [Row("signing: 1 KB with one key, which is stored sealed", best_seconds * 1e6, 10, "us")]
