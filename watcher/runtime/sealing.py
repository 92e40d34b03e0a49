"""Secrets at rest: sealed by AES-256-GCM with keys that the database does not know.

A sealed secret is the id of its key, a random nonce, the ciphertext and its tag. It is bound to its place: moved to
another row it does not open. The first of the keys seals, all of them open, so that keys can be changed one after
another.
"""

import base64
import hashlib
import os
from collections.abc import Sequence
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from watcher.runtime.config import MAKE_A_KEY, Settings
from watcher.runtime.errors import Misconfigured, PaywatchError

KEY_ID_BYTES = 4
NONCE_BYTES = 12
HEAD_BYTES = KEY_ID_BYTES + NONCE_BYTES


class Unopenable(PaywatchError):
    """No key of ours opens a sealed secret; whoever needs it has to wait until an operator has mended that."""


def no_keys() -> Misconfigured:
    """What is wrong when keys are needed, and there are none."""
    return Misconfigured("encryption_keys is not set: webhook secrets are stored encrypted with it", MAKE_A_KEY)


class Keyring:
    """The keys of the setting `encryption_keys`, in its order; an empty one opens and seals nothing."""

    def __init__(self, keys: Sequence[str]) -> None:
        raw = [base64.b64decode(key) for key in keys]
        self._ciphers = {hashlib.sha256(key).digest()[:KEY_ID_BYTES]: AESGCM(key) for key in raw}
        self.key_ids = tuple(self._ciphers)

    @classmethod
    def required(cls, settings: Settings) -> Self:
        """The keys of the settings. Raises `Misconfigured` when there are none."""
        if not settings.encryption_keys:
            raise no_keys()
        return cls(settings.encryption_keys)

    def seal(self, secret: str, place: str) -> bytes:
        """Encrypt with the first key. `place` is where it is stored, in words: see `webhook_secret_place`."""
        key_id, cipher = next(iter(self._ciphers.items()))
        nonce = os.urandom(NONCE_BYTES)
        return key_id + nonce + cipher.encrypt(nonce, secret.encode(), place.encode())

    def open(self, sealed: bytes | None, place: str) -> str:
        """The secret that was sealed in this place. Raises `Unopenable`, which names the key but no secret."""
        if sealed is None:
            raise Unopenable(f"{place} is not encrypted", "run `paywatch db upgrade`, which encrypts it")
        key_id, nonce, text = sealed[:KEY_ID_BYTES], sealed[KEY_ID_BYTES:HEAD_BYTES], sealed[HEAD_BYTES:]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Unopenable(
                f"{place} is encrypted with the key {key_id.hex()}, which is not in encryption_keys",
                "add that key again, or make a new secret: docs/operate.md, The encryption key",
            )
        try:
            return cipher.decrypt(nonce, text, place.encode()).decode()
        except (InvalidTag, ValueError):  # ValueError: less than a nonce is left of it
            raise Unopenable(
                f"{place} does not open with its key {key_id.hex()}: it was altered, or is of another row",
                "make a new secret: docs/operate.md, The encryption key",
            ) from None


def webhook_secret_place(project_id: str, key_number: int) -> str:
    """Where a webhook secret is stored, as it is bound to it."""
    return f"webhook secret {key_number} of {project_id}"
