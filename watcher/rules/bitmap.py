"""A set of scripts that fits into 8 MiB: it says "no" for sure, or "maybe".

Two bits for each script, both taken from its CRC-32: cheap, and spread evenly. Whoever crafts scripts that hit the
bits of others only makes us ask the database about them. Scripts of descriptors have few shapes, and a shape is found
in a whole block at the speed of a string search: nothing is parsed that does not look like ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from zlib import crc32

# With a million scripts one foreign script in a thousand is a "maybe", with ten million one in fifteen.
BITS = 1 << 26
MASK = BITS - 1
SECOND_SHIFT = 6  # the second place: the other end of the 32 bits, of which 26 make a place

LONGEST_SCRIPT = 0xFC  # bytes; the size of a longer one takes more than one byte, and no address has such a script


@dataclass(slots=True)
class Bitmap:
    """The bits and the shapes of what was added. A shape is size and first bytes of a script, as an output has them."""

    bits: bytearray = field(default_factory=lambda: bytearray(BITS // 8), repr=False)
    shapes: set[bytes] = field(default_factory=set)

    def add(self, script: bytes) -> None:
        """From now on the answer about this script is "maybe"."""
        assert 0 < len(script) <= LONGEST_SCRIPT
        self.shapes.add(bytes([len(script)]) + script[:2])
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

    def maybe_in(self, raw: bytes) -> list[bytes]:
        """The scripts that may have been added and stand, with their size before them, anywhere in these bytes."""
        return self.maybe(script for shape in self.shapes for script in _with_shape(raw, shape))


def _with_shape(raw: bytes, shape: bytes) -> list[bytes]:
    """Every place where the shape begins, also within another one; what looks like a script need not be one."""
    found = []
    find, size = raw.find, shape[0]
    start = find(shape)
    while start >= 0:
        found.append(raw[start + 1 : start + 1 + size])
        start = find(shape, start + 1)
    return found
