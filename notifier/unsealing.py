"""What the database has of a project's webhook secrets, opened."""

from collections.abc import Iterable

from watcher.runtime.sealing import Keyring, Unopenable, webhook_secret_place


def opened(
    ring: Keyring, project_id: str, rows: Iterable[tuple[int, bytes | None]]
) -> tuple[tuple[str, ...], str | None]:
    """The secrets in `rows` (key number, sealed), in their order; or none of them, and why.

    One that does not open leaves out all: half a signature would be refused by receivers that know the other half.
    """
    try:
        return tuple(ring.open(sealed, webhook_secret_place(project_id, number)) for number, sealed in rows), None
    except Unopenable as error:
        return (), error.message
