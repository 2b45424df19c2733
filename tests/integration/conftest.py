"""The real command on a corpus of seconds and an encoder of kilobytes."""

import cross_validate
import pytest
from experiment import YAML, Experiment, planned
from helpers import write_corpus
from plan import is_done


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
    return experiment.arguments["output_folder"] / "tiny/groups"


@pytest.fixture
def whole_run(command, root):
    """A finished run; whether it is so for other options."""
    own = ["--folds=1", "--systems=random"]
    assert cross_validate.main([*command, *own]) == 0

    def finished(*options):
        names = tuple(f"{option.split('=')[0]}=" for option in options)
        others = [o for o in command if not o.startswith(names)]
        return is_done(planned(others, *own, *options)[0])

    assert finished()
    return root / "fold_1/seed_1/random", finished
