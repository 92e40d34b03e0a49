"""A mirror of our own: an apt-get that hands out packages built here. Debian's own is asked in `test_bitcoind`."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from regtest import debian
from regtest.debian import AptError, fetch_knots

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="not a Debian-like system")

# Answers `indextargets`, refuses the `update` of the suites in BROKEN, "downloads" what lies in PACKAGES.
APT_GET = """\
#!/bin/sh
case " $* " in
*" indextargets "*)
    echo http://third.invalid/party; echo http://mirror.invalid/debian-security
    echo http://mirror.invalid/debian/; echo http://mirror.invalid/debian/; exit;;
esac
for argument; do
    case $argument in
    Dir::Etc::SourceList=*) sources=${argument#*=};;
    Dir::Cache::Archives=*) archives=${argument#*=};;
    esac
done
cat "$sources" >> "$SEEN"
case " $* " in
*" update "*)
    for suite in $BROKEN; do
        grep -q " $suite main" "$sources" && { echo "E: no $suite" >&2; exit 100; }
    done;;
*" install bitcoin-knots "*) cp "$PACKAGES"/*.deb "$archives";;
esac
exit 0
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with that apt-get; what it is asked for is written to `seen`."""
    for name in ("bin", "packages", "target"):
        (tmp_path / name).mkdir()
    apt_get = tmp_path / "bin" / "apt-get"
    apt_get.write_text(APT_GET)
    apt_get.chmod(0o755)
    (tmp_path / "keyring").touch()
    monkeypatch.setattr(debian, "KEYRINGS", (tmp_path / "none", tmp_path / "keyring"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("PACKAGES", str(tmp_path / "packages"))
    monkeypatch.setenv("BROKEN", "")
    return tmp_path


def package(machine: Path, name: str, version: str, *files: Path) -> None:
    """A package with copies of files of this machine, at the places where Debian has such files."""
    tree = machine / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.invalid>\n"
        "Description: a test\n"
    )
    for file in files:
        place = "usr/bin" if name == "bitcoin-knots" else f"usr/lib/{platform.machine()}-linux-gnu"
        (tree / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tree / place / ("bitcoind" if name == "bitcoin-knots" else file.name))
    target = machine / "packages" / f"{name}_{version.replace(':', '%3a')}_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, target], check=True, capture_output=True)


def libraries_of(executable: str) -> list[Path]:
    """The loader and the libraries that an executable of this machine uses."""
    told = subprocess.run(["ldd", executable], capture_output=True, text=True, check=True).stdout
    return [Path(word) for word in told.split() if word.startswith("/")]


@pytest.fixture
def program(machine: Path) -> Path:
    """`sleep`, as the bitcoind of the package."""
    package(machine, "bitcoin-knots", "29.5.knots~bpo13+1", Path("/bin/sleep"))
    return machine


def test_unpacks_what_runs_by_its_own_loader(program: Path) -> None:
    package(program, "libc6", "2.43-7", *libraries_of("/bin/sleep"))
    assert fetch_knots(program / "target") == "29.5.knots-bpo13+1"
    with subprocess.Popen([program / "target" / "bitcoind", "60"]) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while "/target/lib/libc." not in maps.read_text():  # until the wrapper has become the program
            assert process.poll() is None
        mapped = {line.split()[-1] for line in maps.read_text().splitlines() if line.split()[-1].startswith("/")}
        process.kill()
    assert {Path(path).parent for path in mapped} == {(program / "target" / "lib").resolve()}


def test_asks_the_machines_own_mirror_and_never_the_security_one(program: Path) -> None:
    package(program, "libc6", "2.43-7", *libraries_of("/bin/sleep"))
    fetch_knots(program / "target")
    sources = set((program / "seen").read_text().splitlines())
    options = f"[signed-by={program / 'keyring'} target=Packages]"
    assert sources == {
        f"deb {options} http://mirror.invalid/debian/ trixie main",
        f"deb {options} http://mirror.invalid/debian/ trixie-backports main",
    }


def test_falls_back_to_unstable(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(program, "libc6", "2.43-7", *libraries_of("/bin/sleep"))
    monkeypatch.setenv("BROKEN", "trixie-backports")
    fetch_knots(program / "target")
    assert (program / "seen").read_text().rstrip().endswith("/debian/ sid main")


def test_tells_what_each_attempt_says(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN", "trixie sid")
    with pytest.raises(AptError) as error:
        fetch_knots(program / "target")
    attempt = "trixie-backports: apt-get: E: no trixie; sid: apt-get: E: no sid"
    assert str(error.value) == f"{attempt}; {attempt}"  # of both mirrors


def test_refuses_what_would_use_libraries_of_the_system(program: Path) -> None:
    loader = [path for path in libraries_of("/bin/sleep") if path.name.startswith("ld-linux")]
    package(program, "libc6", "2.43-7", *loader)
    with pytest.raises(AptError, match=r"would use /|cannot open shared object|libc"):
        fetch_knots(program / "target")


def test_refuses_packages_without_a_loader(program: Path) -> None:
    with pytest.raises(AptError, match="no dynamic loader"):
        fetch_knots(program / "target")


def test_needs_the_keyring(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "KEYRINGS", (machine / "none",))
    with pytest.raises(AptError, match="debian-archive-keyring"):
        fetch_knots(machine / "target")


def test_needs_apt(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(machine / "target"))
    with pytest.raises(AptError, match="there is no apt-get"):
        fetch_knots(machine / "target")
