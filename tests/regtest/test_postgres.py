import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from regtest import system
from regtest.postgres import Postgres
from regtest.process import children, running
from regtest.wait import wait_for
from watcher.runtime.errors import Broken, Unavailable

pytestmark = pytest.mark.regtest

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


@pytest.fixture
async def make_postgres(open_directory: Path) -> AsyncIterator[Callable[..., Postgres]]:
    """Make servers that are gone in the end; not synchronous to disk, since what is tested is not that."""
    servers: list[Postgres] = []

    def make(directory: Path = open_directory, **options: Any) -> Postgres:
        servers.append(Postgres(directory, **{"fast": True} | options))
        return servers[-1]

    yield make
    for server in servers:
        await server.delete()


@pytest.fixture(scope="module")
def server_of_all() -> Iterator[Postgres]:
    """One server for the tests that leave it as it was."""
    with tempfile.TemporaryDirectory(prefix="paywatch-test-") as directory:
        Path(directory).chmod(0o755)
        server = Postgres(Path(directory), fast=True)
        asyncio.run(server.start())
        yield server
        asyncio.run(server.delete())


@pytest.fixture
async def postgres(server_of_all: Postgres) -> Postgres:
    if not server_of_all.alive:
        await server_of_all.start()
    return server_of_all


@pytest.fixture
async def url(postgres: Postgres) -> AsyncIterator[str]:
    """A database of the test's own."""
    yield await postgres.create_database("own")
    await postgres.drop_database("own")


async def query(url: str, *statements: str) -> Any:
    """Run the statements; the value that the last one gives."""
    connection = await asyncpg.connect(url)
    try:
        return [await connection.fetchval(statement) for statement in statements][-1]
    finally:
        await connection.close()


async def test_the_database_can_be_used(postgres: Postgres) -> None:
    assert postgres.alive
    assert await query(postgres.url, "CREATE TABLE t (i int)", "SELECT current_database()") == "paywatch"
    assert int(await query(postgres.url, "SHOW server_version_num")) >= 140_000
    assert await query(postgres.url, "SHOW server_encoding") == "UTF8"


async def test_the_process_id_is_the_postmaster(postgres: Postgres) -> None:
    home = (postgres.dir / "postgres").resolve()
    assert int((home / "data" / "postmaster.pid").read_text().splitlines()[0]) == postgres.pid
    assert os.getsid(postgres.pid) != os.getsid(0)


