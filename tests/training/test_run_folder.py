"""Run folders: bound to one training, comparable with those beside them."""

import contextlib
import pathlib
import types

import pytest
from filelock import FileLock, Timeout

from mlkd_lobes.errors import InputError
from mlkd_lobes.files import PARTIAL_PREFIX, file_sha256, write_json
from mlkd_lobes.noise.add_noise import Segment, noise_fingerprint
from mlkd_lobes.training import run_folder
from mlkd_lobes.training.run_folder import (
    check_run_config,
    clear_leftovers,
    clear_partial,
    reserve,
    reserved,
    results_header,
)

STUDENT = {
    "network": "student",
    "speech": "noisy",
    "fold": 1,
    "noise_types": None,
    "lr": 0.1,
    "temperature": 2.0,
    "loss_weights": {"emotion": 1.0, "features": 5.0},
    "objects": {},
}
ALONE = {**STUDENT, "loss_weights": {"emotion": 1.0, "features": 0.0}}
STAGE = {"epoch": 1, "model_sha256": "m", "teacher_sha256": "t"}
RAIN = {"noise_types": ["rain"]}
SAME = {"a": {}, "b": {}}


def test_an_output_folder_is_of_one_fold(tmp_path):
    reserve(tmp_path / "a", {**STUDENT, "manifest": "x"}, SAME)
    check_run_config(tmp_path, "a", STUDENT, SAME)
    with pytest.raises(InputError, match="a holds .*lr: 0.1 there, 0.2"):
        check_run_config(tmp_path, "a", {**STUDENT, "lr": 0.2}, SAME)
    with pytest.raises(InputError, match="a holds .*fold: 1 there, 2 now"):
        check_run_config(tmp_path, "b", {**STUDENT, "fold": 2}, SAME)


@pytest.mark.parametrize(
    "changes,systems,message",
    [
        # Students differ in nothing but what their systems are.
        ({"lr": 0.2}, SAME, "lr: 0.1 there, 0.2 now"),
        ({"lr": 0.2}, {"a": {}, "b": {"lr": 0.2}}, None),
        ({"lr": 0.2}, {"a": {"lr": 0.1}, "b": {}}, None),
        ({"temperature": 4.0}, SAME, "temperature: 2.0 there"),
        # A student without a teacher has no temperature, whatever its value.
        ({**ALONE, "temperature": 4.0}, SAME, None),
        # A teacher has rates of its own.
        ({"network": "teacher", "lr": 0.2}, SAME, None),
        # A system of a settings file that is not given now.
        ({"lr": 0.2}, {"b": {}}, None),
        # Corpus, fold and noise are the folder's, no system's.
        ({"fold": 2}, {"b": {}}, "fold: 1 there, 2 now"),
        (RAIN, {"a": {}, "b": RAIN}, "noise_types: None there"),
    ],
)
def test_systems_of_a_folder_compare(tmp_path, changes, systems, message):
    reserve(tmp_path / "a", STUDENT, systems)
    other = {**STUDENT, **changes}
    if message is None:
        check_run_config(tmp_path, "b", other, systems)
        return
    with pytest.raises(InputError, match=f"a holds .*{message}"):
        check_run_config(tmp_path, "b", other, systems)


@pytest.mark.parametrize("key", ["teacher_sha256", "processes", "train_noise"])
def test_students_are_trained_on_the_same_teacher(tmp_path, key):
    """What settings do not say is compared when a run is claimed."""
    one, two = ({**STUDENT, "content": {key: n}} for n in (1, 2))
    reserve(tmp_path / "a", one, SAME)
    with pytest.raises(InputError, match=f"{key}: 1 there, 2 now.*compared"):
        reserve(tmp_path / "b", two, SAME)
    assert not (tmp_path / "b").exists()
    reserve(tmp_path / "b", one, SAME)


def test_accepted_runs_resume(tmp_path):
    """Whatever came beside it when its system was not known."""
    reserve(tmp_path / "slow", STUDENT, {"slow": {"lr": 0.1}})
    reserve(tmp_path / "a", {**STUDENT, "lr": 0.2}, {"a": {}})
    systems = {"slow": {}, "a": {}}
    check_run_config(tmp_path, "slow", STUDENT, systems)
    reserve(tmp_path / "slow", STUDENT, systems)


def test_damaged_settings_are_named(tmp_path):
    write_json(tmp_path / "a/settings.json", [])
    with pytest.raises(
        InputError, match="a/settings.json: expected a JSON dict"
    ):
        check_run_config(tmp_path, "b", STUDENT, SAME)
    with pytest.raises(
        InputError, match="a/settings.json: expected a JSON dict"
    ):
        reserve(tmp_path / "a", STUDENT, SAME)


def test_another_number_of_processes_cannot_resume(tmp_path):
    reserve(tmp_path / "a", {"seed": 1, "processes": 4}, {})
    with pytest.raises(InputError, match="processes: 4 there, 1 now"):
        reserve(tmp_path / "a", {"seed": 1, "processes": 1}, {})
    # What they trained serves any number.
    write_json(tmp_path / "a/stage.json", {"epoch": 1})
    reserve(tmp_path / "a", {"seed": 1, "processes": 1}, {})
    with pytest.raises(InputError, match="seed: 1 there, 2 now"):
        reserve(tmp_path / "a", {"seed": 2, "processes": 1}, {})


def test_a_folder_belongs_to_one_training(tmp_path):
    reserve(tmp_path / "a", {"seed": 1, "lr": 0.1}, {})
    reserve(tmp_path / "a", {"seed": 1, "lr": 0.1}, {})
    with pytest.raises(InputError, match="seed: 1 there, 2 now"):
        reserve(tmp_path / "a", {"seed": 2, "lr": 0.1}, {})


