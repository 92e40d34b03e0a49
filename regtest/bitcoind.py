"""Find a bitcoind on this machine, or fetch one. Nothing is installed, no root is needed.

The ways, in this order; the first that gives a working executable is taken:

1. `BITCOIND_EXE` (or `BITCOIND`): the path of an executable.
2. `bitcoind` on PATH.
3. Our cache, `${XDG_CACHE_HOME:-~/.cache}/paywatch/bitcoind/<id>/bitcoind`, filled by the ways 4 to 6.
4. The release archive of Bitcoin Core, one pinned version with its pinned SHA-256.
   `PAYWATCH_BITCOIND_ARCHIVE_URL` is another folder to take the archive of the same name from; the hash stays.
5. Debian's `bitcoin-knots`, unpacked (not installed) with the libraries it needs: `regtest.debian`.
6. The container image of the same release, where an engine answers: `regtest.container`. The executable is copied
   out of it, so that the node is an ordinary process here too.

`BITCOIND_SOURCE=path|cache|release|debian|container` allows one way only (`path` stands for 1 and 2). Where all
fail, `Unavailable` says why each did.
"""

import contextlib
import fcntl
import hashlib
import http.client
import logging
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from regtest import container, debian
from watcher.runtime.errors import Misconfigured, Unavailable

HINT = "set BITCOIND_EXE to a bitcoind executable, or put one on PATH"

DOWNLOAD_SILENCE_SECONDS = 15
DOWNLOAD_SECONDS = 600
DOWNLOAD_BYTES = 200_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bitcoind:
    """An executable that has answered `-version`, with its answer and the way it was found.

    `source` is path, cache, release, debian or container.
    """

    path: Path
    source: str
    version: str


@dataclass(frozen=True, slots=True)
class Release:
    """A pinned release: `sha256` maps the platform in the archive's name to the SHA-256 of the archive."""

    version: str
    url: str
    sha256: Mapping[str, str]

    def archive(self, host: str) -> str:
        """Return the file name of the archive for `host`."""
        return f"bitcoin-{self.version}-{host}.tar.gz"


# The hashes stand in bitcoin-core/guix.sigs, 31.1/*/all.SHA256SUMS: many builders, each signed, all alike.
RELEASE = Release(
    version="31.1",
    url="https://bitcoincore.org/bin/bitcoin-core-31.1",
    sha256={
        "x86_64-linux-gnu": "b80d9c3e04da78fb6f0569685673418cf686fadba9042d926d13fb87ff503f9e",
        "aarch64-linux-gnu": "dcf1873f2208ba4f962f3398d47e154c39c0084be8f4553e05c940d0ace3d004",
        "x86_64-apple-darwin": "bc506958d0f387c1ea770bdc7c7192a505fa645ff62cabcc7761fa7eb89e867e",
        "arm64-apple-darwin": "16a097c09fbd7eb78b240ce1dae123663ea2e5e377cfd6a951e71e227e23cf2f",
    },
)


class NotThisWay(Exception):
    """One way does not lead to a bitcoind; the text says why."""


def find_bitcoind(environ: Mapping[str, str] = os.environ, release: Release = RELEASE) -> Bitcoind:
    """Find or fetch a bitcoind, as the module says. Blocks, for seconds when one must be fetched.

    Raises `Unavailable` with every way and why it failed; `Misconfigured` for an unknown `BITCOIND_SOURCE`
    and for a `BITCOIND_EXE` that does not run: who names one does not want another.
    """
    cache = cache_directory(environ)
    url = environ.get("PAYWATCH_BITCOIND_ARCHIVE_URL") or release.url
    ways: dict[str, Callable[[], Bitcoind]] = {
        "path": lambda: _from_path(environ),
        "cache": lambda: _from_cache(cache, release),
        "release": lambda: _from_release(cache, release, url),
        "debian": lambda: _from_debian(cache),
        "container": lambda: _from_container(cache, release),
    }
    forced = environ.get("BITCOIND_SOURCE")
    if forced and forced not in ways:
        raise Misconfigured(f"BITCOIND_SOURCE={forced} is none of {', '.join(ways)}")
    reasons = []
    for name in [forced] if forced else ways:
        try:
            return ways[name]()
        except NotThisWay as reason:
            reasons.append(f"{name}: {reason}")
    raise Unavailable("no bitcoind found. " + "; ".join(reasons), HINT)


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return where fetched executables are kept; removing it is safe."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    return Path(base) / "paywatch" / "bitcoind"


def _from_path(environ: Mapping[str, str]) -> Bitcoind:
    named = environ.get("BITCOIND_EXE") or environ.get("BITCOIND")
    if named:
        try:
            return _tried(Path(named), "path")
        except NotThisWay as reason:
            raise Misconfigured(f"BITCOIND_EXE: {reason}", "correct or unset it") from reason
    found = shutil.which("bitcoind", path=environ.get("PATH"))
    if found is None:
        raise NotThisWay("BITCOIND_EXE is not set, and there is no bitcoind on PATH")
    return _tried(Path(found), "path")


