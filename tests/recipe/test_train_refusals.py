"""What the main job refuses, and with which words."""

import shutil

import pytest
import torch
import train
from helpers import LABELS, RECIPE, write_wav

import speechbrain as sb
from mlkd_lobes.errors import InputError
from mlkd_lobes.models import classifier, encoder
from mlkd_lobes.training import checkpoints


def test_other_settings_cannot_resume_in_a_folder(finished, experiment):
    out = finished.arguments["output_folder"]
    saved = (out / "mlkd/hyperparams.yaml").read_bytes()
    manifest = (out / "manifests/train.json").read_bytes()
    for flags, changes, message in (
        ([], {"student_lr": 0.1}, "student_lr: 0.003 there, 0.1 now"),
        ([], {"temperature": 9.0}, "temperature: 2.0 there, 9.0 now"),
        (["--precision=bf16"], {}, "precision: 'fp32' there, 'bf16' now"),
        (["--max_grad_norm=9"], {}, "max_grad_norm: 1.0 there, 9.0 now"),
        (["--test_only"], {"fold": 2}, "fold: 1 there, 2 now"),
        (["--test_only"], {"student_layers": 1}, "student_layers: 2 there"),
        ([], {"fold": 2}, "fold: 1 there, 2 now"),
        (["--debug"], {}, "debug: False there, True now"),
        (["--eval_precision=bf16"], {}, "eval_precision: 'fp32' there"),
        ([], {"head_lr": 0.1}, "head_lr: 0.001 there, 0.1 now"),
    ):
        with pytest.raises(InputError, match=message):
            experiment.run("mlkd", *flags, output_folder=out, **changes)
    assert (out / "mlkd/hyperparams.yaml").read_bytes() == saved
    assert (out / "manifests/train.json").read_bytes() == manifest
    for changes, message in (
        ({"teacher_epochs": 3}, "teacher_epochs: 2 there, 3 now"),
        ({"noise_types": "[rain]"}, r"noise_types: \['rain', 'wind'\] there"),
        ({"label_map": "{surprised: hap}"}, "label_map"),
    ):
        with pytest.raises(InputError, match=message):
            experiment.run("kd_last", output_folder=out, **changes)
    assert (out / "manifests/train.json").read_bytes() == manifest


@pytest.mark.parametrize(
    "level,message",
    [(0.0, "my.csv, row a: .*a.wav is silent"), (None, "a.wav: No such file")],
)
def test_silent_noise_is_found_before_training(
    experiment, tmp_path, level, message
):
    if level is not None:
        write_wav(tmp_path / "a.wav", torch.full((16000,), level))
    csv = tmp_path / "my.csv"
    row = f"a,1.0,{tmp_path}/a.wav,wav,"
    csv.write_text(f"ID,duration,wav,wav_format,wav_opts\n{row}\n")
    with pytest.raises(InputError, match=message):
        experiment.run("mlkd", noise_test_annotation=csv)
    assert not list(experiment.folder.rglob("CKPT*"))


def test_noise_shared_by_training_and_test_is_refused(
    finished, experiment, tmp_path
):
    out = finished.arguments["output_folder"]
    with pytest.raises(InputError, match="train and test share .* noise rec"):
        experiment.run("mlkd", noise_annotation=out / "noise/test.csv")
    # Nor under another name.
    text = (out / "noise/test.csv").read_text()
    folder = experiment.arguments["noise_folder"]
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    csv = tmp_path / "my.csv"
    csv.write_text(text.replace(str(folder), str(copied)))
    with pytest.raises(InputError, match=r"same content\(s\): \S+wav"):
        experiment.run("mlkd", noise_annotation=csv)


@pytest.mark.parametrize(
    "content,message",
    [
        ("{", "train.json: is not valid JSON"),
        (
            '{"u": {"length": 1.0, "emo": "neu"}}',
            "utterance u has None as 'wav'",
        ),
        ('{"u": {"wav": "{x}/a.wav", "length": 1.0}}', "data_root"),
    ],
)
def test_own_manifests_are_checked_first(
    experiment, tmp_path, content, message
):
    manifest = tmp_path / "train.json"
    manifest.write_text(content)
    with pytest.raises(InputError, match=message):
        experiment.run("mlkd", skip_prep=True, train_annotation=manifest)