@pytest.mark.parametrize("kept", [None, "save/CKPT+1", "stage.json"])
def test_failed_training_releases_its_folder(tmp_path, kept):
    folder = tmp_path / "a"
    with pytest.raises(KeyError):
        with reserved(folder, {"seed": 1}, {}):
            (folder / "targets/x").mkdir(parents=True)
            if kept:
                (folder / "save").mkdir()
                write_json(folder / kept, {"epoch": 1})
            raise KeyError
    assert (folder / "settings.json").exists() == bool(kept)
    with pytest.raises(InputError) if kept else contextlib.nullcontext():
        reserve(folder, {"seed": 2}, {})
    # What the teacher printed of signals that those settings made goes as well.
    assert (folder / "targets").exists() == (kept == "save/CKPT+1")


def test_lock_is_polled_with_a_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.01)
    turns, held = [], FileLock(tmp_path / "a/.lock")
    (tmp_path / "a").mkdir()
    held.acquire()

    def broadcast(got):
        turns.append(got)
        if len(turns) == 2:
            held.release()
        return got

    monkeypatch.setattr(run_folder, "ddp_broadcast", broadcast)
    with run_folder.locked(tmp_path / "a"):
        assert turns == [False, False, True]
        with pytest.raises(Timeout):
            held.acquire(timeout=0)
    held.acquire(timeout=0)
    held.release()


def test_waiting_for_another_command_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.01)
    held, turns = FileLock(tmp_path / ".lock"), []
    held.acquire()

    def log(message):
        turns.append(message)
        held.release()

    monkeypatch.setattr(run_folder.logger, "warning_once", log)
    with run_folder.locked(tmp_path):
        pass
    (message,) = turns
    assert f"{tmp_path}/.lock: waiting" in message


def test_a_fold_prepared_anew_is_not_tested(tmp_path):
    """Nor is one with other noise, if its training had any."""
    splits, record = {}, {"content": {}}
    for split in ("train", "valid"):
        path = tmp_path / f"{split}.json"
        path.write_text(split)
        kinds = {"rain": {str(path): [Segment(str(path), 0, 9, 16000, "1")]}}
        splits[split] = path, types.SimpleNamespace(types=kinds)
        record["content"][f"{split}_manifest"] = file_sha256(path)
        record["content"][f"{split}_noise"] = noise_fingerprint(kinds)
    write_json(tmp_path / "a/settings.json", record)
    run_folder.check_prepared(tmp_path / "a", splits)
    path.write_text("other utterances")
    with pytest.raises(InputError, match="a holds .*valid_manifest"):
        run_folder.check_prepared(tmp_path / "a", splits)
    path.write_text("valid")
    other = {"rain": {str(path): [Segment(str(path), 0, 9, 16000, "2")]}}
    splits["train"] = splits["train"][0], types.SimpleNamespace(types=other)
    with pytest.raises(InputError, match="a holds .*train_noise"):
        run_folder.check_prepared(tmp_path / "a", splits)
    del record["content"]["train_noise"]
    write_json(tmp_path / "a/settings.json", record)
    run_folder.check_prepared(tmp_path / "a", splits)


def test_what_another_process_writes_is_left_to_it(tmp_path):
    """A student reserves its teacher's folder while that is evaluated."""
    partial = tmp_path / f"{PARTIAL_PREFIX}1-results.json"
    partial.touch()
    clear_leftovers(tmp_path)
    assert not partial.exists()
    write_json(tmp_path / "stage.json", {"epoch": 1})
    partial.touch()
    (tmp_path / "save").mkdir()
    clear_leftovers(tmp_path)
    assert partial.exists() and not (tmp_path / "save").exists()
    clear_partial(tmp_path)
    assert not partial.exists()


def test_settings_in_short_folder_names_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (".", "o"):  # as in "noisy"
        folder = pathlib.Path(place, "mlkd")
        write_json(folder / "settings.json", STUDENT)
        write_json(folder / "stage.json", STAGE)
        found = results_header(folder, {}, {}, {}, "no teacher")["settings"]
        own = {"fold", "objects"}
        assert found == {k: v for k, v in STUDENT.items() if k not in own}


def test_paths_of_a_run_are_left_out_of_results(tmp_path):
    folder = tmp_path / "fold_1/seed_1/mlkd"
    record = {**STUDENT, "own_file": str(folder.parent / "save")}
    write_json(folder / "settings.json", {**record, "content": {"x": 1}})
    write_json(folder / "stage.json", STAGE)
    found = results_header(folder, {}, {}, {}, "no teacher")["settings"]
    assert not {"own_file", "x", "content"} & {*found}


def test_students_of_differently_trained_teachers_do_not_pool(tmp_path):
    def teacher_of(fold, **changes):
        folder = tmp_path / f"fold_{fold}"
        own = {**STUDENT, "network": "teacher", "fold": fold, **changes}
        own["content"] = {"train_manifest": fold}
        own["own_file"] = str(folder / "a")
        write_json(folder / "teacher/settings.json", own)
        write_json(folder / "teacher/stage.json", STAGE)
        write_json(folder / "mlkd/settings.json", STUDENT)
        write_json(folder / "mlkd/stage.json", STAGE)
        header = results_header(folder / "mlkd", {}, {}, {}, folder / "teacher")
        return header["settings"]

    found = teacher_of(1, teacher_lr=1.0)
    assert found["teacher_lr"] == 1.0 and found["network"] == "student"
    assert found == teacher_of(2, teacher_lr=1.0) != teacher_of(3, teacher_lr=2)
    assert not {"own_file", "content", "fold"} & {*found}
