"""The main job end to end: what it leaves, and what it may not do."""

import gc
import itertools
import json
import shutil

import pandas as pd
import pytest
import torch
import train
from helpers import LABELS, RECIPE, write_noise
from safetensors.torch import load_file
from train import MLKDBrain
from transformers import AutoModelForAudioClassification

import speechbrain as sb
from mlkd_lobes.deployment import parity
from mlkd_lobes.deployment.export import export
from mlkd_lobes.evaluation.results import read_cost, read_predictions, summarize
from mlkd_lobes.models.classifier import FrozenTeacher, state_sha256
from mlkd_lobes.training import run_folder


def weights(experiment, system):
    folder = experiment.arguments["output_folder"] / system / "model"
    return load_file(folder / "model.safetensors")


def stage(experiment, system):
    path = experiment.arguments["output_folder"] / system / "stage.json"
    return json.loads(path.read_text())


def test_results_follow_the_schema(finished):
    for system, results in finished.results.items():
        assert results["schema"] == 1
        assert results["system"] == system
        assert (results["corpus"], results["protocol"]) == ("tiny", "groups")
        assert (results["fold"], results["seed"]) == (1, 1)
        assert results["noise_corpus"] == "folder"
        assert results["labels"] == LABELS
        conditions = [(c["noise"], c["snr_db"]) for c in results["conditions"]]
        noisy = [(kind, snr) for kind in ("rain", "wind") for snr in (0, 10)]
        assert conditions == [("clean", None), *noisy]
        for condition in results["conditions"]:
            assert condition["n"] == 16
            assert 0 <= condition["UA"] <= 1
        assert len(results["hparams_sha256"]) == 64
        settings = results["settings"]
        assert settings["labels"] == LABELS and settings["network"]
        # What other folds and seeds have otherwise.
        assert not {"fold", "seed", "train_manifest"} & {*settings}
    # All of a fold and seed are tested on the same.
    tests = {r["test_sha256"] for r in finished.results.values()}
    assert len(tests) == 1 and len(tests.pop()) == 64


def test_the_precision_of_the_test_counts_wherever_it_is_set(
    finished, experiment, tmp_path
):
    yaml, out = tmp_path / "own.yaml", experiment.arguments["output_folder"]
    text = (RECIPE / "hparams/mlkd.yaml").read_text()
    yaml.write_text(text + "\neval_precision: bf16\n")
    command = [str(yaml), *experiment.command("random")[1:]]
    train.run(*sb.parse_arguments(command))
    found = json.loads((out / "random/results.json").read_text())
    option = {"output_folder": tmp_path / "other"}
    other = experiment.run("random", "--eval_precision=bf16", **option)
    assert found["test_sha256"] == other["test_sha256"]
    assert found["test_sha256"] != finished.results["mlkd"]["test_sha256"]


def test_predictions_are_what_the_metrics_were_computed_from(finished):
    for system, results in finished.results.items():
        folder = finished.arguments["output_folder"] / system
        rows = read_predictions(folder)
        assert len(rows) == 16 * 5
        assert summarize(rows, LABELS) == results["conditions"]
        total = rows[[f"p_{label}" for label in LABELS]].sum(axis=1)
        assert (total - 1).abs().max() < 1e-5
        cost = json.loads((folder / "cost.json").read_text())
        assert cost["parameters"] > 0 and cost["macs_per_second"] > 0


def test_one_teacher_serves_all_students(finished):
    teacher = stage(finished, "teacher")["model_sha256"]
    for system in ("student_clean", "student_noisy", "kd_last", "mlkd"):
        assert finished.results[system]["teacher_sha256"] == teacher
    assert finished.results["teacher_noisy"]["teacher_sha256"] != teacher


def test_nothing_but_the_run_is_left(finished):
    folder = finished.arguments["output_folder"]
    for system in finished.results:
        names = {path.name for path in (folder / system).iterdir()}
        assert {"model", "stage.json", "hyperparams.yaml"} < names
        assert "train_log.txt" in names or system == "random"
        assert not {"save", "targets"} & names
        assert not any(name.startswith(".partial") for name in names)


def test_trained_student_is_a_plain_hugging_face_model(finished):
    folder = finished.arguments["output_folder"]
    for system in ("mlkd", "mlkd_semi", "student_noisy"):
        native = AutoModelForAudioClassification.from_pretrained(
            folder / system / "model"
        )
        assert native.config.num_hidden_layers == 2
        assert weights(finished, system).keys() == native.state_dict().keys()