async def test_it_is_closed_to_others(postgres: Postgres) -> None:
    assert await query(postgres.url, "SHOW listen_addresses") == "127.0.0.1"
    assert await query(postgres.url, "SHOW unix_socket_directories") == ""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await query(f"postgresql://paywatch:wrong@127.0.0.1:{postgres.port}/paywatch", "SELECT 1")
    home = (postgres.dir / "postgres").resolve()
    assert (home.stat().st_mode & 0o777, (home / "password").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize(("fast", "fsync"), [(False, "on"), (True, "off")])
async def test_is_safe_unless_told_to_be_fast(
    make_postgres: Callable[..., Postgres], *, fast: bool, fsync: str
) -> None:
    server = make_postgres(fast=fast)
    await server.start()
    assert await query(server.url, "SHOW fsync") == await query(server.url, "SHOW full_page_writes") == fsync
    assert await query(server.url, "SHOW synchronous_commit") == "on"


async def test_goes_on_where_it_was(postgres: Postgres, url: str) -> None:
    before = postgres.url
    await query(url, "CREATE TABLE t AS SELECT 7 AS i")
    await postgres.stop()
    assert not postgres.alive
    assert await postgres.wait() == 0
    await postgres.start()
    assert postgres.url == before
    assert await query(url, "SELECT i FROM t") == 7


async def test_a_stop_does_not_wait_for_who_is_connected(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.url)
    await connection.execute("BEGIN")
    await asyncio.wait_for(postgres.stop(), 10)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.fetchval("SELECT 1")


async def test_a_kill_takes_the_children_and_start_recovers(postgres: Postgres, url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE t AS SELECT 7 AS i")
    busy = asyncio.ensure_future(connection.fetchval("SELECT count(*) FROM generate_series(1, 1e9::bigint)"))
    active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT count%series%'"
    await wait_for(lambda: query(postgres.url, active), 10, "the long query")
    backends = children(postgres.pid)
    assert len(backends) > 3
    await postgres.kill()
    assert not postgres.alive
    assert not any(running(pid) for pid in backends)
    await asyncio.wait({busy}, timeout=10)
    assert busy.exception() is not None
    with socket.create_server(("127.0.0.1", postgres.port)):
        pass  # nobody holds the port
    await postgres.start()
    assert await query(url, "SELECT i FROM t") == 7


async def test_a_kill_from_outside_is_seen_and_start_recovers(postgres: Postgres, url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE t AS SELECT 7 AS i")
    os.kill(postgres.pid, signal.SIGKILL)
    assert await postgres.wait() == -signal.SIGKILL
    assert not postgres.alive
    await postgres.start()  # its backends may yet have to notice
    assert await query(url, "SELECT i FROM t") == 7
    connection.terminate()


async def test_backends_that_outlive_their_postmaster_are_waited_for(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.url)
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)  # so it does not notice
    os.kill(postgres.pid, signal.SIGKILL)
    await postgres.wait()
    starting = asyncio.ensure_future(postgres.start())
    log = postgres.dir / "postgres.log"
    await wait_for(lambda: "is still in use" in log.read_text(), 10, "the refusal")
    assert not starting.done()
    os.kill(backend, signal.SIGCONT)
    await starting
    assert postgres.alive
    connection.terminate()


async def test_a_pid_that_is_somebody_elses_now_is_no_obstacle_and_no_victim(postgres: Postgres) -> None:
    await postgres.kill()
    user = system.service_user()
    with subprocess.Popen(["sleep", "60"], user=user.uid, group=user.gid) as somebody:
        pid_file = (postgres.dir / "postgres").resolve() / "data" / "postmaster.pid"
        _, _, rest = pid_file.read_text().partition("\n")
        pid_file.write_text(f"{somebody.pid}\n{rest}")
        await postgres.start()
        assert somebody.poll() is None
        somebody.kill()
    assert await query(postgres.url, "SELECT 1") == 1


async def test_ends_the_server_of_a_supervisor_that_died(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres()
    supervisor = f"""
        import asyncio, os
        from pathlib import Path
        from regtest.postgres import Postgres
        async def main():
            server = Postgres(Path({str(server.dir)!r}), fast=True)
            await server.start()
            print(server.pid, server.url, flush=True)
            os._exit(9)
        asyncio.run(main())
    """
    argv = [sys.executable, "-c", textwrap.dedent(supervisor)]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True)
    pid, url = done.stdout.split()
    assert running(int(pid))
    await query(url, "CREATE TABLE t AS SELECT 7 AS i")
    await server.start()
    assert not running(int(pid))
    assert await query(server.url, "SELECT i FROM t") == 7


async def test_deletes_the_server_of_somebody_else(make_postgres: Callable[..., Postgres]) -> None:
    server, other = make_postgres(), make_postgres()
    await server.start()
    await other.delete()
    assert not server.alive
    assert list(server.dir.iterdir()) == []


async def test_an_interrupted_first_start_is_begun_again(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres()
    leftover = server.dir / "postgres" / "data.new"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18")
    (server.dir / "postgres" / "password").write_text("old")
    await server.start()
    assert await query(server.url, "SELECT 1") == 1


async def test_a_server_that_does_not_start_says_why(make_postgres: Callable[..., Postgres]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = make_postgres(port=taken.getsockname()[1])
        with pytest.raises(Unavailable, match="could not bind"):
            await server.start()
    assert not server.alive


async def test_does_not_run_twice(postgres: Postgres) -> None:
    with pytest.raises(Broken, match="runs already"):
        await postgres.start()


async def test_before_the_first_start_there_is_nothing(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres()
    for attribute in ("url", "pid"):
        with pytest.raises(Broken, match="never started"):
            getattr(server, attribute)
    assert not server.alive
    await server.stop()
    await server.kill()


async def test_databases_come_and_go(postgres: Postgres) -> None:
    template = await postgres.create_database('odd "name"')
    await query(template, "CREATE TABLE t AS SELECT 7 AS i")
    copy = await postgres.create_database("copy", template='odd "name"')
    assert await query(copy, "SELECT i FROM t") == 7
    connected = await asyncpg.connect(copy)
    await postgres.drop_database("copy")
    await postgres.drop_database("copy")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await query(copy, "SELECT 1")
    connected.terminate()


async def test_delete_leaves_nothing(make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres()
    await server.start()
    home = (server.dir / "postgres").resolve()
    await server.delete()
    assert list(server.dir.iterdir()) == []
    assert not home.exists()


# As root


@as_root
async def test_root_runs_it_as_nobody_in_place_where_nobody_gets_to(postgres: Postgres) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    home = postgres.dir / "postgres"
    assert not home.is_symlink()
    assert {home.stat().st_uid, (home / "data").stat().st_uid, Path(f"/proc/{postgres.pid}").stat().st_uid} == {nobody}
    assert postgres.dir.stat().st_uid == 0


@as_root
async def test_root_keeps_private_directories_private(
    make_postgres: Callable[..., Postgres], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    above = [tmp_path, *tmp_path.parents]
    before = {path: path.stat().st_mode for path in above}
    assert not system.can_enter(tmp_path, system.service_user())
    server = make_postgres(tmp_path / "it")
    await server.start()
    place = server.dir / "postgres"
    assert place.is_symlink()
    assert place.resolve().parent == system.HOMES
    assert place.resolve().stat().st_mode & 0o777 == 0o700
    assert "runs as nobody" in caplog.text
    assert {path: path.stat().st_mode for path in above} == before
    caplog.clear()
    await query(server.url, "CREATE TABLE t AS SELECT 7 AS i")
    await server.stop()
    again = make_postgres(tmp_path / "it")
    await again.start()
    assert await query(again.url, "SELECT i FROM t") == 7
    assert caplog.text == ""


@as_root
async def test_a_directory_made_anew_does_not_adopt_old_data(
    make_postgres: Callable[..., Postgres], tmp_path: Path
) -> None:
    old = make_postgres(tmp_path / "it")
    await old.start()
    home = (old.dir / "postgres").resolve()
    await query(old.url, "CREATE TABLE t AS SELECT 7 AS i")
    shutil.rmtree(tmp_path / "it")  # while it runs
    new = make_postgres(tmp_path / "it")
    await new.start()
    assert not old.alive
    assert not home.exists()
    assert await query(new.url, "SELECT to_regclass('t')") is None


@as_root
async def test_a_copied_directory_gets_data_of_its_own(make_postgres: Callable[..., Postgres], tmp_path: Path) -> None:
    original = make_postgres(tmp_path / "it")
    await original.start()
    shutil.copytree(tmp_path / "it", tmp_path / "copy", symlinks=True)
    copy = make_postgres(tmp_path / "copy")
    await copy.start()
    assert original.alive
    assert (copy.dir / "postgres").resolve() != (original.dir / "postgres").resolve()


# As other users


async def run_as(user: pwd.struct_passwd, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as another user, by a Python of our version that they get to."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pythons = [sys.executable, *(str(Path(directory) / version) for directory in ("/usr/bin", "/usr/local/bin"))]
    options: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *site.getsitepackages()])
    for python in pythons:
        with contextlib.suppress(OSError):
            argv = [python, "-B", "-c", textwrap.dedent(script)]
            env = {"PYTHONPATH": paths, "PATH": os.defpath}
            run = partial(subprocess.run, argv, capture_output=True, text=True, check=False, env=env, **options)
            return await asyncio.to_thread(run)
    pytest.skip(f"{user.pw_name} gets to no {version}")


async def test_a_plain_user_runs_it_as_himself(open_directory: Path, plain_user: pwd.struct_passwd) -> None:
    os.chown(open_directory, plain_user.pw_uid, plain_user.pw_gid)
    open_directory.chmod(0o700)
    script = f"""
        import asyncio, os
        from pathlib import Path
        from regtest.postgres import Postgres
        async def main():
            server = Postgres(Path({str(open_directory)!r}), fast=True)
            await server.start()
            place = server.dir / "postgres"
            print(place.is_symlink(), place.stat().st_uid, os.stat(f"/proc/{{server.pid}}").st_uid)
            await server.kill()
            await server.start()
            await server.delete()
            print(list(server.dir.iterdir()))
        asyncio.run(main())
    """
    done = await run_as(plain_user, script)
    assert done.stderr == ""
    assert done.stdout == f"False {plain_user.pw_uid} {plain_user.pw_uid}\n[]\n"


async def test_data_of_another_user_are_refused(postgres: Postgres, plain_user: pwd.struct_passwd) -> None:
    script = f"""
        import asyncio
        from pathlib import Path
        from regtest.postgres import Postgres
        asyncio.run(Postgres(Path({str(postgres.dir)!r})).start())
    """
    done = await run_as(pwd.getpwnam("daemon"), script)
    assert "belongs to another user" in done.stderr
    assert postgres.alive
