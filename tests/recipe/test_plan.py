"""Which runs there are, what is refused, which of them are finished."""

import json
import os
import re

import cross_validate
import pytest
from cross_validate import make_plan

from mlkd_lobes.files import write_json


def test_plan_has_folds_outermost(command, root):
    options, passed = cross_validate.parse(
        [*command, "--seeds=1,5", "--systems=teacher,mlkd"]
    )
    plan = make_plan(options, passed)
    assert [(r.fold, r.seed, r.system) for r in plan] == [
        (fold, seed, system)
        for fold in (1, 2, 3)
        for seed in (1, 5)
        for system in ("teacher", "mlkd")
    ]
    assert plan[3].folder == root / "fold_1/seed_5/mlkd"
    assert len({run.folder for run in plan}) == 12


@pytest.mark.parametrize(
    "option,message",
    [
        ("--folds=4", "folds: 4 is not between 1 and 3"),
        ("--folds=one", "folds: 'one' is not a list"),
        ("--seeds=a", "seeds: 'a' is not a list"),
        ("--seeds=1,1", "seeds: 1 is given twice"),
        ("--systems=mlkd,mlkd", "systems: mlkd is given twice"),
        ("--prepare_only=True", "prepare_only: prepares one fold"),
        ("--test_annotation=a.json", "test_annotation: is of one fold"),
        ("--systems=mlkd,best", "no system 'best'.*student_noisy"),
        ("--seed=3", "seed: is set per run; give --folds, --seeds"),
        ("--output_folder=x", "output_folder: is set per run"),
        ("--kd_levels=[1]", "kd_levels: is set by the system kd_last"),
        (
            "--loss_weights={features: 2.0}",
            "loss_weights: is set by the system student_noisy",
        ),
        ("--protocol=loso5", "no protocol 'loso5'.*groups"),
        ("--n_folds=abc", "n_folds: 'abc' is not an integer"),
        ("--n_folds=3.5", "n_folds: 3.5 is not an integer"),
        ("--student_layer=3", "no key 'student_layer'"),
        ("--seeds=1,-3", "seed: -3 is not an integer, at least 0"),
    ],
)
def test_bad_plans_are_refused(command, capsys, option, message):
    assert cross_validate.main([*command, option]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert re.search(message, printed)


def test_systems_of_ones_own_are_checked(command, tmp_path, capsys):
    """Before anything runs, not when their turn comes."""
    own = tmp_path / "own.yaml"
    own.write_text("systems: {odd: {student_lr: fast}}\n")
    files = next(o for o in command if o.startswith("--settings="))
    both = f"--settings=[{files.split('=')[1]}, {own}]"
    options = [both if option == files else option for option in command]
    assert cross_validate.main([*options, "--systems=random,odd"]) == 1
    printed = capsys.readouterr().err
    assert (
        printed
        == "error: student_lr: 'fast' is not a number above 0 (system odd)\n"
    )


def test_finished_with_which_options(whole_run):
    folder, finished = whole_run
    for option in (
        "--precision=bf16",
        "--debug",
        "--max_grad_norm=3",
        "--noise_annotation=my.csv",
        "--test_annotation=my.json",
        "--noise_folder=other",
        "--data_folder=other",
        "--skip_prep=True",
        "--wav2vec2_hub=other",
    ):
        assert not finished(option), option
    assert finished("--num_workers=3", "--eval_batch_length=33")
    # It asks for another test.
    assert not finished("--test_only")
    # What a trial left is not taken for the run itself.
    settings = json.loads((folder / "settings.json").read_text())
    settings["debug"] = True
    (folder / "settings.json").write_text(json.dumps(settings))
    assert not finished()


def test_what_was_prepared_again_is_no_finished_run(whole_run, corpus):
    folder, finished = whole_run
    later = (folder / "results.json").stat().st_mtime_ns + 1
    for path in (
        corpus / "manifest.csv",
        folder.parent / "manifests/test.json",
        folder.parent / "noise/train.csv",
    ):
        before = path.stat().st_mtime_ns
        os.utime(path, ns=(later, later))
        assert not finished(), path
        os.utime(path, ns=(before, before))
        assert finished()
    # Training alone ends with stage.json, which a later start leaves as it is.
    later = (folder / "stage.json").stat().st_mtime_ns + 1
    os.utime(folder / "hyperparams.yaml", ns=(later, later))
    assert finished("--train_only=True")
    os.utime(corpus / "manifest.csv", ns=(later, later))
    assert not finished("--train_only=True")
    os.utime(folder / "stage.json")  # as train.py does
    assert finished("--train_only=True")
    path.unlink()
    assert not finished()


def test_a_student_of_another_teacher_is_no_finished_run(
    whole_run, monkeypatch
):
    folder, finished = whole_run
    monkeypatch.setattr(cross_validate, "uses_teacher", lambda run: True)
    own = json.loads((folder / "stage.json").read_text())["teacher_sha256"]
    for sha256 in (own, "another"):
        stage = folder.with_name("teacher") / "stage.json"
        write_json(stage, {"model_sha256": sha256})
        assert finished() == (sha256 == own)


def test_damaged_files_are_no_finished_run(whole_run):
    folder, finished = whole_run
    for name in ("hyperparams.yaml", "settings.json"):
        content = (folder / name).read_text()
        # The end of hyperparams.yaml holds objects, as settings.json does.
        cuts = range(0, len(content) // 2, len(content) // 10)
        others = ["[]", "null", '{"objects": null}']
        for damaged in [*(content[:cut] for cut in cuts), *others]:
            (folder / name).write_text(damaged)
            os.utime(folder / name, (0, 0))
            assert not finished(), (name, damaged[-80:])
        (folder / name).write_text(content)
        os.utime(folder / name, (0, 0))
    assert finished()


def test_systems_with_dots_keep_logs_of_their_own(command, tmp_path):
    settings = tmp_path / "own.yaml"
    settings.write_text("systems: {lr0.1: {}, lr0.2: {student_lr: 0.2}}\n")
    own = [f"--settings={settings}", "--systems=lr0.1,lr0.2", "--corpus=csv"]
    options = [o for o in command if not o.startswith("--settings=")]
    options += ["--protocol=groups", *own, "--folds=1"]
    plan = make_plan(*cross_validate.parse(options))
    names = [cross_validate.log_of(run).name for run in plan]
    assert names == ["lr0.1.log", "lr0.2.log"]