def test_student_starts_from_the_teacher(finished, experiment):
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher/model"
    )
    experiment.run("mlkd", student_epochs=0)
    teacher, student = weights(finished, "teacher"), weights(experiment, "mlkd")
    assert len(student) < len(teacher)
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    assert not (experiment.arguments["output_folder"] / "teacher").exists()


def test_frozen_front_end_stays_the_teachers(finished):
    teacher, student = weights(finished, "teacher"), weights(finished, "mlkd")
    cnn = [n for n in student if "feature_extractor" in n]
    assert cnn and all(torch.equal(student[n], teacher[n]) for n in cnn)
    moved = [n for n in student if n not in cnn and "masked_spec" not in n]
    assert not any(torch.equal(student[n], teacher[n]) for n in moved)


def test_teacher_is_frozen_and_in_no_checkpoint(experiment, monkeypatch):
    seen, signals = [], {}
    forward = MLKDBrain.compute_forward

    def watch(self, batch, stage):
        teacher = self.modules.teacher
        training = [m.training for m in teacher.modules()]
        seen.append((any(training), state_sha256(teacher), stage))
        if stage == sb.Stage.TRAIN:
            wavs, lengths = batch.clean
            samples = (lengths * wavs.shape[1]).round().long().tolist()
            signals.update(zip(batch.key, samples))
        return forward(self, batch, stage)

    saved, kept = {}, []
    finish = run_folder.finish_stage

    def look(folder, *rest):
        for path in folder.glob("save/CKPT*/*.ckpt"):
            saved.setdefault(path.stem, path.stat().st_size)
        kept.extend(folder.glob("targets/*/*/*.safetensors"))
        return finish(folder, *rest)

    requested, answer = [], FrozenTeacher.forward

    def listen(self, wavs):
        requested.append([len(wav) for wav in wavs])
        return answer(self, wavs)

    monkeypatch.setattr(FrozenTeacher, "forward", listen)
    monkeypatch.setattr(MLKDBrain, "compute_forward", watch)
    monkeypatch.setattr(run_folder, "finish_stage", look)
    experiment.run("mlkd")
    # It gets every signal once, alone and without padding.
    assert len(kept) == len(signals)
    assert sorted(requested) == sorted([n] for n in signals.values())
    assert {stage.name for _, _, stage in seen} == {"TRAIN", "VALID"}
    assert not any(training for training, _, _ in seen)
    assert len({digest for _, digest, _ in seen}) == 1
    assert {"model", "projection", "history"} <= set(saved)
    assert "teacher" not in saved


def test_the_teachers_training_does_not_stay_in_memory(experiment, monkeypatch):
    """Its Brain and checkpointer refer to each other."""
    alive = []

    def fit(brain, *_, **__):
        alive.extend(
            o for o in gc.get_objects() if type(o) is train.EmotionBrain
        )
        raise KeyboardInterrupt

    monkeypatch.setattr(MLKDBrain, "fit", fit)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(KeyboardInterrupt):
            experiment.run("mlkd", teacher_epochs=1)
    finally:
        gc.enable()
    assert not alive


