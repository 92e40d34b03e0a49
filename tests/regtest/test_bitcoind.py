"""The search order with executables that only tell a version, a release on a server of our own, and Debian for real."""

import hashlib
import io
import os
import platform
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from regtest import bitcoind as module
from regtest.bitcoind import Bitcoind, Release, cache_directory, find_bitcoind
from watcher.runtime.errors import Misconfigured, Unavailable

HOST = module._host()

Environ = dict[str, str]


def script(name: str) -> str:
    """An executable that tells a version as bitcoind does."""
    return f"#!/bin/sh\n[ \"$1\" = -version ] && echo 'Bitcoin {name} daemon version v1.2.3'\n"


def executable(path: Path, name: str = "Core") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script(name))
    path.chmod(0o755)
    return path


def archive(path: Path, member: str = "bitcoin-9.9/bin/bitcoind", content: str = "") -> str:
    """A release archive; its SHA-256."""
    data = (content or script("Released")).encode()
    with tarfile.open(path, "w:gz") as tar:
        for name, body in (("bitcoin-9.9/README.md", b"read"), (member, data)):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one directory and remembers what it was asked for."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(directory)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def release(server: Server, tmp_path: Path) -> Release:
    """A release of ours, on the server."""
    sha256 = archive(tmp_path / "served" / f"bitcoin-9.9-{HOST}.tar.gz")
    return Release("9.9", f"http://127.0.0.1:{server.server_port}", {HOST: sha256})


NOWHERE = Release("9.9", "http://127.0.0.1:9", {})


@pytest.fixture
def environ(tmp_path: Path) -> Environ:
    """An environment in which there is no bitcoind."""
    (tmp_path / "bin").mkdir()
    return {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": str(tmp_path / "bin")}


@pytest.fixture
def no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is found by name, and no container engine answers."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine")


# Path


@pytest.mark.parametrize("name", ["BITCOIND_EXE", "BITCOIND"])
def test_the_named_executable_wins(environ: Environ, tmp_path: Path, name: str) -> None:
    named = executable(tmp_path / "mine" / "my-bitcoind")
    executable(tmp_path / "bin" / "bitcoind", "Other")
    assert find_bitcoind(environ | {name: str(named)}, NOWHERE) == Bitcoind(named, "path", "Bitcoin Core v1.2.3")


def test_a_named_executable_may_be_relative(environ: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = executable(tmp_path / "mine" / "bitcoind")
    monkeypatch.chdir(tmp_path)
    assert find_bitcoind(environ | {"BITCOIND_EXE": "mine/bitcoind"}, NOWHERE).path == named


@pytest.mark.parametrize("content", [None, "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho something else\n", "no program"])
def test_a_named_executable_that_is_none_is_a_mistake(environ: Environ, tmp_path: Path, content: str | None) -> None:
    executable(tmp_path / "bin" / "bitcoind")
    if content is not None:
        (tmp_path / "mine").write_text(content)
        (tmp_path / "mine").chmod(0o755)
    with pytest.raises(Misconfigured, match=r"BITCOIND_EXE: .*/mine") as error:
        find_bitcoind(environ | {"BITCOIND_EXE": str(tmp_path / "mine")}, NOWHERE)
    assert error.value.exit_code == 78


def test_path_comes_before_the_cache(environ: Environ, tmp_path: Path) -> None:
    on_path = executable(tmp_path / "bin" / "bitcoind")
    executable(cache_directory(environ) / f"release-9.9-{HOST}" / "bitcoind", "Cached")
    assert find_bitcoind(environ, NOWHERE) == Bitcoind(on_path, "path", "Bitcoin Core v1.2.3")


# Cache


def test_the_pinned_release_comes_before_debian(environ: Environ) -> None:
    cache = cache_directory(environ)
    executable(cache / f"debian-29-{platform.machine()}" / "bitcoind", "Knots")
    assert find_bitcoind(environ, NOWHERE).version == "Bitcoin Knots v1.2.3"
    pinned = executable(cache / f"release-9.9-{HOST}" / "bitcoind", "Cached")
    assert find_bitcoind(environ, NOWHERE) == Bitcoind(pinned, "cache", "Bitcoin Cached v1.2.3")


def test_other_versions_and_machines_in_the_cache_are_left_alone(environ: Environ, no_apt: None) -> None:
    cache = cache_directory(environ)
    executable(cache / f"release-9.8-{HOST}" / "bitcoind")
    executable(cache / "debian-29-pdp11" / "bitcoind")
    with pytest.raises(Unavailable, match="cache: nothing in"):
        find_bitcoind(environ, NOWHERE)


def test_of_debians_the_latest(environ: Environ) -> None:
    cache = cache_directory(environ)
    new = executable(cache / f"debian-30-{platform.machine()}" / "bitcoind", "New").parent
    old = executable(cache / f"debian-29-{platform.machine()}" / "bitcoind", "Old").parent
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    assert find_bitcoind(environ, NOWHERE).version == "Bitcoin New v1.2.3"


def test_the_cache_is_in_the_home_unless_told() -> None:
    assert cache_directory({"HOME": "/h"}) == Path("/h/.cache/paywatch/bitcoind")
    assert cache_directory({"HOME": "/h", "XDG_CACHE_HOME": "/c"}) == Path("/c/paywatch/bitcoind")
    assert cache_directory({}) == Path.home() / ".cache/paywatch/bitcoind"


# Release


def test_a_release_is_fetched_once(environ: Environ, release: Release, server: Server) -> None:
    found = find_bitcoind(environ, release)
    assert found == Bitcoind(
        cache_directory(environ) / f"release-9.9-{HOST}" / "bitcoind", "release", "Bitcoin Released v1.2.3"
    )
    assert find_bitcoind(environ, release) == Bitcoind(found.path, "cache", found.version)
    assert server.asked == [f"/bitcoin-9.9-{HOST}.tar.gz"]
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["bitcoind"]


def test_another_place_for_the_same_archive(environ: Environ, release: Release, server: Server) -> None:
    elsewhere = Release(release.version, "http://127.0.0.1:9", release.sha256)
    found = find_bitcoind(environ | {"PAYWATCH_BITCOIND_ARCHIVE_URL": f"{release.url}/"}, elsewhere)
    assert found.source == "release"
    assert server.asked == [f"/bitcoin-9.9-{HOST}.tar.gz"]


def test_of_two_at_once_one_fetches(environ: Environ, release: Release, server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find_bitcoind(environ, release), range(4)))
    assert len({one.path for one in found}) == 1
    assert len(server.asked) == 1


