"""What holds for each of the three images."""

from __future__ import annotations

import json

import pytest

from tests.containers import tools

ENTRY_POINTS = {
    "cpu": ["/usr/bin/tini", "--", "perennial"],
    "orchestrator": ["/usr/bin/tini", "--"],
    "trainer": ["/usr/bin/tini", "--", "perennial"],
}


@pytest.mark.parametrize("name", tools.IMAGES)
def test_an_image_says_what_it_is(name: str, request: pytest.FixtureRequest) -> None:
    image: str = request.getfixturevalue(f"{name}_image")
    config = json.loads(tools.podman("image", "inspect", image))[0]["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ENTRY_POINTS[name]
    assert config["Labels"]["org.opencontainers.image.title"] == f"perennial-{name}"
    assert not [each for each in config["Env"] if "SECRET" in each or "PASSWORD" in each]