def test_every_loss_is_logged(finished):
    log = finished.arguments["output_folder"] / "mlkd/train_log.txt"
    text = log.read_text()
    for term in ("emotion", "features", "snr_mean", "valid UA", "lr_encoder"):
        assert text.count(term) == 2
    history = stage(finished, "mlkd")["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    assert "features" not in stage(finished, "student_noisy")["history"][0]


def test_same_seed_same_files_and_another_seed_another_model(
    finished, experiment
):
    out = experiment.folder / "again"
    experiment.run("mlkd", output_folder=out, num_workers=2)
    first = finished.arguments["output_folder"]
    for name in ("results.json", "predictions.csv.gz"):
        one = (first / "mlkd" / name).read_bytes()
        assert one == (out / "mlkd" / name).read_bytes()
    other = experiment.run("mlkd", seed=2)
    assert other["seed"] == 2
    assert (
        stage(experiment, "mlkd")["model_sha256"]
        != stage(finished, "mlkd")["model_sha256"]
    )


def test_evaluation_noise_does_not_depend_on_batches(
    finished, experiment, monkeypatch
):
    """Several utterances in a batch, as on a GPU, and a grid in parts."""
    grouped = train.batches.evaluation_batches
    monkeypatch.setattr(
        train.batches,
        "evaluation_batches",
        lambda data, n, _: grouped(data, n, 160),
    )
    before = read_predictions(finished.arguments["output_folder"] / "mlkd")
    out = experiment.folder / "copy"
    shutil.copytree(finished.arguments["output_folder"], out)
    # A test needs no teacher.
    shutil.rmtree(out / "teacher/model")
    experiment.run(
        "mlkd", "--test_only", output_folder=out, eval_batch_length=30
    )
    after = read_predictions(out / "mlkd")
    pd.testing.assert_frame_equal(before, after, atol=1e-5, rtol=0)


def test_two_stages_first_distil_then_learn_all(finished, experiment):
    results = experiment.run("mlkd", distillation_epochs=1)
    found = stage(experiment, "mlkd")
    first, *others = found["history"]
    assert "features" in first and "emotion" not in first
    # Without labels there is nothing to validate and nothing to choose.
    assert "valid_UA" not in first and found["epoch"] > 1
    assert len(others) == 2
    assert all("features" in e and "emotion" in e for e in others)
    # A system without distillation losses has one stage.
    teacher = finished.results["teacher"]["teacher_sha256"]
    assert results["teacher_sha256"] == teacher
    experiment.run("student_noisy", distillation_epochs=1)
    name = "model_sha256"
    alone = stage(experiment, "student_noisy")[name]
    assert alone == stage(finished, "student_noisy")[name]


def test_history_has_all_epochs(experiment, monkeypatch):
    epochs = itertools.count(1)

    def falling(*_):
        return [{"UA": 1 / next(epochs), "WA": 0.0}]

    monkeypatch.setattr(train.results, "summarize", falling)
    with pytest.raises(FileNotFoundError):
        experiment.run("teacher", teacher_epochs=3, train_only=True)
    found = stage(experiment, "teacher")
    assert found["epoch"] == 1
    assert [entry["epoch"] for entry in found["history"]] == [1, 2, 3]
    total = sum(entry["seconds"] for entry in found["history"])
    assert found["training_seconds"] == pytest.approx(total)


def test_training_alone_leaves_the_test_aside(experiment):
    with pytest.raises(FileNotFoundError):
        experiment.run("teacher", train_only=True)
    folder = experiment.arguments["output_folder"] / "teacher"
    assert stage(experiment, "teacher")["valid_UA"] > 0
    assert not (folder / "predictions.csv.gz").exists()
    # Repeated, it counts as newer than the fold, which was prepared before.
    before = (folder / "stage.json").stat().st_mtime_ns
    with pytest.raises(FileNotFoundError):
        experiment.run("teacher", train_only=True)
    assert (folder / "stage.json").stat().st_mtime_ns > before
    # The same command without it goes on from there.
    trained = stage(experiment, "teacher")
    assert experiment.run("teacher")["epoch"] == trained["epoch"]
    assert stage(experiment, "teacher") == trained


def test_student_options_do_not_retrain_the_teacher(finished, experiment):
    """Unlabelled speech serves distillation alone."""
    results = experiment.run("mlkd", unlabelled=True, student_epochs=1)
    teacher = finished.results["teacher"]["teacher_sha256"]
    assert results["teacher_sha256"] == teacher


def test_the_random_system_is_never_trained(finished, experiment):
    results = experiment.run("random", teacher_epochs=3)
    assert results["epoch"] is None
    assert results["conditions"] == finished.results["random"]["conditions"]


def test_noise_csvs_are_read_once(finished, experiment, monkeypatch):
    """A run beside this one may write them while it trains."""
    evaluate = train.evaluate

    def late(hparams, *rest):
        csvs = [*experiment.arguments["output_folder"].glob("noise/*.csv")]
        assert len(csvs) == 3
        for csv in csvs:
            csv.write_text("overwritten")
        return evaluate(hparams, *rest)

    monkeypatch.setattr(train, "evaluate", late)
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher"
    )
    assert experiment.run("mlkd") == finished.results["mlkd"]


@pytest.mark.parametrize("kind,norm", [("hubert", "group"), ("wavlm", "layer")])
def test_other_teachers(experiment, encoder_folder, kind, norm):
    encoder = encoder_folder(kind, norm)
    results = experiment.run(
        "mlkd", wav2vec2_hub=encoder, teacher_epochs=1, student_epochs=1
    )
    assert results["conditions"][0]["n"] == 16


