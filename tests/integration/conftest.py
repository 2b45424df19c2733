"""The real command on a corpus of seconds and an encoder of kilobytes."""

import pytest
from experiment import Experiment
from helpers import write_corpus


@pytest.fixture
def experiment(tmp_path, encoder_folder, corpus, noise_corpus):
    return Experiment(tmp_path, encoder_folder(), corpus, noise_corpus)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, encoder_folder, corpus, noise_corpus):
    """An experiment whose eight systems are done; nobody may change it."""
    folder = tmp_path_factory.mktemp("finished")
    experiment = Experiment(folder, encoder_folder(), corpus, noise_corpus)
    systems = ["mlkd", "random", "teacher", "teacher_noisy", "student_clean"]
    systems += ["student_noisy", "kd_last", "mlkd_semi"]
    experiment.results = {name: experiment.run(name) for name in systems}
    return experiment


@pytest.fixture
def own_corpus(tmp_path):
    return write_corpus(tmp_path / "corpus")
