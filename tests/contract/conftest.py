"""Every check of this folder runs on the fake, and on the real engine of the demo extra (marker `engine`)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.demo import engine as embedded
from tests.builders import fake_binary, gguf
from tests.contract.server import Engine, Server


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.engine)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A llama-server and a model for it."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "fake":
        model = folder / "fake.gguf"
        model.write_bytes(gguf({"general.architecture": "llama"}))
        slow = {"FAKE_LOAD_S": "0.2", "FAKE_CHUNK_DELAY": "0.02", "FAKE_CHUNKS": "1000"}
        return Engine("fake", fake_binary(folder), model, slow)
    return Engine("real", embedded.write_wrapper(folder), embedded.model_file())  # an error where it is not installed


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Server]:
    """One that runs for a whole module."""
    with Server(engine, "--parallel", "2", env=engine.slow) as one:
        yield one