def test_other_losses_and_a_trained_front_end(finished, experiment):
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher/model"
    )
    experiment.run(
        "mlkd",
        loss_weights="{features: 0.0, logits: 1.0}",
        student_freeze_cnn=False,
        student_epochs=1,
    )
    assert set(stage(experiment, "mlkd")["history"][0]) >= {"logits", "emotion"}
    teacher, student = weights(finished, "teacher"), weights(experiment, "mlkd")
    name = next(n for n in student if "conv_layers.0.conv" in n)
    assert not torch.equal(student[name], teacher[name])


def test_a_narrow_student_is_trained_and_exported(
    finished, experiment, tmp_path, monkeypatch
):
    teacher = finished.arguments["output_folder"] / "teacher/model"
    experiment.run(
        "mlkd",
        teacher_folder=teacher,
        student_cnn="{channels: [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]}",
        student_freeze_cnn=False,
        student_epochs=1,
    )
    run = experiment.arguments["output_folder"] / "mlkd"
    wide = read_cost(finished.arguments["output_folder"] / "mlkd")
    narrow = read_cost(run)
    for name in ("parameters", "macs_per_second"):
        assert narrow[name] < wide[name]
    # Every format agrees with the trained model, or export raises.
    monkeypatch.setattr(parity, "INT8_LIMIT", 1.0)
    written = export(run, tmp_path / "export", report=list)
    assert written["parity"] and written["int8"]


def test_finished_work_is_not_done_again(finished, experiment, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("trained or evaluated again")

    monkeypatch.setattr(train.EmotionBrain, "fit", fail)
    monkeypatch.setattr(train.EmotionBrain, "evaluate", fail)
    out = finished.arguments["output_folder"]
    assert experiment.run("mlkd", output_folder=out) == finished.results["mlkd"]


def test_a_temperature_is_fitted_at_the_present_snrs(experiment):
    first = experiment.run("teacher", teacher_epochs=1, valid_snrs=[20])
    again = experiment.run("teacher", teacher_epochs=1, valid_snrs=[-20])
    assert first["test_sha256"] == again["test_sha256"]
    assert first["temperature"] != again["temperature"]


def test_own_noise_annotation_replaces_the_training_noise(
    finished, experiment, tmp_path
):
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher/model"
    )
    folder = write_noise(tmp_path / "own", ["siren"])
    lines = ["ID,duration,wav,wav_format,wav_opts"]
    for i, path in enumerate(sorted(folder.rglob("*.wav"))):
        lines.append(f"{i},0.75,{path},wav,")
    csv = tmp_path / "my.csv"
    csv.write_text("\n".join(lines) + "\n")
    results = experiment.run("mlkd", noise_annotation=csv)
    settings = {
        name: json.loads((path / "mlkd/settings.json").read_text())["content"]
        for name, path in (
            ("own", experiment.arguments["output_folder"]),
            ("corpus", finished.arguments["output_folder"]),
        )
    }
    assert settings["own"]["train_noise"] != settings["corpus"]["train_noise"]
    assert settings["own"]["valid_noise"] == settings["corpus"]["valid_noise"]
    own = stage(experiment, "mlkd")["model_sha256"]
    assert own != stage(finished, "mlkd")["model_sha256"]
    kinds = {c["noise"] for c in results["conditions"]}
    assert kinds == {"clean", "rain", "wind"}


def test_overlaps_of_given_manifests_are_a_warning(finished, experiment):
    out = finished.arguments["output_folder"]
    given = {
        f"{split}_annotation": out / f"manifests/{split}.json"
        for split in ("train", "valid", "test")
    }
    given["train_annotation"] = given["test_annotation"]
    noise = {
        "noise_annotation": out / "noise/train.csv",
        "noise_valid_annotation": out / "noise/valid.csv",
        "noise_test_annotation": out / "noise/test.csv",
    }
    experiment.run(
        "student_noisy",
        skip_prep=True,
        teacher_folder=out / "teacher/model",
        student_epochs=1,
        **given,
        **noise,
    )
    log = experiment.arguments["output_folder"] / "student_noisy/log.txt"
    assert "train and test share 2 speaker" in log.read_text()


def test_accumulated_gradients_keep_the_schedule(finished, experiment):
    """The rate falls to 0 however many batches make an update."""
    experiment.arguments["teacher_folder"] = (
        finished.arguments["output_folder"] / "teacher/model"
    )
    experiment.run("student_noisy", "--grad_accumulation_factor=3")
    log = experiment.arguments["output_folder"] / "student_noisy/train_log.txt"
    assert "lr_encoder: 0.000e+00" in log.read_text().splitlines()[-1]