def _from_cache(cache: Path, release: Release) -> Bitcoind:
    ids = [_release_id(release), *_debian_ids(cache), _container_id(release)]
    return _first_working([cache / one / "bitcoind" for one in ids], "cache", f"nothing in {cache}")


def _from_release(cache: Path, release: Release, url: str) -> Bitcoind:
    host = _host()
    if host not in release.sha256:
        raise NotThisWay(f"no archive is pinned for {host}")

    def fetch(directory: Path) -> str:
        archive = directory / "archive"
        _download(f"{url.rstrip('/')}/{release.archive(host)}", archive, release.sha256[host])
        _unpack(archive, directory / "bitcoind")
        archive.unlink()
        return _release_id(release)

    return _fetched(cache, "release", lambda: [_release_id(release)], fetch)


def _from_debian(cache: Path) -> Bitcoind:
    def fetch(directory: Path) -> str:
        try:
            version = debian.fetch_knots(directory)
        except debian.AptError as error:
            raise NotThisWay(str(error)) from error
        return f"debian-{version}-{platform.machine()}"

    return _fetched(cache, "debian", lambda: _debian_ids(cache), fetch)


def _from_container(cache: Path, release: Release) -> Bitcoind:
    def fetch(directory: Path) -> str:
        if platform.system() != "Linux":
            raise NotThisWay("what is in the image runs on Linux only")
        try:
            container.copy_bitcoind(directory / "bitcoind", release.version)
        except container.ContainerError as error:
            raise NotThisWay(str(error)) from error
        return _container_id(release)

    return _fetched(cache, "container", lambda: [_container_id(release)], fetch)


def _fetched(cache: Path, source: str, ids: Callable[[], Iterable[str]], fetch: Callable[[Path], str]) -> Bitcoind:
    """Take what is cached under one of `ids`, or let `fetch` fill a directory and tell the id it gets.

    Under a lock, so that of two runs at once the second waits, then finds the work done; by a rename, so that
    a directory with an id is always whole.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / ".lock"):
            with contextlib.suppress(NotThisWay):
                return _first_working([cache / one / "bitcoind" for one in ids()], source, "")
            logger.info("fetching a bitcoind (%s) into %s", source, cache)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as new:
                directory = Path(new) / "it"
                directory.mkdir()
                target = cache / fetch(directory)
                shutil.rmtree(target, ignore_errors=True)
                directory.rename(target)
            return _tried(target / "bitcoind", source)
    except OSError as error:
        raise NotThisWay(str(error)) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _first_working(paths: Iterable[Path], source: str, otherwise: str) -> Bitcoind:
    reasons = []
    for path in paths:
        if path.exists():
            try:
                return _tried(path, source)
            except NotThisWay as reason:
                reasons.append(str(reason))
    raise NotThisWay("; ".join(reasons) or otherwise)


def _tried(path: Path, source: str) -> Bitcoind:
    """Ask the executable its version, `Bitcoin Core v31.1.0` for one."""
    path = path.absolute()
    try:
        answer = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotThisWay(f"{path} does not run: {error}") from error
    version = answer.stdout.partition("\n")[0].replace("daemon version ", "").strip()
    if answer.returncode != 0 or not version.startswith("Bitcoin"):
        raise NotThisWay(f"{path} is no bitcoind: {(answer.stderr or answer.stdout).strip()[:300]!r}")
    return Bitcoind(path, source, version)


def _host() -> str:
    """Name this machine as release archives do, `x86_64-linux-gnu` for one."""
    system = "apple-darwin" if platform.system() == "Darwin" else f"{platform.system().lower()}-gnu"
    return f"{platform.machine()}-{system}"


def _release_id(release: Release) -> str:
    return f"release-{release.version}-{_host()}"


def _container_id(release: Release) -> str:
    return f"container-{release.version}-{platform.machine()}"


def _debian_ids(cache: Path) -> list[str]:
    """List what came from Debian for this machine, the latest first."""
    found = cache.glob(f"debian-*-{platform.machine()}")
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def _download(url: str, target: Path, sha256: str) -> None:
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    digest = hashlib.sha256()
    size = 0
    try:
        with (
            urllib.request.urlopen(url, timeout=DOWNLOAD_SILENCE_SECONDS) as answer,  # noqa: S310 - by hash
            target.open("wb") as file,
        ):
            while chunk := answer.read(1 << 18):
                size += len(chunk)
                if size > DOWNLOAD_BYTES or time.monotonic() > deadline:
                    raise NotThisWay(f"{url}: more than {DOWNLOAD_BYTES} bytes or {DOWNLOAD_SECONDS} s")
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotThisWay(f"{url}: {error}") from error
    if digest.hexdigest() != sha256:
        raise NotThisWay(f"{url}: its SHA-256 is {digest.hexdigest()}, pinned is {sha256}")


def _unpack(archive: Path, target: Path) -> None:
    """Take the one file we want out; no path in the archive decides where anything is written."""
    with tarfile.open(archive) as tar:
        member = next((member for member in tar if member.name.endswith("/bin/bitcoind")), None)
        content = tar.extractfile(member) if member else None
        if content is None:
            raise NotThisWay("the archive holds no bin/bitcoind")
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)
    target.chmod(0o755)
