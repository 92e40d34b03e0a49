"""For tests that need a container engine."""

import pytest

from regtest.container import ContainerError, engine


def need(image: str) -> None:
    """Skip, and say why, unless an engine answers and has the image or gets it."""
    try:
        with engine() as client:
            if not client.client.images.list(image):
                client.client.images.pull(image)
    except ContainerError as error:
        pytest.skip(str(error)[:300])