def test_missing_audio_is_named_before_training(finished, experiment, tmp_path):
    """Of the test, too, which is read last."""
    manifests, own = finished.arguments["output_folder"] / "manifests", {}
    for split in ("train", "valid", "test"):
        own[f"{split}_annotation"] = manifests / f"{split}.json"
    text = own["test_annotation"].read_text()
    own["test_annotation"] = tmp_path / "test.json"
    own["test_annotation"].write_text(text.replace(".wav", "_gone.wav"))
    with pytest.raises(InputError, match="audio files do not exist"):
        experiment.run("mlkd", skip_prep=True, prepare_only=True, **own)


@pytest.mark.parametrize(
    "name", ["ckpt_interval_minutes", "ckpt_interval_steps"]
)
def test_checkpoints_within_epochs_are_refused(experiment, name):
    with pytest.raises(InputError, match=f"--{name}: training resumes"):
        experiment.run("mlkd", f"--{name}=5")


@pytest.mark.parametrize(
    "option,message",
    [
        ("--precision=fp16", "fp16 needs a GPU"),
        ("--eval_precision=fp16", "fp16 needs a GPU"),
        ("--remove_vector_weight_decay", "all weights decay"),
        ("--data_parallel_backend", "several GPUs need torchrun"),
    ],
)
def test_options_that_contradict_the_recipe_are_refused(
    experiment, option, message
):
    with pytest.raises(InputError, match=message):
        experiment.run("mlkd", option)
    assert not (experiment.arguments["output_folder"] / "manifests").exists()


def test_more_processes_than_batches_are_refused(
    finished, experiment, monkeypatch
):
    """SpeechBrain's sampler fails where a process gets a single batch."""
    monkeypatch.setattr(checkpoints, "n_processes", lambda: 99)
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher/model"
    )
    with pytest.raises(InputError, match="too few for 99 processes"):
        experiment.run("student_noisy")


def test_a_limit_of_steps_is_refused(experiment, tmp_path):
    message = "--optimizer_step_limit: the learning rate"
    with pytest.raises(InputError, match=message):
        experiment.run("mlkd", "--optimizer_step_limit=5")
    yaml = tmp_path / "own.yaml"
    text = (RECIPE / "hparams/mlkd.yaml").read_text()
    yaml.write_text(text + "\noptimizer_step_limit: 5\n")
    command = [str(yaml), *experiment.command("mlkd")[1:]]
    with pytest.raises(InputError, match=message):
        train.run(*sb.parse_arguments(command))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"corpus": "msp"}, "no corpus 'msp'.*iemocap, csv"),
        ({"protocol": "random"}, "no protocol 'random'.*groups"),
        ({"noise_corpus": "x"}, "no noise_corpus 'x'.*musan, demand, esc"),
        (
            {"noise_types": "[hail]"},
            "'hail'.*; expected a list of types.*rain, wind",
        ),
        ({"noise_folder": "null"}, "noise_folder: expected the folder"),
        ({"noise_folder": "nowhere"}, "nowhere: no such folder"),
        ({"noise_annotation": "nowhere.csv"}, "nowhere.csv: no such file"),
        ({"data_folder": "nowhere"}, "nowhere/manifest.csv: no such file"),
        ({"kd_levels": "[9]"}, "no level 9.*levels 0 to 4"),
        ({"student_layers": 9}, "student_layers: 9 is not between 1 and"),
        ({"student_cnn": "{channels: 0.5}"}, "set student_freeze_cnn: False"),
        (
            {"student_cnn": "{channels: []}"},
            "student_cnn: .* above 0, at most 1",
        ),
        (
            {"loss_weights": "{kd: 1}"},
            "no loss 'kd'.*emotion, features, logits",
        ),
        ({"teacher_folder": "./nowhere"}, "nowhere"),
        ({"select": "{take: 1}"}, "select: not for corpus csv"),
        ({"partial_corpus": True}, "partial_corpus: not for corpus csv"),
        ({"student_layer": 2}, "no key 'student_layer'"),
    ],
)
def test_bad_settings_stop_the_command(finished, experiment, changes, message):
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher/model"
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        experiment.run("mlkd", **changes)
    # Nothing that the corrected command would be measured by.
    out = experiment.arguments["output_folder"]
    assert not list(out.glob("*/settings.json"))


