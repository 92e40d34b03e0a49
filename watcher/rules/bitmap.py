"""A set of scripts that fits into 8 MiB: it says "no" for sure, or "maybe".

Two bits for each script, both taken from its CRC-32: cheap, and the same in every process. Whoever crafts scripts that
hit the bits of others only makes us ask the database about them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from zlib import crc32

# With a million scripts one foreign script in a thousand is a "maybe", with ten million one in fifteen.
BITS = 1 << 26
MASK = BITS - 1
SECOND_SHIFT = 6  # the second place: the other end of the 32 bits, of which 26 make a place


@dataclass(slots=True)
class Bitmap:
    """The bits of what was added. `watcher.bitcoind.scan` reads them by the same places, inline."""

    bits: bytearray = field(default_factory=lambda: bytearray(BITS // 8), repr=False)

    def add(self, script: bytes) -> None:
        """From now on the answer about this script is "maybe"."""
        code = crc32(script)
        for place in (code & MASK, code >> SECOND_SHIFT):
            self.bits[place >> 3] |= 1 << (place & 7)

    def maybe(self, scripts: Iterable[bytes]) -> list[bytes]:
        """Those of the scripts that may have been added."""
        bits = self.bits
        return [
            script
            for script in scripts
            if bits[(place := (code := crc32(script)) & MASK) >> 3] >> (place & 7) & 1
            and bits[(place := code >> SECOND_SHIFT) >> 3] >> (place & 7) & 1
        ]
