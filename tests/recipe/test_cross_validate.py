"""Folds x seeds x systems: what runs, what is kept, what is reported."""

import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time

import cross_validate
import pandas as pd
import pytest
from cross_validate import make_plan
from experiment import YAML, planned
from helpers import RECIPE


def test_listed_commands_run_anywhere(command, root, capsys):
    cross_validate.main([*command, "--folds=2", "--systems=random", "--list"])
    (line,) = capsys.readouterr().out.splitlines()
    assert not root.exists()
    root.parents[1].mkdir()
    subprocess.run(shlex.split(line), cwd=root.parents[1], check=True)
    assert (root / "fold_2/seed_1/random/results.json").is_file()


def test_runs_in_parallel_share_a_teacher(command, root, capsys):
    """Three at a time: one trains the teacher, the others wait for it."""
    own = ["--folds=1", "--systems=student_noisy,mlkd,teacher", "--jobs=3"]
    assert cross_validate.main([*command, *own]) == 0
    printed = capsys.readouterr().out
    assert printed.count("running: ") == 3 and "mlkd − student_noisy" in printed
    logs = [(root / f"fold_1/seed_1/{name}.log").read_text()
            for name in ("student_noisy", "mlkd", "teacher")]  # fmt: skip
    assert sum("teacher: epoch 1 of 1" in log for log in logs) == 1
    assert all("Traceback" not in log for log in logs)
    # Whole runs are kept; a damaged one is made again.
    predictions = root / "fold_1/seed_1/mlkd/predictions.csv.gz"
    before = predictions.read_bytes()
    predictions.write_bytes(before[:-20])
    assert cross_validate.main([*command, *own]) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished already: ") == 2
    assert "running: fold 1, seed 1, mlkd" in printed
    assert predictions.read_bytes() == before


def test_teachers_are_trained_first(command, root, monkeypatch):
    own = ["--folds=1,2", "--systems=teacher,mlkd,kd_last", "--jobs=2"]
    plan = make_plan(*cross_validate.parse([*command, *own]))
    started = []

    def execute(run, environment):
        teacher = run.folder.with_name("teacher")
        started.append(
            (run.fold, run.system, (teacher / "stage.json").exists())
        )
        time.sleep(0.1 * run.fold)
        if run.system == "teacher":
            teacher.mkdir(parents=True)
            (teacher / "stage.json").write_text('{"epoch": 1}')
        return run.system != "kd_last"

    monkeypatch.setattr(cross_validate, "_execute", execute)
    failed = cross_validate.run_all(plan, jobs=2)
    assert [(r.fold, r.system) for r in failed] == [
        (1, "kd_last"),
        (2, "kd_last"),
    ]
    assert {run[:2] for run in started[:2]} == {(1, "teacher"), (2, "teacher")}
    assert len(started) == len(plan)
    assert all(taught for _, system, taught in started if system != "teacher")


def test_one_run_of_a_fold_and_seed_trains_the_teacher(command):
    def trains(*systems, options=()):
        own = ["--folds=1", f"--systems={','.join(systems)}", *options]
        plan = make_plan(*cross_validate.parse([*command, *own]))
        found = cross_validate.teacher_runs(plan).values()
        return [folder.name for folder in found], plan

    assert trains("mlkd", "teacher")[0] == ["teacher"]
    # Without the teacher in the plan, its first student trains it.
    names, plan = trains("teacher_noisy", "mlkd", "kd_last")
    assert names == ["mlkd"]
    using = [run.system for run in plan if cross_validate.uses_teacher(run)]
    assert using == ["mlkd", "kd_last"]
    mine = ["--teacher_folder=mine"]
    assert trains("mlkd", "kd_last", options=mine)[0] == []


