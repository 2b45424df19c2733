"""Fixtures of all tests."""

import sys

import cross_validate
import pytest
import torch
from cross_validate import is_done
from experiment import YAML, Experiment, planned
from helpers import save_encoder, tiny_config, write_corpus, write_noise
from hypothesis import settings

from speechbrain.utils.importutils import LazyModule

# A busy machine is no error.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems():
    """Hypothesis inspects all modules, which breaks SpeechBrain's lazy ones."""
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
    from mlkd_lobes.models.encoder import SSLEncoder

    def make(kind="wav2vec2", norm="group", n_layers=None, **changes):
        folder = encoder_folder(kind, norm, **changes)
        return SSLEncoder(folder, str(tmp_path / "hub"), n_layers).eval()

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A csv corpus, read only."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def noise_corpus(tmp_path_factory):
    """A noise folder, read only."""
    return write_noise(tmp_path_factory.mktemp("noise"))


@pytest.fixture
def experiment(tmp_path, encoder_folder, corpus, noise_corpus):
    """The real command with settings for the tiny corpus."""
    return Experiment(tmp_path, encoder_folder(), corpus, noise_corpus)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, encoder_folder, corpus, noise_corpus):
    """An experiment whose eight systems are done; tests may not change it."""
    folder = tmp_path_factory.mktemp("finished")
    experiment = Experiment(folder, encoder_folder(), corpus, noise_corpus)
    systems = ["mlkd", "random", "teacher", "teacher_noisy", "student_clean"]
    systems += ["student_noisy", "kd_last", "mlkd_semi"]
    experiment.results = {name: experiment.run(name) for name in systems}
    return experiment


@pytest.fixture
def own_corpus(tmp_path):
    """A csv corpus that a test may change."""
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def command(experiment):
    """Options of a cross-validation of the tiny corpus."""
    arguments = dict(experiment.arguments)
    arguments["results_folder"] = arguments.pop("output_folder")
    arguments.update(teacher_epochs=1, student_epochs=1, test_snrs="[0]")
    options = [f"--{key}={value}" for key, value in arguments.items()]
    return [YAML, *options, "--noprogressbar", "--device=cpu"]


@pytest.fixture
def root(experiment):
    """The folder of the tiny corpus' folds."""
    return experiment.arguments["output_folder"] / "tiny/groups"


@pytest.fixture
def whole_run(command, root):
    """A finished run; whether it counts as finished with other options."""
    own = ["--folds=1", "--systems=random"]
    assert cross_validate.main([*command, *own]) == 0

    def finished(*options):
        names = tuple(f"{option.split('=')[0]}=" for option in options)
        others = [o for o in command if not o.startswith(names)]
        return is_done(planned(others, *own, *options)[0])

    assert finished()
    return root / "fold_1/seed_1/random", finished


@pytest.fixture
def few(monkeypatch):
    """Few and short recordings."""
    from mlkd_lobes.noise import generated

    counts = {"train": 2, "valid": 1, "test": 1}
    monkeypatch.setattr(generated, "GENERATED", counts)
    monkeypatch.setattr(generated, "GENERATED_SECONDS", 2)
