"""A bitcoind out of an image and a PostgreSQL in a container, by the engine of this machine; without one, why not."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import asyncpg
import pytest

from regtest import container as module
from regtest.bitcoind import RELEASE, Bitcoind, find_bitcoind
from regtest.container import ContainerError, PostgresInContainer, copy_bitcoind, engine
from regtest.node import Node
from tests.containers import need
from watcher.runtime.errors import Unavailable


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine")


# Without an engine


def test_no_engine_is_told_in_one_line(no_engine: None, tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match=r"^no container engine answers: [^\n]*No such file[^\n]*$"):
        copy_bitcoind(tmp_path / "bitcoind", "31.1")
    assert not (tmp_path / "bitcoind").exists()


async def test_no_engine_for_postgres(no_engine: None) -> None:
    with pytest.raises(Unavailable, match="no container engine answers") as error:
        await PostgresInContainer().start()
    assert "DOCKER_HOST" in error.value.hint


def test_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "testcontainers.core.docker_client", None)
    with pytest.raises(ContainerError, match="pip install testcontainers"):
        copy_bitcoind(tmp_path / "bitcoind", "31.1")


def test_it_is_the_last_way_and_says_why_not(no_engine: None, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^no bitcoind found\. container: no container engine answers"):
        find_bitcoind({"BITCOIND_SOURCE": "container", "XDG_CACHE_HOME": str(tmp_path)})


def test_importing_it_imports_no_development_dependency() -> None:
    code = "import sys, regtest.container; print({'docker', 'testcontainers', 'asyncpg'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def archive_of(member: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(member)
    return stream.getvalue()


def test_a_link_in_the_image_is_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("bitcoind")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ContainerError, match="is no file"):
        module._write_only_file(archive_of(link), tmp_path / "bitcoind")


def test_the_name_in_the_archive_decides_nothing(tmp_path: Path) -> None:
    module._write_only_file(archive_of(tarfile.TarInfo("../elsewhere")), tmp_path / "bitcoind")
    assert [path.name for path in tmp_path.iterdir()] == ["bitcoind"]


# With one


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bitcoind, Path]:
    """What the last way gives, and the cache that it filled."""
    need(f"{module.BITCOIND_IMAGE}:{RELEASE.version}")
    cache = tmp_path_factory.mktemp("cache")
    return find_bitcoind({"BITCOIND_SOURCE": "container", "XDG_CACHE_HOME": str(cache)}), cache


@pytest.mark.regtest
@pytest.mark.timeout(600)
def test_the_image_gives_an_executable_once(copied: tuple[Bitcoind, Path], no_engine: None) -> None:
    bitcoind, cache = copied
    assert bitcoind.source == "container"
    assert bitcoind.version.startswith("Bitcoin ")
    assert bitcoind.path.is_relative_to(cache)
    again = find_bitcoind({"BITCOIND_SOURCE": "cache", "XDG_CACHE_HOME": str(cache)})
    assert again == Bitcoind(bitcoind.path, "cache", bitcoind.version)


@pytest.mark.regtest
@pytest.mark.timeout(600)
async def test_it_is_an_ordinary_node(copied: tuple[Bitcoind, Path], tmp_path: Path) -> None:
    node = Node(copied[0], tmp_path / "node")
    await node.start()
    try:
        assert (await node.rpc("getblockchaininfo"))["chain"] == "regtest"
    finally:
        await node.stop()


@pytest.mark.regtest
@pytest.mark.timeout(600)
def test_no_container_is_left_behind(tmp_path: Path) -> None:
    image = f"{module.BITCOIND_IMAGE}:{RELEASE.version}"
    need(image)
    copy_bitcoind(tmp_path / "bitcoind", RELEASE.version)
    with pytest.raises(ContainerError):
        copy_bitcoind(tmp_path / "no" / "directory", RELEASE.version)
    assert our_containers(image) == 0


def our_containers(image: str) -> int:
    """How many there are of this image, made by this run."""
    from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

    with engine() as client:
        ours = {"label": f"{LABEL_SESSION_ID}={SESSION_ID}", "ancestor": image}
        return len(client.client.containers.list(all=True, filters=ours))


@pytest.mark.regtest
@pytest.mark.timeout(600)
async def test_postgres_in_a_container() -> None:
    need(module.POSTGRES_IMAGE)
    before = our_containers(module.POSTGRES_IMAGE)
    server = PostgresInContainer()
    try:
        await server.start()
        assert our_containers(module.POSTGRES_IMAGE) == before + 1
        url = await server.create_database("one")
        await execute(url, "CREATE TABLE t AS SELECT 42 AS x")
        copy = await server.create_database("two", template="one")
        assert await execute(copy, "SELECT x FROM t") == 42
        await server.drop_database("two")
        await server.drop_database("two")
        assert await execute(server.url, "SELECT count(*) FROM pg_database WHERE datname IN ('one', 'two')") == 1
        assert await execute(server.url, "SHOW fsync") == "off"
    finally:
        await server.delete()
    assert our_containers(module.POSTGRES_IMAGE) == before


async def execute(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()