def test_one_teacher_for_all_folds_is_a_warning(
    command, root, monkeypatch, capsys
):
    monkeypatch.setattr(cross_validate, "run_all", lambda plan, jobs: plan)
    options = ["--systems=mlkd", "--teacher_folder=mine"]
    cross_validate.main([*command, *options, "--folds=1,2"])
    assert cross_validate.ONE_TEACHER in capsys.readouterr().err
    cross_validate.main([*command, *options, "--folds=1"])
    assert cross_validate.ONE_TEACHER not in capsys.readouterr().err


def test_a_failure_is_reported_and_does_not_stop_others(command, root, capsys):
    broken = root / "fold_1/seed_1/teacher"
    broken.mkdir(parents=True)
    record = {"network": "teacher", "speech": "clean"}
    (broken / "settings.json").write_text(json.dumps(record))
    own = ["--folds=1,2", "--systems=teacher,random"]
    assert cross_validate.main([*command, *own]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("failed: fold 1, seed 1, teacher; see ")
    assert line.endswith("teacher.log")
    assert "holds a training" in broken.with_suffix(".log").read_text()
    # The table has the folds that the systems share.
    assert "fold(s) 2: 16 test utterances" in printed.out
    assert "same folds: random, seed 1, fold(s) 1." in printed.out
    assert "| random " in printed.out and "| teacher " in printed.out


def test_other_settings_run_again(command, root, capsys):
    own = ["--folds=1", "--systems=teacher"]
    changed = [o for o in command if not o.startswith("--test_snrs")]
    changed += [*own, "--test_snrs=[5]"]
    assert cross_validate.main([*command, *own]) == 0
    results = root / "fold_1/seed_1/teacher/results.json"
    before = json.loads(results.read_text())
    capsys.readouterr()
    # Another test is another result.
    assert cross_validate.main(changed) == 0
    assert "running: fold 1, seed 1, teacher" in capsys.readouterr().out
    after = json.loads(results.read_text())
    assert {c["snr_db"] for c in before["conditions"]} == {None, 0}
    assert {c["snr_db"] for c in after["conditions"]} == {None, 5}
    # Another training needs another folder.
    assert cross_validate.main([*command, *own, "--teacher_lr=0.1"]) == 1
    printed = capsys.readouterr()
    assert "failed: fold 1, seed 1, teacher" in printed.err
    log = (root / "fold_1/seed_1/teacher.log").read_text()
    assert "teacher_lr: 0.003 there, 0.1 now" in log
    # A run that ends between its start and its results is unfinished.
    hyperparams = results.with_name("hyperparams.yaml")
    os.utime(hyperparams)
    assert cross_validate.main(changed) == 0
    assert "running: " in capsys.readouterr().out
    assert cross_validate.main(changed) == 0
    assert "finished already: " in capsys.readouterr().out
    assert json.loads(results.read_text()) == after


def test_finished_run_locked_by_another_process_counts(
    command, whole_run, monkeypatch
):
    """It takes the lock at once, and writes hyperparams.yaml anew."""
    folder, finished = whole_run
    (run,) = planned(command, "--folds=1", "--systems=random")
    monkeypatch.setattr(cross_validate.subprocess, "call", lambda *_, **__: 0)
    os.utime(folder / "hyperparams.yaml")
    assert not finished() and cross_validate._execute(run, {})
    (folder / "results.json").unlink()
    assert not cross_validate._execute(run, {})


def test_closed_output_does_not_stop_runs(command, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    done = []
    monkeypatch.setattr(cross_validate.sys, "stdout", Closed())
    monkeypatch.setattr(cross_validate.sys, "stderr", Closed())
    monkeypatch.setattr(cross_validate, "test_text", lambda runs: "table")

    def call(command, **_):
        done.append(command)
        return len(done) - 1

    monkeypatch.setattr(cross_validate.subprocess, "call", call)
    monkeypatch.setattr(cross_validate, "has_ended", lambda run: True)
    own = ["--folds=1", "--systems=random,teacher"]
    assert cross_validate.main([*command, *own]) == 1
    assert len(done) == 2


def test_error_in_one_run_does_not_stop_others(
    command, root, monkeypatch, capsys
):
    plan = planned(command, "--folds=1,2", "--systems=teacher,mlkd")
    damaged = root / "fold_1/seed_1/teacher/stage.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")

    def execute(run, environment):
        if run.fold == 2 and run.system == "teacher":
            raise OSError(28, "No space left on device")
        return True

    monkeypatch.setattr(cross_validate, "_execute", execute)
    failed = cross_validate.run_all(plan, jobs=1)
    assert failed == [plan[2]]
    assert "fold 2, seed 1, teacher: OSError: [Errno 28]" in (
        capsys.readouterr().err
    )


def test_what_failed_before_it_ran_has_no_log(command, monkeypatch, capsys):
    def execute(run, environment):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cross_validate, "_execute", execute)
    own = ["--folds=1", "--systems=random"]
    assert cross_validate.main([*command, *own]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1] == "failed: fold 1, seed 1, random"


