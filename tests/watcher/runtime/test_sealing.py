"""Secrets at rest: what is sealed opens in its place and with its key alone, and nothing else is ever told of it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.runtime.config import Settings
from watcher.runtime.errors import Misconfigured
from watcher.runtime.sealing import KEY_ID_BYTES, Keyring, Unopenable, webhook_secret_place

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
PLACE = webhook_secret_place("prj_1", 1)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def refusal(ring: Keyring, sealed: bytes | None, place: str = PLACE) -> Unopenable:
    with pytest.raises(Unopenable) as refused:
        ring.open(sealed, place)
    assert SECRET not in refused.value.message
    assert refused.value.hint
    return refused.value


@given(st.text())
def test_what_is_sealed_opens_again(secret: str):
    ring = Keyring([OLD])
    sealed = ring.seal(secret, PLACE)
    assert ring.open(sealed, PLACE) == secret


def test_the_same_secret_is_never_sealed_to_the_same_bytes():
    ring = Keyring([OLD])
    sealed = {ring.seal(SECRET, PLACE) for _ in range(100)}
    assert len({one[KEY_ID_BYTES:][:12] for one in sealed}) == 100
    assert not any(SECRET[6:].encode() in one or base64.b64decode(SECRET[6:]) in one for one in sealed)


def test_the_first_key_seals_and_all_open():
    before = Keyring([OLD]).seal(SECRET, PLACE)
    both = Keyring([NEW, OLD])
    assert both.open(before, PLACE) == SECRET
    after = both.seal(SECRET, PLACE)
    assert Keyring([NEW]).open(after, PLACE) == SECRET
    assert refusal(Keyring([OLD]), after).message == (
        f"webhook secret 1 of prj_1 is encrypted with the key {both.key_ids[0].hex()}, which is not in encryption_keys"
    )


def test_a_key_is_named_by_the_begin_of_its_hash():
    assert Keyring([OLD]).key_ids == (bytes.fromhex("72cd6e84"),)  # printf "\\1%.0s" {1..32} | sha256sum


@pytest.mark.parametrize("place", [webhook_secret_place("prj_1", 2), webhook_secret_place("prj_2", 1)])
def test_in_another_row_it_does_not_open(place: str):
    ring = Keyring([OLD])
    assert "it was altered, or is of another row" in refusal(ring, ring.seal(SECRET, PLACE), place).message


def test_altered_bytes_do_not_open():
    ring = Keyring([OLD])
    sealed = ring.seal(SECRET, PLACE)
    for index in range(len(sealed)):
        refusal(ring, sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :])
    for end in range(len(sealed)):
        refusal(ring, sealed[:end])


def test_what_is_in_clear_is_no_secret():
    assert "is not encrypted" in refusal(Keyring([OLD]), None).message


def test_an_empty_ring_opens_nothing():
    assert "is not in encryption_keys" in refusal(Keyring([]), Keyring([OLD]).seal(SECRET, PLACE)).message


def test_where_keys_are_required_it_is_said_how_to_make_one():
    with pytest.raises(Misconfigured, match="encryption_keys is not set") as refused:
        Keyring.required(Settings(database_url="x"))
    assert refused.value.exit_code == 78
    assert "`openssl rand -base64 32`" in refused.value.hint
    assert (
        Keyring.required(Settings(database_url="x", encryption_keys=(OLD, NEW))).key_ids == Keyring([OLD, NEW]).key_ids
    )