@pytest.mark.parametrize("system", ["teacher", "mlkd"])
@pytest.mark.parametrize(
    "changes,message",
    [
        ({"kd_levels": "[9]"}, "no level 9.*levels 0 to 4"),
        ({"student_layers": 9}, "student_layers: 9 is not between 1 and"),
        ({"loss_weights": "{kd: 1}"}, "no loss 'kd'"),
        (
            {"student_cnn": "{channels: [1, 1]}", "student_freeze_cnn": False},
            "student_cnn: 2 shares for 7 convolutions",
        ),
    ],
)
def test_a_students_settings_are_refused_before_its_teacher_is_trained(
    experiment, system, changes, message
):
    """cross_validate.py trains the teacher first, with the same settings."""
    with pytest.raises(ValueError, match=message):
        experiment.run(system, **changes)
    assert not list(experiment.arguments["output_folder"].glob("*/stage.json"))


def test_a_trained_teacher_needs_no_hub(experiment, monkeypatch):
    """Nor does a student that does not distil need levels that are there."""
    alone = {"kd_levels": "[9]", "loss_weights": "{features: 0, logits: 0}"}
    experiment.run("teacher", **alone)
    opened, init = [], encoder.SSLEncoder.__init__

    def remember(self, source, *args, **options):
        opened.append(source)
        init(self, source, *args, **options)

    monkeypatch.setattr(encoder.SSLEncoder, "__init__", remember)
    results = experiment.run("student_clean", **alone)
    assert results["system"] == "student_clean"
    assert opened and experiment.arguments["wav2vec2_hub"] not in opened


def test_epochs_without_an_update_are_refused(finished, experiment):
    # The run's folder instead of the model in it.
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher"
    )
    for factor in (99, 0):
        with pytest.raises(InputError, match=f"{factor} is not between 1 and"):
            option = f"--grad_accumulation_factor={factor}"
            experiment.run("student_noisy", option)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"noise_corpus": "x"}, "no noise_corpus 'x'"),
        # As without a network, or with a name that the hub does not know.
        ({"wav2vec2_hub": "nobody/nothing"}, "nobody/nothing"),
    ],
)
def test_bad_input_ends_in_one_line(experiment, changes, message):
    process = experiment.start("mlkd", **changes)
    printed, _ = process.communicate()
    assert process.returncode == 1
    printed = printed[printed.index("error: ") :]
    assert message in printed and "Traceback" not in printed


def test_every_process_reports_its_error(monkeypatch, caplog):
    """Of several, another than the first may meet the full disk."""

    def run(*_):
        raise InputError("the disk is full")

    monkeypatch.setattr(train, "run", run)
    monkeypatch.setattr("speechbrain.utils.logger.if_main_process", lambda: 0)
    command = [str(RECIPE / "hparams/mlkd.yaml"), "--data_folder=x"]
    assert train.main(command) == 1
    assert "error: the disk is full" in caplog.text


def test_a_fold_changed_after_the_training_is_not_tested(
    experiment, monkeypatch
):
    """As by another command with other settings."""
    train_network, out = (
        train.train_network,
        experiment.arguments["output_folder"],
    )

    def then_another(*arguments):
        train_network(*arguments)
        (out / "manifests/valid.json").write_text("{}")

    monkeypatch.setattr(train, "train_network", then_another)
    with pytest.raises(InputError, match="valid_manifest.*repeat this one"):
        experiment.train("random")
    assert not [*out.rglob("results.json")]


def test_test_only_needs_a_trained_model(experiment):
    with pytest.raises(InputError, match="holds no trained model"):
        experiment.run("mlkd", "--test_only")


def test_a_narrow_teacher_is_not_narrowed_again(
    experiment, encoder_folder, tmp_path
):
    """Opened with the same shares, it would stay as it is."""
    source = encoder_folder()
    narrow = encoder.SSLEncoder(source, source, channels=0.5)
    model = classifier.EmotionClassifier(narrow, LABELS)
    model.save_pretrained(tmp_path / "narrow")
    experiment.arguments["teacher_folder"] = tmp_path / "narrow"
    own = {"student_cnn": "{channels: 0.5}", "student_freeze_cnn": False}
    with pytest.raises(InputError, match="front end is narrow already"):
        experiment.run("mlkd", **own)