def test_lines_of_several_places_do_not_mix(command, monkeypatch):
    class Output(io.StringIO):
        def write(self, text):
            written.append(text)

    def call(command, **options):
        raise OSError(28, "No space left on device")

    plan, written = planned(command, "--folds=1", "--systems=random"), []
    monkeypatch.setattr(cross_validate.sys, "stdout", Output())
    monkeypatch.setattr(cross_validate.sys, "stderr", Output())
    monkeypatch.setattr(cross_validate.subprocess, "call", call)
    cross_validate.run_all(plan, jobs=1)
    started, failed = filter(None, written)
    assert started == "running: fold 1, seed 1, random\n"
    assert failed.endswith("No space left on device\n")


def test_without_a_table_it_fails(command, monkeypatch, capsys):
    """A script must not take it for a success."""
    monkeypatch.setattr(cross_validate, "_execute", lambda *_: True)
    own = ["--folds=1", "--systems=random"]
    assert cross_validate.main([*command, *own]) == 1
    assert "no table: no results.json in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "visible,expected",
    [
        ("2,5", ["2", "5", "2"]),
        ("GPU-a", 3 * ["GPU-a"]),
        (None, ["0", "1", "0"]),
    ],
)
def test_each_place_has_its_gpu(command, monkeypatch, visible, expected):
    monkeypatch.setattr(cross_validate.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    plan = planned(command, "--folds=1,2,3", "--systems=teacher")
    together, taken = threading.Barrier(3), []

    def execute(run, environment):
        together.wait(60)
        taken.append(environment["CUDA_VISIBLE_DEVICES"])
        return True

    monkeypatch.setattr(cross_validate, "_execute", execute)
    assert cross_validate.run_all(plan, jobs=3) == []
    assert sorted(taken) == sorted(expected)


@pytest.mark.parametrize("given,expected", [(None, "3"), ("5", "5")])
def test_jobs_share_the_cores(command, monkeypatch, given, expected):
    """Threads of two jobs on the same cores would wait for each other."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(cross_validate.torch, "get_num_threads", lambda: 7)
    plan, taken = planned(command, "--folds=1,2", "--systems=random"), []

    def execute(run, environment):
        taken.append(environment["OMP_NUM_THREADS"])
        return True

    monkeypatch.setattr(cross_validate, "_execute", execute)
    assert cross_validate.run_all(plan, jobs=2) == []
    assert taken == 2 * [expected]


@pytest.fixture
def interrupts():
    """Enabled: in a shell's background they are ignored, also by children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "options",
    [
        ["--jobs=2", "--systems=teacher,mlkd"],
        pytest.param(["--systems=random"], marks=pytest.mark.slow),
    ],
)
def test_nothing_starts_after_an_interrupt(command, root, interrupts, options):
    process = start([*command, "--folds=1,2,3", *options])
    while not list(root.glob("*/*/*/hyperparams.yaml")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate()
    assert process.returncode == 130
    assert printed.count("running: ") <= 2 and "Traceback" not in printed
    assert "mlkd" not in printed
    assert printed.endswith("interrupted\n")


def test_a_search_ends_before_the_test(command, root, tmp_path, capsys):
    """Systems of one's own in a second settings file, on validation speech."""
    search = tmp_path / "search.yaml"
    search.write_text(
        "train_only: True\n"
        "systems:\n"
        "  strong: {loss_weights: {features: 3.0, logits: 2.0}}\n"
    )
    files = next(o for o in command if o.startswith("--settings="))
    both = f"--settings=[{files.split('=')[1]}, {search}]"
    own = ["--folds=1", "--systems=teacher,strong"]
    options = [both if option == files else option for option in command]
    options.append("--skip_nonfinite_grads")
    assert cross_validate.main([*options, *own]) == 0
    rows = pd.read_csv(root / "validation.csv")
    assert rows["system"].tolist() == ["strong", "teacher"]
    assert rows["fold"].tolist() == [1, 1]
    for system, row in zip(rows["system"], rows.itertuples()):
        folder = root / f"fold_{row.fold}/seed_1" / system
        trained = json.loads((folder / "stage.json").read_text())
        assert row.valid_UA == pytest.approx(trained["valid_UA"])
        assert not (folder / "results.json").exists()
        assert json.loads(row.settings)["skip_nonfinite_grads"] is True
    strong = json.loads(
        (root / "fold_1/seed_1/strong/settings.json").read_text()
    )
    weights = {"emotion": 1.0, "features": 3.0, "logits": 2.0}
    assert strong["loss_weights"] == weights
    printed = capsys.readouterr().out
    assert "strong" in printed and "finished already" not in printed
    assert cross_validate.main([*options, *own]) == 0
    assert capsys.readouterr().out.count("finished already") == 2
    # A smaller call leaves what others found.
    content = (root / "validation.csv").read_text()
    assert cross_validate.main([*options, own[0], "--systems=teacher"]) == 0
    assert (root / "validation.csv").read_text() == content
    for damaged in ("", "system\nteacher\n"):
        (root / "validation.csv").write_text(damaged)
        assert cross_validate.main([*options, *own]) == 1
        assert "validation.csv: " in capsys.readouterr().err
        assert (root / "validation.csv").read_text() == damaged


def start(command):
    """In a group of its own, to be killed with or without its children."""
    script = str(RECIPE / "cross_validate.py")
    return subprocess.Popen(
        [sys.executable, script, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def changed_since(path, moment):
    """Whether a file was written after a moment."""
    return path.exists() and path.stat().st_mtime > moment


@pytest.mark.slow
def test_three_interruptions_change_nothing(experiment, finished):
    """The third time its runs live on and meet those of the next start."""
    arguments = {**experiment.arguments, "results_folder": experiment.folder}
    del arguments["output_folder"]
    options = [f"--{key}={value}" for key, value in arguments.items()]
    command = [YAML, *options, "--noprogressbar", "--device=cpu", "--jobs=2"]
    command += ["--folds=1", "--systems=teacher,student_noisy,mlkd"]
    seed = random.randrange(10**6)
    print(f"moments drawn with seed {seed}")
    moments = random.Random(seed)
    runs = experiment.folder / "tiny/groups/fold_1/seed_1"
    for kill, begun in (
        (os.killpg, "teacher"),
        (os.killpg, "mlkd"),
        (os.kill, "mlkd"),
    ):
        started = time.time()
        process = start(command)
        while not changed_since(runs / begun / "hyperparams.yaml", started):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 2))
        assert process.poll() is None, "there was nothing left to interrupt"
        kill(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    process = start(command)
    printed, _ = process.communicate()
    assert process.returncode == 0 and "mlkd − student_noisy" in printed
    whole = finished.arguments["output_folder"]
    for system in ("teacher", "student_noisy", "mlkd"):
        folder = runs / system
        for name in ("predictions.csv.gz", "results.json"):
            expected = (whole / system / name).read_bytes()
            assert (folder / name).read_bytes() == expected, (system, name)