def test_a_broken_one_in_the_cache_is_fetched_again(environ: Environ, release: Release) -> None:
    broken = cache_directory(environ) / f"release-9.9-{HOST}" / "bitcoind"
    broken.parent.mkdir(parents=True)
    broken.write_text("half of it")
    assert find_bitcoind(environ, release) == Bitcoind(broken, "release", "Bitcoin Released v1.2.3")


def left_in_cache(environ: Environ) -> list[str]:
    return sorted(path.name for path in cache_directory(environ).iterdir())


def test_another_hash_is_refused(environ: Environ, release: Release, no_apt: None) -> None:
    wrong = Release(release.version, release.url, {HOST: "00" * 32})
    with pytest.raises(Unavailable, match=rf"its SHA-256 is {release.sha256[HOST]}, pinned is 0000"):
        find_bitcoind(environ, wrong)
    assert left_in_cache(environ) == [".lock"]


def test_an_archive_without_the_executable_is_refused(
    environ: Environ, release: Release, tmp_path: Path, no_apt: None
) -> None:
    sha256 = archive(tmp_path / "served" / f"bitcoin-9.9-{HOST}.tar.gz", member="../../bin/bitcoin-cli")
    with pytest.raises(Unavailable, match="holds no bin/bitcoind"):
        find_bitcoind(environ, Release("9.9", release.url, {HOST: sha256}))
    assert left_in_cache(environ) == [".lock"]


def test_an_executable_for_another_machine_is_refused(
    environ: Environ, release: Release, tmp_path: Path, no_apt: None
) -> None:
    sha256 = archive(tmp_path / "served" / f"bitcoin-9.9-{HOST}.tar.gz", content="\x7fELF")
    with pytest.raises(Unavailable, match="does not run"):
        find_bitcoind(environ, Release("9.9", release.url, {HOST: sha256}))


def test_the_pins_are_hashes_of_archives_with_names() -> None:
    assert module.RELEASE.archive("x86_64-linux-gnu") == f"bitcoin-{module.RELEASE.version}-x86_64-linux-gnu.tar.gz"
    assert module.RELEASE.url.endswith(module.RELEASE.version)
    assert {len(bytes.fromhex(sha256)) for sha256 in module.RELEASE.sha256.values()} == {32}
    assert len(set(module.RELEASE.sha256.values())) == 4


# Nothing


