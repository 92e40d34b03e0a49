"""What a pruned node still has of what we have not read: the alarm while there is still time."""

from dataclasses import dataclass
from datetime import datetime

BLOCKS_PER_HOUR = 6


@dataclass(frozen=True, slots=True)
class Pruning:
    """Heights: the first block that the node still has, its tip, and the tip that we have read."""

    prune_height: int
    node_height: int
    tip_height: int

    @property
    def kept_blocks(self) -> int:
        """How many blocks the node has. Whoever was away for longer finds a gap."""
        return self.node_height - self.prune_height + 1

    @property
    def margin_blocks(self) -> int:
        """How many blocks the node may still prune before it prunes one that we have not read; below 0: a gap."""
        return self.tip_height + 1 - self.prune_height

    def warning(self, reorg_limit_blocks: int) -> str | None:
        """Why this is no longer safe, in a sentence; None when it is.

        A node that has pruned nothing yet has everything, however short its chain is.
        """
        if self.prune_height == 0 or self.margin_blocks >= reorg_limit_blocks:
            return None
        if self.margin_blocks < 0:
            return f"blocks {self.tip_height + 1} to {self.prune_height - 1} are pruned and were not read"
        return (
            f"pruning is {self.margin_blocks} blocks away from what was not read, less than reorg_limit_blocks "
            f"({reorg_limit_blocks}): {self.told()}"
        )

    def told(self) -> str:
        """What the node keeps, and how long a pause of ours may be."""
        return (
            f"the node has blocks {self.prune_height} to {self.node_height} ({self.kept_blocks}), "
            f"that is about {self.kept_blocks // BLOCKS_PER_HOUR} hours of downtime"
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Blocks that an operator decided to go on without, from `first` to `last` inclusive."""

    first: int
    last: int
    accepted_at: datetime
    reason: str

    def told(self) -> str:
        """In a sentence."""
        return (
            f"blocks {self.first} to {self.last} were accepted unread on {self.accepted_at:%Y-%m-%d} "
            f"because: {self.reason}"
        )
