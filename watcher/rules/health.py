"""How the watcher is, in one word; docs/operate.md says of each what it means and what to do."""

from datetime import datetime, timedelta
from enum import StrEnum


class Health(StrEnum):
    """The states that `/readyz` and the metrics tell."""

    STARTING = "starting"
    OK = "ok"
    ZMQ_DOWN = "zmq_down"
    RPC_DOWN = "rpc_down"
    NODE_SYNCING = "node_syncing"
    NODE_BEHIND = "node_behind"
    NO_PEERS = "no_peers"
    STALE_TIP = "stale_tip"
    DEEP_REORG = "deep_reorg"
    PRUNED_GAP = "pruned_gap"
    WRONG_CHAIN = "wrong_chain"
    BROKEN = "broken"


# The watcher follows the chain and decides everything; with zmq_down it polls.
WORKING = frozenset({Health.OK, Health.ZMQ_DOWN})

# Those that end the watcher's process.
ENDING = frozenset({Health.DEEP_REORG, Health.PRUNED_GAP, Health.WRONG_CHAIN, Health.BROKEN})

# Nodes of these chains work alone, by design.
CHAINS_WITHOUT_PEERS = frozenset({"regtest"})

# Only here do blocks come so regularly that their absence says something: signers of a signet pause, and the blocks of
# the test networks come in storms. An hour and a half without a block happens about seven times a year.
CHAINS_WITH_A_PULSE = frozenset({"main"})
STALE_TIP_AGE = timedelta(minutes=90)


def cut_off(chain: str, connections_out: int, tip_time: datetime, now: datetime) -> Health | None:
    """Why a node that answers may not hear of what the network does; None when nothing speaks for that.

    `chain` is the node's own word for it (main, test, testnet4, signet, regtest), `tip_time` its tip's header time.
    """
    if connections_out == 0 and chain not in CHAINS_WITHOUT_PEERS:
        return Health.NO_PEERS
    if now - tip_time > STALE_TIP_AGE and chain in CHAINS_WITH_A_PULSE:
        return Health.STALE_TIP
    return None