def test_where_all_fail_every_reason_is_told(environ: Environ, release: Release, tmp_path: Path, no_apt: None) -> None:
    shutil.rmtree(tmp_path / "served")
    with pytest.raises(Unavailable) as error:
        find_bitcoind(environ, release)
    assert error.value.exit_code == 69
    for reason in (
        "path: BITCOIND_EXE is not set",
        "cache: nothing in",
        "release: http",
        "404",
        "debian: there is no",
        "container: no",
    ):
        assert reason in error.value.message
    assert "BITCOIND_EXE" in error.value.hint


def test_nobody_answers_there(environ: Environ, no_apt: None) -> None:
    nobody = Release("9.9", "http://127.0.0.1:9", {HOST: "00" * 32})
    with pytest.raises(Unavailable, match=r"release: http://127\.0\.0\.1:9/.*refused"):
        find_bitcoind(environ, nobody)


def test_no_archive_for_this_machine(environ: Environ, no_apt: None) -> None:
    with pytest.raises(Unavailable, match=f"release: no archive is pinned for {HOST}"):
        find_bitcoind(environ, NOWHERE)


def test_a_cache_that_cannot_be_written(environ: Environ, release: Release, tmp_path: Path, no_apt: None) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    with pytest.raises(Unavailable, match=r"release: .*(Not a directory|File exists)"):
        find_bitcoind(environ, release)


# One way only


@pytest.mark.parametrize("source", ["path", "cache", "release", "debian", "container"])
def test_one_way_can_be_forced(environ: Environ, release: Release, tmp_path: Path, source: str) -> None:
    cache = cache_directory(environ)
    executable(tmp_path / "bin" / "bitcoind")
    executable(cache / f"debian-29-{platform.machine()}" / "bitcoind")
    executable(cache / f"container-9.9-{platform.machine()}" / "bitcoind")
    assert find_bitcoind(environ | {"BITCOIND_SOURCE": source}, release).source == source


def test_a_forced_way_that_fails_is_the_end(environ: Environ, tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "bitcoind")
    with pytest.raises(Unavailable, match=r"^no bitcoind found. cache: nothing in"):
        find_bitcoind(environ | {"BITCOIND_SOURCE": "cache"}, NOWHERE)


def test_an_unknown_way_is_a_mistake(environ: Environ) -> None:
    with pytest.raises(
        Misconfigured, match="BITCOIND_SOURCE=docker is none of path, cache, release, debian, container"
    ):
        find_bitcoind(environ | {"BITCOIND_SOURCE": "docker"}, NOWHERE)


# For real


@pytest.mark.regtest
def test_this_machine_has_or_gets_one(bitcoind: Bitcoind) -> None:
    assert bitcoind.version.startswith("Bitcoin ")
    help_text = subprocess.run([bitcoind.path, "-help"], capture_output=True, text=True, check=True).stdout
    assert "-zmqpubsequence" in help_text


FETCH = """
import os, sys, time
from regtest.bitcoind import find_bitcoind
started = time.monotonic()
found = find_bitcoind({"BITCOIND_SOURCE": "debian", "XDG_CACHE_HOME": sys.argv[1]})
print(found.source, found.version, f"{time.monotonic() - started:.1f} s", file=sys.stderr)
print(found.path)
"""


def fetch_from_debian(cache: Path, run: Callable[..., str]) -> None:
    found = Path(run(FETCH, str(cache)).strip())
    assert found.is_relative_to(cache)
    size = sum(path.stat().st_size for path in found.parent.rglob("*"))
    assert size < 40_000_000
    version = subprocess.run([found, "-version"], capture_output=True, text=True, check=True, env={}).stdout
    assert version.startswith("Bitcoin Knots daemon version v")


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="not a Debian-like system")
def test_debian_gives_one_to_us(tmp_path: Path) -> None:
    fetch_from_debian(tmp_path, partial(run_python, {}))


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="not a Debian-like system")
def test_debian_gives_one_to_a_plain_user(plain_user: pwd.struct_passwd, open_directory: Path) -> None:
    os.chown(open_directory, plain_user.pw_uid, plain_user.pw_gid)
    user: dict[str, Any] = {"user": plain_user.pw_uid, "group": plain_user.pw_gid, "extra_groups": [], "cwd": "/"}
    fetch_from_debian(open_directory, partial(run_python, user))


def run_python(options: dict[str, Any], code: str, *args: str) -> str:
    """Run code in a Python that the user gets to; the fetching needs nothing but the standard library."""
    repository = str(Path(__file__).parents[2])
    env = {"PYTHONPATH": repository, "PATH": os.environ["PATH"], "HOME": tempfile.gettempdir()}
    python = sys.executable if not options else shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("the user gets to no Python")
    argv = [python, "-B", "-c", code, *args]
    return str(subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, env=env, **options).stdout)
