"""Inputs of real users that are answered wrongly today, one test per kind.

Each is expected to fail; a change that mends one turns it into an ordinary test.
"""

import json
import os
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import soundfile
from helpers import RECIPE, write_corpus, write_noise

from mlkd_lobes.cli import main
from mlkd_lobes.files import read_csv, write_csv

pytestmark = pytest.mark.slow
known_fault = pytest.mark.xfail(
    raises=AssertionError, strict=True, reason="not mended yet"
)
LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)


@pytest.fixture
def model(finished):
    return str(finished.arguments["output_folder"] / "random")


@pytest.fixture
def sound(tmp_path):
    """A recording of a second that can be read."""
    path = tmp_path / "sound.wav"
    wave = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(path, wave, 16000, "PCM_16")
    return path


def train_process(experiment, system="random", *flags, **changes):
    """train.py in a process of its own; what came of it."""
    process = experiment.start(system, *flags, **changes)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def predict(model, capsys, *paths):
    """Exit code, rows and errors of predict."""
    capsys.readouterr()
    code = main(["predict", model, *map(str, paths)])
    found = capsys.readouterr()
    return code, found.out.splitlines()[1:], found.err


@known_fault
def test_a_moved_run_goes_on(experiment, tmp_path):
    prepare = ["--prepare_only=True", "--noise_types=[rain, wind, white]"]
    first = tmp_path / "one"
    assert not train_process(
        experiment, "random", *prepare, output_folder=first
    )[0]
    first.rename(tmp_path / "two")
    code, output = train_process(
        experiment, "random", *prepare, output_folder=tmp_path / "two"
    )
    assert code == 0, output


@known_fault
def test_export_of_a_copy_reads_what_lies_beside_it(finished, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(finished.arguments["output_folder"], copied)
    manifest = copied / "manifests/train.json"
    entries = json.loads(manifest.read_text())
    names = sorted(name for name, entry in entries.items() if entry["emo"])
    del entries[names[0]]
    manifest.write_text(json.dumps(entries))
    arguments = [str(copied / "random"), str(tmp_path / "export")]
    assert main(["export", *arguments, "--without_int8"]) == 0
    card = (tmp_path / "export/README.md").read_text()
    assert f"{len(names) - 1} utterances" in card


@known_fault
def test_own_output_is_never_input(experiment, tmp_path):
    talkers = write_corpus(tmp_path / "talkers")
    (talkers / "manifest.csv").unlink()
    options = ["--prepare_only=True", "--noise_types=[rain, babble, white]"]
    options.append(f"--babble_folder={talkers / 'audio'}")
    folder, talkers_of = talkers / "audio/results", []
    for fold in (1, 2):
        code, output = train_process(
            experiment,
            "random",
            *options,
            fold=fold,
            output_folder=folder / str(fold),
        )
        if code and "must not contain" in output and fold == 1:
            return  # refused at once
        stamp = folder / f"{fold}/noise/preparation.json"
        talkers_of.append(json.loads(stamp.read_text())["talkers"].values())
    names = [{name for t in found for name in t} for found in talkers_of]
    assert names[0] == names[1]


@known_fault
def test_one_speaker_in_two_spellings_is_one(experiment, own_corpus):
    rows = read_csv(own_corpus / "manifest.csv")
    for number, row in enumerate(rows):
        form = ("NFC", "NFD")[number % 2]
        name = row["speaker"].replace("s1", "s\u00e9")
        row["speaker"] = unicodedata.normalize(form, name)
    header = list(rows[0])
    lines = [list(row.values()) for row in rows]
    write_csv(own_corpus / "manifest.csv", header, lines)
    code, _ = train_process(
        experiment, "random", "--prepare_only=True", data_folder=own_corpus
    )
    assert code == 0
    speakers = {}
    for split in ("train", "valid", "test"):
        path = experiment.folder / f"out/manifests/{split}.json"
        for entry in json.loads(path.read_text()).values():
            name = unicodedata.normalize("NFC", entry["speaker"])
            speakers.setdefault(name, set()).add(split)
    assert all(len(splits) == 1 for splits in speakers.values()), speakers


@known_fault
def test_the_doctor_warns_of_one_recording_under_two_speakers(
    own_corpus, capsys
):
    shutil.copy(own_corpus / "audio/s0_0.wav", own_corpus / "audio/s1_0.wav")
    main(["doctor", str(own_corpus)])
    assert "s0_0.wav" in capsys.readouterr().out


@known_fault
def test_predict_does_not_overwrite_its_input(model, sound, capsys):
    before = sound.read_bytes()
    code = main(["predict", model, str(sound), f"--output={sound}"])
    assert code == 1 and sound.read_bytes() == before


@known_fault
def test_an_empty_system_is_refused(experiment):
    code, output = train_process(experiment, "", "--prepare_only=True")
    assert code == 1 and "system" in output


@known_fault
def test_report_prints_where_output_is_not_utf8(finished):
    folder = str(finished.arguments["output_folder"])
    done = subprocess.run(
        [sys.executable, "-m", "mlkd_lobes", "report", folder],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr


@known_fault
def test_samples_of_absurd_size_are_refused(model, sound, tmp_path, capsys):
    path = tmp_path / "huge.wav"
    samples, rate = soundfile.read(sound)
    soundfile.write(path, samples * 1e38, rate, "FLOAT")
    code, rows, errors = predict(model, capsys, path)
    assert code == 1 and not rows and str(path) in errors


@known_fault
def test_an_mp3_without_a_frame_count_is_read(model, sound, tmp_path, capsys):
    path = tmp_path / "sound.mp3"
    samples, rate = soundfile.read(sound)
    soundfile.write(path, np.tile(samples, 20), rate, format="MP3")
    content = path.read_bytes()
    # The first frame holds the count; from the second on it is plain MP3.
    path.write_bytes(content[content.index(content[:2], 4) :])
    code, rows, errors = predict(model, capsys, path)
    assert code == 0 and len(rows) == 2, errors


@pytest.mark.parametrize(
    "subtype,kind",
    [("PCM_24", "WAV"), pytest.param("PCM_16", "WAVEX", marks=known_fault)],
)
def test_every_cut_wav_is_refused(
    model, sound, tmp_path, capsys, subtype, kind
):
    path = tmp_path / "cut.wav"
    samples, rate = soundfile.read(sound)
    soundfile.write(path, samples, rate, subtype, format=kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    code, rows, errors = predict(model, capsys, path)
    assert code == 1 and not rows and "truncated" in errors


@known_fault
def test_a_dollar_sign_in_a_folder_is_a_character(experiment, tmp_path):
    noise = write_noise(tmp_path / "my$noise")
    code, output = train_process(
        experiment, "random", "--prepare_only=True", noise_folder=noise
    )
    assert code == 0, output


@known_fault
def test_a_git_lfs_pointer_is_named_as_one(model, tmp_path, capsys):
    path = tmp_path / "pointer.wav"
    path.write_text(LFS_POINTER)
    code, _, errors = predict(model, capsys, path)
    assert code == 1 and "git lfs pull" in errors


@known_fault
def test_a_gpu_that_is_not_there_is_one_line(experiment):
    command = [
        part
        for part in experiment.command("random", "--prepare_only=True")
        if part != "--device=cpu"
    ]
    done = subprocess.run(
        [sys.executable, RECIPE / "train.py", *command, "--device=cuda:0"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "cuda:0" in done.stdout + done.stderr
