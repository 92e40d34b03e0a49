"""Debian's `bitcoin-knots`, unpacked with the libraries it needs, by a private and unprivileged apt-get.

Nothing is installed and no state of the system's apt is touched: lists, cache and status are private and
temporary. The mirror is the one that this machine's apt is set to. Stable backports are asked first, unstable
after them. A package made for a newer Debian runs all the same: it is started by its own dynamic loader.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = "bitcoin-knots"

# The suites of one attempt; the package is taken from the last, what it needs from any of them.
ATTEMPTS = (("trixie", "trixie-backports"), ("sid",))

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)

APT_SECONDS = 300

# LC_ALL: the locales of the system are made for its own C library.
# exec: the process id that the starter of the wrapper knows is then the node's own.
WRAPPER = """\
#!/bin/sh
here=${0%/*}
export LC_ALL=C
exec "$here/lib/LOADER" --inhibit-cache --library-path "$here/lib" "$here/lib/bitcoind" "$@"
"""


class AptError(Exception):
    """The apt of this machine cannot give the package; the text says why."""


def fetch_knots(target: Path) -> str:
    """Fill the empty directory `target` with a runnable `bitcoind` and its libraries; return its version.

    About five seconds and 40 MB of downloads on a fast line, 25 MB kept. Raises `AptError`.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise AptError(f"there is no {tool}: not a Debian-like system")
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    if keyring is None:
        raise AptError("Debian's archive keyring is not installed (package debian-archive-keyring)")
    reasons = []
    for mirror in _mirrors():
        for suites in ATTEMPTS:
            with tempfile.TemporaryDirectory(prefix="paywatch-apt-") as directory:
                try:
                    return _fetch(Path(directory), mirror, suites, keyring, target)
                except AptError as error:
                    reasons.append(f"{suites[-1]}: {error}")
    raise AptError("; ".join(reasons) or "apt has no Debian mirror set")


def _mirrors() -> list[str]:
    """List where this machine's apt takes Debian from: at most three, those first that say so."""
    listed = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    uris = dict.fromkeys(uri for uri in listed.split() if "security" not in uri)
    return sorted(uris, key=lambda uri: "debian" not in uri)[:3]


def _fetch(work: Path, mirror: str, suites: Sequence[str], keyring: Path, target: Path) -> str:
    debs = _download(work, mirror, suites, keyring)
    root = work / "root"
    for deb in debs:
        _run(["dpkg-deb", "--extract", str(deb), str(root)])
    _keep_what_runs(root, target)
    package = next(deb.name for deb in debs if deb.name.startswith(f"{PACKAGE}_"))
    return re.sub(r"[^A-Za-z0-9.+]", "-", package.split("_")[1])


def _download(work: Path, mirror: str, suites: Sequence[str], keyring: Path) -> list[Path]:
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    source = f"deb [signed-by={keyring} target=Packages] {mirror}"
    (work / "sources.list").write_text("".join(f"{source} {suite} main\n" for suite in suites))
    apt = ["apt-get", *_options(work)]
    _run([*apt, "update"])
    _run([*apt, "--yes", "--download-only", f"--target-release={suites[-1]}", "install", PACKAGE])
    return sorted((work / "cache" / "archives").glob("*.deb"))


def _options(work: Path) -> Iterator[str]:
    """Everything private, nothing locked, no recommended packages, no fresh date demanded of a mirror."""
    for setting in (
        f"Dir::Etc::SourceList={work}/sources.list",
        "Dir::Etc::SourceParts=/dev/null",
        "Dir::Etc::Preferences=/dev/null",
        "Dir::Etc::PreferencesParts=/dev/null",
        f"Dir::State={work}",
        f"Dir::State::Lists={work}/lists",
        f"Dir::State::Status={work}/status",
        f"Dir::Cache={work}/cache",
        f"Dir::Cache::Archives={work}/cache/archives",
        "Debug::NoLocking=1",
        "APT::Sandbox::User=",
        "APT::Install-Recommends=false",
        "APT::Update::Error-Mode=any",
        "Acquire::Check-Valid-Until=false",
        "Acquire::Languages=none",
        "Acquire::Retries=1",
        "Acquire::http::Timeout=15",
        "Acquire::https::Timeout=15",
    ):
        yield from ("-o", setting)


def _keep_what_runs(root: Path, target: Path) -> None:
    """Copy the executable, its loader and the libraries that the loader names; write the wrapper."""
    library = target / "lib"
    shutil.rmtree(library, ignore_errors=True)  # of an attempt that failed
    library.mkdir()
    loader = next((path for path in root.rglob("ld-linux-*.so.*") if path.is_file()), None)
    if loader is None:
        raise AptError("the packages hold no dynamic loader")
    executable = root / "usr" / "bin" / "bitcoind"
    listed = _run([str(loader), "--inhibit-cache", "--library-path", str(loader.parent), "--list", str(executable)])
    for path in (executable, loader, *map(Path, re.findall(r" => (\S+) \(0x", listed))):
        if not path.is_relative_to(root):
            raise AptError(f"bitcoind would use {path} of the system")
        shutil.copy(path, library / path.name)
    wrapper = target / "bitcoind"
    wrapper.write_text(WRAPPER.replace("LOADER", loader.name))
    wrapper.chmod(0o755)


def _run(argv: Sequence[str]) -> str:
    env = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=APT_SECONDS, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AptError(str(error)) from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise AptError(f"{argv[0]}: {' '.join(last)}")
    return done.stdout
