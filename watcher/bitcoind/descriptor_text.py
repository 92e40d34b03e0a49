"""What is wrong with a descriptor, in words for whoever wrote it. No key that can spend is ever repeated.

Nothing is parsed here: what a descriptor means is the node's word. These are the usual mistakes, by their looks.
"""

import re

from watcher.runtime.errors import Rejected

EXAMPLE = "wpkh([d34db33f/84h/0h/0h]xpub…/0/*)"

_BASE58 = "1-9A-HJ-NP-Za-km-z"
# An extended private key, or a single one in the wallet import format, of any network.
_PRIVATE = re.compile(rf"[a-zA-Z]prv[{_BASE58}]{{20,}}|(?<![{_BASE58}])[59KLc][{_BASE58}]{{50,51}}(?![{_BASE58}])")
_OTHER_FORM = re.compile(rf"([yzuvYZUV]pub)[{_BASE58}]{{20,}}")  # SLIP 132; those of testnets begin with u, v, U, V
_PUBLIC = re.compile(rf"([xt]pub)[{_BASE58}]{{20,}}")
_HARDENED_BEHIND_PUBLIC = re.compile(rf"pub[{_BASE58}]{{20,}}[0-9/]*/[0-9*]+[h'H]")

_QUOTED = re.compile(r"'([^']{24,})'")
_SHOWN = 12  # characters of a long text that the node quotes


def check_text(descriptor: str, network: str) -> None:
    """Raise `Rejected` for what must not reach the node, or what it only calls invalid; with what to write instead."""
    if _PRIVATE.search(descriptor):
        raise private_keys()
    if "<" in descriptor:
        raise Rejected(
            "the descriptor has more than one path (<…;…>)", f"name the receiving path alone, such as {EXAMPLE}"
        )
    if found := _OTHER_FORM.search(descriptor):
        raise Rejected(
            f"the descriptor's key begins with {found[1]}, a form that bitcoind does not read",
            f"write the same key in its usual form, {_prefix(network)}…: the kind of address is told by the "
            f"descriptor's function, such as {EXAMPLE}",
        )
    for found in _PUBLIC.finditer(descriptor):
        if found[1] != _prefix(network):
            raise Rejected(
                f"the descriptor's key begins with {found[1]}, which is of another network than {network}",
                f"write that of a wallet on {network}, such as {EXAMPLE.replace('xpub', _prefix(network))}",
            )


def private_keys() -> Rejected:
    """It can spend."""
    return Rejected(
        "the descriptor holds private keys, which paywatch must never see",
        "write the public descriptor: `listdescriptors` of a wallet shows it, with xpub in place of xprv",
    )


def not_read(reason: str) -> Rejected:
    """The node does not understand it, and says why."""
    if "checksum" in reason:
        return Rejected(
            "the checksum behind # does not fit the descriptor, so one of them was not copied as it was",
            "copy the whole descriptor with its checksum again",
        )
    return Rejected(f"this is not a valid output descriptor: {_shortened(reason)}", f"write one such as {EXAMPLE}")


def not_derived(descriptor: str, reason: str) -> Rejected:
    """The node understands it, and gets no addresses from it."""
    if _HARDENED_BEHIND_PUBLIC.search(descriptor):
        return Rejected(
            "the descriptor has a hardened step (h or ') behind its public key, which only the private key can take",
            f"put hardened steps before the key, in brackets, and end it with /*, such as {EXAMPLE}",
        )
    return Rejected(
        f"the node derives no addresses from the descriptor: {_shortened(reason)}", f"write one such as {EXAMPLE}"
    )


def _prefix(network: str) -> str:
    return "xpub" if network == "main" else "tpub"


def _shortened(reason: str) -> str:
    return _QUOTED.sub(lambda quoted: f"'{quoted[1][:_SHOWN]}…'", reason)
