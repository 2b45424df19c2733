"""Fixtures of all tests."""

import sys

import pytest
import torch
from helpers import save_encoder, tiny_config, write_corpus, write_noise
from hypothesis import settings

from speechbrain.utils.importutils import LazyModule

# A busy machine is no error.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems():
    """Hypothesis looks at all modules; SpeechBrain's lazy ones cannot bear it."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, LazyModule):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def threads_stay():
    """Runs compared bit by bit with those of other processes need as many."""
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """Makes, once each, encoder folders by kind and norm."""
    made = {}

    def make(kind="wav2vec2", norm="group", **changes):
        key = (kind, norm, *sorted(changes.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{kind}-{norm}")
            made[key] = save_encoder(folder, tiny_config(kind, norm, **changes))
        return made[key]

    return make


@pytest.fixture
def make_encoder(encoder_folder, tmp_path):
    """Builds tiny encoders."""
    from mlkd_lobes.encoders import SSLEncoder

    def make(kind="wav2vec2", norm="group", n_layers=None, **changes):
        folder = encoder_folder(kind, norm, **changes)
        return SSLEncoder(folder, str(tmp_path / "hub"), n_layers).eval()

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A csv corpus nobody may change."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def noise_corpus(tmp_path_factory):
    """A noise folder nobody may change."""
    return write_noise(tmp_path_factory.mktemp("noise"))
