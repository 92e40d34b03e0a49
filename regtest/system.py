"""PostgreSQL's place on a machine where we are root, which it refuses to be.

It runs as `nobody` then. No directory that we did not make is ever opened wider for that; what `nobody`
cannot get to (below a private home, say) has a place of its own below `/var/lib/paywatch`.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

from regtest.process import User

ROOT = Path("/var/lib/paywatch")
HOMES = ROOT / "regtest"


def service_user() -> User:
    """Who runs PostgreSQL: we ourselves, or `nobody` when we are root."""
    if os.geteuid() != 0:
        return User()
    nobody = pwd.getpwnam("nobody")
    return User(nobody.pw_uid, nobody.pw_gid, ())


def can_enter(directory: Path, user: User) -> bool:
    """Whether `user` gets to `directory`: asked of the system itself, not computed from modes."""
    argv = ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)]
    done = subprocess.run(
        argv,
        cwd="/",
        capture_output=True,
        check=False,
        user=user.uid,
        group=user.gid,
        extra_groups=user.groups,
    )
    return done.returncode == 0


def give(path: Path, user: User) -> None:
    """Make `user` the owner of what we made, when it is not us."""
    if user.uid is not None and user.gid is not None:
        os.chown(path, user.uid, user.gid)


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Make `/var/lib/paywatch`, for all to read as its parent is, and hold its lock."""
    for directory in (ROOT, HOMES):
        if not directory.exists():
            directory.mkdir(parents=True)
            directory.chmod(0o755)
    with (ROOT / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def linked_home(link: Path) -> Path | None:
    """Return the home that `link` points to, when it is one that was made for just this link."""
    home = link.resolve()
    ours = link.is_symlink() and home.is_dir() and home.parent == HOMES
    return home if ours and home.name.startswith(_key(link)) else None


def stale_homes(link: Path) -> list[Path]:
    """List the homes of a directory that stood here before: it was removed, nothing refers to them."""
    return [home for home in HOMES.glob(f"{_key(link)}*") if home != linked_home(link)]


def make_home(link: Path, user: User) -> Path:
    """Make a new home of `user` for `link`, and the symlink to it."""
    with lock():
        home = HOMES / f"{_key(link)}{secrets.token_hex(4)}"
        home.mkdir(mode=0o700)
        give(home, user)
        link.unlink(missing_ok=True)
        link.symlink_to(home)
    return home


def _key(link: Path) -> str:
    return hashlib.sha256(os.fsencode(link.parent.resolve())).hexdigest()[:16] + "-"
