"""Programs from container images: a bitcoind taken out of one, and a PostgreSQL run in one.

Both speak to the engine (Docker, or Podman by its socket) through `testcontainers`, a development dependency that is
imported only here and only when it is needed. The engine is found as every client of it does: `DOCKER_HOST`, the
current context, the default socket.

An image is named by its tag, which can be moved, and not by a hash as the release archive is: that is why this is
the last way to get a bitcoind.
"""

import asyncio
import gc
import importlib
import io
import secrets
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from watcher.runtime.errors import Unavailable

# willcl-ark/bitcoin-core-docker: the Debian variants hold the release's own binaries below /opt/bitcoin-<version>.
BITCOIND_IMAGE = "bitcoin/bitcoin"
POSTGRES_IMAGE = "postgres:18"

NAME = "paywatch"  # of the superuser and of the first database
# Unsafe in a power cut only; the container does not outlive one.
FAST_SETTINGS = ("fsync=off", "full_page_writes=off")


class ContainerError(Exception):
    """No engine answers, or it does not give what was asked for; the text says why, in one line."""


@contextmanager
def engine() -> Iterator[Any]:
    """The `testcontainers` client of an engine that answers. Raises `ContainerError`, also for errors inside."""
    client, errors = _connected(), _imported("docker.errors")
    try:
        yield client
    except (errors.DockerException, OSError) as error:  # OSError: what the HTTP client below raises
        raise ContainerError(_line(error)) from error
    finally:
        client.client.close()


def _connected() -> Any:
    module, errors = _imported("testcontainers.core.docker_client"), _imported("docker.errors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK does not close a socket that could not connect
        try:
            return module.DockerClient()
        except errors.DockerException as error:
            reason = _line(error)
        gc.collect()  # frees that socket here, where nobody hears the warning
    raise ContainerError(f"no container engine answers: {reason}")


def copy_bitcoind(target: Path, version: str) -> None:
    """Write the bitcoind of the image with the tag `version` to `target`. The image is pulled when it is not there.

    The container is only created, never started. Blocks. Raises `ContainerError`.
    """
    with engine() as client:
        container = client.create(f"{BITCOIND_IMAGE}:{version}")
        try:
            chunks, _ = container.get_archive(f"/opt/bitcoin-{version}/bin/bitcoind")
            _write_only_file(b"".join(chunks), target)
        finally:
            container.remove(v=True)
    target.chmod(0o755)


def _write_only_file(archive: bytes, target: Path) -> None:
    """The name in the archive decides nothing."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.next()
        content = tar.extractfile(member) if member and member.isfile() else None
        if content is None:
            raise ContainerError("what the image has as bitcoind is no file")
        target.write_bytes(content.read())


class PostgresInContainer:
    """A PostgreSQL for tests, with the methods of `regtest.postgres.Postgres` that tests use; without its data kept."""

    def __init__(self) -> None:
        self._container: Any = None

    async def start(self) -> None:
        """Start it and return when it answers. Raises `Unavailable` with the engine's own words."""
        try:
            await asyncio.to_thread(self._start)
        except ContainerError as error:
            await self.delete()
            raise Unavailable(f"PostgreSQL in a container: {error}", "start the engine, or set DOCKER_HOST") from None

    def _start(self) -> None:
        module = _imported("testcontainers.community.postgres")
        with engine():
            settings = [part for setting in FAST_SETTINGS for part in ("-c", setting)]
            self._container = module.PostgresContainer(
                POSTGRES_IMAGE, username=NAME, password=secrets.token_hex(16), dbname=NAME, driver=None
            ).with_command(["postgres", *settings])
            self._container.start()

    @property
    def url(self) -> str:
        """Of the database `paywatch`, with the password."""
        return str(self._container.get_connection_url())

    async def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database, a copy of `template` when one is given, and return its URL."""
        await self._execute(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        return f"{self.url.rpartition('/')[0]}/{name}"

    async def drop_database(self, name: str) -> None:
        """Remove a database and end whoever is connected to it. Harmless when there is none."""
        await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def delete(self) -> None:
        """Stop it and remove it with its data. Harmless when it was never started."""
        if self._container is not None:
            await asyncio.to_thread(self._container.stop)

    async def _execute(self, statement: str) -> None:
        import asyncpg  # noqa: PLC0415 - to find a bitcoind, the standard library must do

        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ContainerError("the Python package testcontainers is missing: pip install testcontainers") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
