"""What the recipe's YAML file declares, and lobes of one's own in its place."""

import json
import pathlib
import re
import shlex
import shutil

import pytest
import torch
import train
from experiment import YAML
from hyperpyyaml import load_hyperpyyaml

from mlkd_lobes.cli import main
from mlkd_lobes.data.batches import TrainingBatchSampler
from mlkd_lobes.deployment.models import open_classifier
from mlkd_lobes.models.distillation import FeatureLoss, MultiLevelProjection
from mlkd_lobes.models.encoder import SSLEncoder
from mlkd_lobes.noise.add_noise import CLEAN, Condition
from speechbrain.augment.time_domain import AddNoise
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2

USED = []
ROOT = pathlib.Path(__file__).parents[2]


class OwnLoss(FeatureLoss):
    """A loss in place of the recipe's."""

    def forward(self, student, targets):
        USED.append("loss")
        return super().forward(student, targets)

    def _apply(self, *options):
        USED.append("device")
        return super()._apply(*options)


class OwnProjection(MultiLevelProjection):
    """A projection in place of the recipe's."""

    def forward(self, hidden):
        USED.append("projection")
        return super().forward(hidden)


class OwnAddNoise(train.add_noise.KeyedAddNoise):
    """A mixer in place of the recipe's."""

    def corrupt(self, wav, utterance):
        USED.append("noise")
        return super().corrupt(wav, utterance)


class OwnEncoder(SSLEncoder):
    """An encoder in place of the recipe's."""

    def forward(self, *args, **options):
        USED.append("encoder")
        return super().forward(*args, **options)


class OwnSampler(TrainingBatchSampler):
    """A batch sampler in place of the recipe's."""

    def __iter__(self):
        USED.append("sampler")
        return super().__iter__()


def test_encoders_and_noise_addition_are_speechbrains():
    with open(YAML) as file:
        hparams = load_hyperpyyaml(file, {"data_folder": "corpus"})
    for key in ("add_noise", "valid_noise", "test_noise"):
        assert isinstance(hparams[key], AddNoise)
    for key in ("teacher_encoder", "student_encoder"):
        assert issubclass(hparams[key].func, Wav2Vec2)


@pytest.mark.parametrize(
    "old,new,used",
    [
        (
            "mlkd_lobes.models.distillation.FeatureLoss",
            "OwnLoss",
            "loss device",
        ),
        (
            "mlkd_lobes.models.distillation.MultiLevelProjection",
            "OwnProjection",
            "projection",
        ),
        (
            "mlkd_lobes.noise.add_noise.KeyedAddNoise",
            "OwnAddNoise",
            "noise",
        ),
        ("mlkd_lobes.models.encoder.SSLEncoder", "OwnEncoder", "encoder"),
        (
            "mlkd_lobes.data.batches.TrainingBatchSampler",
            "OwnSampler",
            "sampler",
        ),
    ],
)
def test_lobes_are_swapped_in_the_yaml_file(
    finished, experiment, old, new, used
):
    own = experiment.folder / "own.yaml"
    with open(YAML) as file:
        own.write_text(file.read().replace(old, f"test_yaml.{new}"))
    USED.clear()
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher/model"
    )
    command = experiment.command("mlkd", "--student_epochs=1")
    train.main([str(own), *command[1:]])
    assert {*used.split()} <= {*USED}
    folder = experiment.arguments["output_folder"] / "mlkd"
    assert json.loads((folder / "results.json").read_text())["conditions"]


def test_the_loss_of_the_page_is_compared_with_mlkd(
    finished, experiment, tmp_path, monkeypatch, capsys
):
    """As docs/method.md describes: a module, a copy of the YAML, a system."""
    page = (ROOT / "docs/method.md").read_text()
    (module,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (loss,) = re.findall(r"    (features: !new:my_\S+)", page)
    (report,) = re.findall(r"mlkd_lobes report results/iemocap (.*)", page)
    (tmp_path / "my_losses.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    own, kept = tmp_path / "my.yaml", "(?=    logits: !new)"
    with open(YAML) as file:
        text = file.read().replace("\nsystems:", "\nsystems:\n    squared: {}")
    text, n = re.subn(f"(?s)features: !new.*?{kept}", f"{loss}\n", text)
    assert n == 1
    own.write_text(text)
    out = tmp_path / "out"
    shutil.copytree(finished.arguments["output_folder"], out)
    experiment.arguments["output_folder"] = out
    command = experiment.command("squared")
    assert train.main([str(own), *command[1:]]) == 0
    found = json.loads((out / "squared/results.json").read_text())
    assert found["teacher_sha256"] == finished.results["mlkd"]["teacher_sha256"]
    assert main(["report", str(out), *shlex.split(report)]) == 0
    assert "squared − mlkd" in capsys.readouterr().out


@pytest.mark.parametrize("levels", ["[1, 3]", "[0, 2, -1]"])
def test_levels_follow_the_key(finished, experiment, levels, monkeypatch):
    found = []
    cut = train.classifier.FrozenTeacher

    def teacher(network, chosen):
        found.extend(chosen)
        return cut(network, chosen)

    monkeypatch.setattr(train.classifier, "FrozenTeacher", teacher)
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher/model"
    )
    experiment.run("mlkd", kd_levels=levels, student_epochs=1)
    n_layers = 4
    assert found == [n_layers if x < 0 else x for x in json.loads(levels)]


def test_noise_trained_systems_are_validated_in_noise():
    class Noise:
        types = {"rain": {}, "wind": {}}

    grid = [Condition(k, s) for k in Noise.types for s in (0, 5)]
    own = {"valid_noise": Noise, "valid_snrs": [0, 5]}
    assert train.validation_grid({**own, "speech": "noisy"}) == grid
    assert train.validation_grid({**own, "speech": "clean"}) == [CLEAN]


def test_head_and_front_end_follow_their_keys(finished, experiment):
    experiment.run(
        "teacher",
        teacher_freeze_cnn=False,
        teacher_epochs=1,
        head_projection=24,
    )
    folder = experiment.arguments["output_folder"] / "teacher/model"
    model = open_classifier(folder)
    start = open_classifier(
        finished.arguments["output_folder"] / "random/model"
    )
    assert model.head.projector.out_features == 24
    layers = [
        m.encoder.model.feature_extractor.conv_layers[1].conv.weight
        for m in (model, start)
    ]
    assert not torch.equal(*layers)
