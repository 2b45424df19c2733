"""How commands end: encodings, pipes, interrupts, models that cannot be used."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import train
from helpers import RECIPE

import speechbrain as sb
from mlkd_lobes.cli import main
from mlkd_lobes.errors import InputError, run_command

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def command_line(*command, **options):
    """What a command in a process of its own ends with."""
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, **options
    )


@pytest.mark.parametrize(
    "encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.slow)]
)
def test_output_need_not_be_utf8(finished, encoding):
    folder = str(finished.arguments["output_folder"])
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    report = command_line("-m", "mlkd_lobes", "report", folder, env=environment)
    assert report.returncode == 0 and not report.stderr
    assert b"mlkd" in report.stdout


@pytest.mark.slow
def test_tables_are_printed_without_utf8(command, monkeypatch, whole_run):
    own = ["--folds=1", "--systems=random"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    script = RECIPE / "cross_validate.py"
    done = command_line(script, *command, *own, env=environment)
    assert done.returncode == 0
    assert b"finished already" in done.stdout and b"random" in done.stdout


def test_a_closed_pipe_is_no_error_to_be_read(command):
    script = RECIPE / "cross_validate.py"
    process = subprocess.Popen(
        [sys.executable, str(script), *command, "--list", "--systems=random"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 1 and not errors


def test_a_gpu_that_is_not_there_is_one_line(experiment):
    command = experiment.command("random", "--prepare_only=True")
    command = [c for c in command if c != "--device=cpu"]
    for device in ("cuda:0", "gpu"):
        parsed = sb.parse_arguments([*command, f"--device={device}"])
        with pytest.raises(InputError) as error:
            train.run(*parsed)
        assert str(error.value).startswith(f"--device={device}: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "script",
    ["train.py", pytest.param("cross_validate.py", marks=pytest.mark.slow)],
)
def test_an_interrupt_ends_with_130(experiment, command, script):
    arguments = command
    if script == "train.py":
        arguments = experiment.command("mlkd", teacher_epochs=500)
    process = subprocess.Popen(
        [sys.executable, str(RECIPE / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),
    )
    while not list(experiment.folder.rglob("hyperparams.yaml")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in printed
    assert printed.rstrip().endswith("interrupted")


@pytest.mark.parametrize(
    "error,code,message",
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (InputError("fold: 9"), 1, "error: fold: 9"),
        (InputError("Traceback\nInputError: a.wav: no"), 1, "error: a.wav: no"),
        (PermissionError(13, "Permission denied", "x"), 1, "denied: 'x'"),
    ],
)
def test_expected_ends_are_one_line(capsys, error, code, message):
    def command():
        raise error

    assert run_command(command) == code
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_bugs_are_not_hidden():
    def command():
        raise TypeError

    with pytest.raises(TypeError):
        run_command(command)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def pointer(path):
    path.write_bytes(POINTER)


def foreign(path):
    import torch
    from safetensors.torch import save_file

    save_file({"lm.weight": torch.zeros(3)}, path, {"format": "pt"})


DAMAGES = [
    (cut, "cannot be opened"),
    (pointer, "git lfs pull"),
    (foreign, "weights"),
]


@pytest.mark.parametrize("damage,message", DAMAGES)
def test_damaged_encoders_are_refused_before_preparation(
    experiment, tmp_path, damage, message
):
    source = tmp_path / "encoder"
    shutil.copytree(experiment.arguments["wav2vec2_hub"], source)
    damage(source / "model.safetensors")
    with pytest.raises(InputError, match=message) as error:
        experiment.train("mlkd", wav2vec2_hub=source)
    assert str(source) in str(error.value) and "\n" not in str(error.value)
    assert not (experiment.folder / "out/manifests").exists()


@pytest.mark.parametrize("damage,message", DAMAGES)
def test_damaged_teachers_are_refused_before_preparation(
    experiment, finished, tmp_path, damage, message
):
    source = tmp_path / "mine"
    teacher = finished.arguments["output_folder"] / "teacher/model"
    shutil.copytree(teacher, source)
    damage(source / "model.safetensors")
    with pytest.raises(InputError, match=message) as error:
        experiment.train("mlkd", teacher_folder=source)
    assert str(source) in str(error.value) and "\n" not in str(error.value)
    assert not (experiment.folder / "out/manifests").exists()


@pytest.mark.parametrize("damage,message", DAMAGES)
def test_damaged_models_are_one_line(
    finished, tmp_path, corpus, capsys, damage, message
):
    run = tmp_path / "run"
    shutil.copytree(finished.arguments["output_folder"] / "random", run)
    damage(run / "model/model.safetensors")
    for command in (["predict", str(run), str(corpus / "audio")],
                    ["export", str(run), str(tmp_path / "out")]):  # fmt: skip
        assert main(command) == 1
        printed = capsys.readouterr().err
        assert message in printed and printed.count("error: ") == 1
    assert not (tmp_path / "out").exists()


def test_pointers_as_tables_are_named(experiment, own_corpus):
    (own_corpus / "manifest.csv").write_bytes(POINTER)
    with pytest.raises(InputError, match="git lfs pull"):
        experiment.train("random", data_folder=own_corpus)


def test_export_without_assertions_is_refused(tmp_path):
    arguments = [tmp_path / "run", tmp_path / "out"]
    done = command_line("-O", "-m", "mlkd_lobes", "export", *arguments)
    assert done.returncode == 1
    assert done.stderr.endswith(b"torch.export needs Python without -O\n")
    assert b"Traceback" not in done.stderr
