"""Whose a folder is, and what may stand beside it."""

import contextlib
import pathlib

import pytest
import runs
from filelock import FileLock, Timeout
from runs import (
    check_claims,
    claim_folder,
    claimed_folder,
    clear_leftovers,
    clear_partial,
    results_header,
)
from settings import SettingsError

from mlkd_lobes.files import PARTIAL_PREFIX, write_json

STUDENT = {
    "network": "student",
    "speech": "noisy",
    "fold": 1,
    "noise_types": None,
    "lr": 0.1,
    "temperature": 2.0,
    "loss_weights": {"emotion": 1.0, "features": 5.0},
}
ALONE = {**STUDENT, "loss_weights": {"emotion": 1.0, "features": 0.0}}
STAGE = {"epoch": 1, "model_sha256": "m", "teacher_sha256": "t"}
RAIN = {"noise_types": ["rain"]}
SAME = {"a": {}, "b": {}}


def test_an_output_folder_is_of_one_fold(tmp_path):
    claim_folder(tmp_path / "a", {**STUDENT, "manifest": "x"}, SAME)
    check_claims(tmp_path, "a", STUDENT, SAME)
    with pytest.raises(SettingsError, match="a holds .*lr: 0.1 there, 0.2"):
        check_claims(tmp_path, "a", {**STUDENT, "lr": 0.2}, SAME)
    with pytest.raises(SettingsError, match="a holds .*fold: 1 there, 2 now"):
        check_claims(tmp_path, "b", {**STUDENT, "fold": 2}, SAME)


@pytest.mark.parametrize(
    "changes,systems,message",
    [
        # Students differ in nothing but what their systems are.
        ({"lr": 0.2}, SAME, "lr: 0.1 there, 0.2 now"),
        ({"lr": 0.2}, {"a": {}, "b": {"lr": 0.2}}, None),
        ({"lr": 0.2}, {"a": {"lr": 0.1}, "b": {}}, None),
        ({"temperature": 4.0}, SAME, "temperature: 2.0 there"),
        # A student without a teacher has no temperature, whatever it says.
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
    claim_folder(tmp_path / "a", STUDENT, systems)
    other = {**STUDENT, **changes}
    if message is None:
        check_claims(tmp_path, "b", other, systems)
        return
    with pytest.raises(SettingsError, match=f"a holds .*{message}"):
        check_claims(tmp_path, "b", other, systems)


@pytest.mark.parametrize("key", ["teacher_sha256", "processes", "train_noise"])
def test_students_learn_from_the_same(tmp_path, key):
    """What settings do not say is compared when a run is claimed."""
    claim_folder(tmp_path / "a", {**STUDENT, key: 1}, SAME)
    with pytest.raises(SettingsError, match=f"{key}: 1 there, 2 now.*beside"):
        claim_folder(tmp_path / "b", {**STUDENT, key: 2}, SAME)
    assert not (tmp_path / "b").exists()
    claim_folder(tmp_path / "b", {**STUDENT, key: 1}, SAME)


def test_who_was_let_in_may_go_on(tmp_path):
    """Whatever came beside it when its system was not known."""
    claim_folder(tmp_path / "slow", STUDENT, {"slow": {"lr": 0.1}})
    claim_folder(tmp_path / "a", {**STUDENT, "lr": 0.2}, {"a": {}})
    systems = {"slow": {}, "a": {}}
    check_claims(tmp_path, "slow", STUDENT, systems)
    claim_folder(tmp_path / "slow", STUDENT, systems)


def test_damaged_settings_are_named(tmp_path):
    write_json(tmp_path / "a/settings.json", [])
    with pytest.raises(SettingsError, match="a/settings.json: is damaged"):
        check_claims(tmp_path, "b", STUDENT, SAME)
    with pytest.raises(SettingsError, match="a/settings.json: is damaged"):
        claim_folder(tmp_path / "a", STUDENT, SAME)


def test_another_number_of_processes_may_not_go_on(tmp_path):
    claim_folder(tmp_path / "a", {"seed": 1, "processes": 4}, {})
    with pytest.raises(SettingsError, match="processes: 4 there, 1 now"):
        claim_folder(tmp_path / "a", {"seed": 1, "processes": 1}, {})
    # What they trained serves any number.
    write_json(tmp_path / "a/stage.json", {"epoch": 1})
    claim_folder(tmp_path / "a", {"seed": 1, "processes": 1}, {})
    with pytest.raises(SettingsError, match="seed: 1 there, 2 now"):
        claim_folder(tmp_path / "a", {"seed": 2, "processes": 1}, {})


def test_a_training_of_before_goes_on(tmp_path):
    """When the number of processes was not kept."""
    claim_folder(tmp_path / "a", {"seed": 1}, {})
    claim_folder(tmp_path / "a", {"seed": 1, "processes": 1}, {})


def test_older_folders_go_on(tmp_path):
    """As kept before the precision of evaluation was, and with other loggers."""
    objects = {"losses": ["!new:x", {}], "tensorboard_logger": ["!name:y", ""]}
    write_json(tmp_path / "a/settings.json", {**STUDENT, "objects": objects})
    now = {**STUDENT, "objects": {"losses": objects["losses"]}}
    now["eval_precision"] = "fp32"
    check_claims(tmp_path, "a", now, SAME)
    claim_folder(tmp_path / "a", now, SAME)
    with pytest.raises(SettingsError, match="eval_precision: 'fp32' there"):
        claim_folder(tmp_path / "a", {**now, "eval_precision": "bf16"}, SAME)
    now["objects"] = {"losses": ["!new:z", {}]}
    with pytest.raises(SettingsError, match="objects: .* there"):
        claim_folder(tmp_path / "a", now, SAME)


def test_a_folder_belongs_to_one_training(tmp_path):
    claim_folder(tmp_path / "a", {"seed": 1, "lr": 0.1}, {})
    claim_folder(tmp_path / "a", {"seed": 1, "lr": 0.1}, {})
    with pytest.raises(SettingsError, match="seed: 1 there, 2 now"):
        claim_folder(tmp_path / "a", {"seed": 2, "lr": 0.1}, {})


@pytest.mark.parametrize("kept", [None, "save/CKPT+1", "stage.json"])
def test_a_training_that_came_to_nothing_claims_nothing(tmp_path, kept):
    folder = tmp_path / "a"
    with pytest.raises(KeyError):
        with claimed_folder(folder, {"seed": 1}, {}):
            (folder / "targets/x").mkdir(parents=True)
            if kept:
                (folder / "save").mkdir()
                write_json(folder / kept, {"epoch": 1})
            raise KeyError
    assert (folder / "settings.json").exists() == bool(kept)
    with pytest.raises(SettingsError) if kept else contextlib.nullcontext():
        claim_folder(folder, {"seed": 2}, {})
    # What the teacher said of signals that those settings made goes as well.
    assert (folder / "targets").exists() == (kept == "save/CKPT+1")


def test_a_lock_is_waited_for_in_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LOCK_SECONDS", 0.01)
    turns, held = [], FileLock(tmp_path / "a/.lock")
    (tmp_path / "a").mkdir()
    held.acquire()

    def broadcast(got):
        turns.append(got)
        if len(turns) == 2:
            held.release()
        return got

    monkeypatch.setattr(runs, "ddp_broadcast", broadcast)
    with runs.one_at_a_time(tmp_path / "a"):
        assert turns == [False, False, True]
        with pytest.raises(Timeout):
            held.acquire(timeout=0)
    held.acquire(timeout=0)
    held.release()


def test_what_another_process_writes_is_left_to_it(tmp_path):
    """A student claims its teacher's folder while that is evaluated."""
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


def test_a_short_name_of_a_folder_hides_no_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (".", "o"):  # as in "noisy"
        folder = pathlib.Path(place, "mlkd")
        write_json(folder / "settings.json", STUDENT)
        write_json(folder / "stage.json", STAGE)
        found = results_header(folder, {})["settings"]
        assert found == {k: v for k, v in STUDENT.items() if k != "fold"}


def test_results_know_what_all_runs_of_a_system_share(tmp_path):
    """Told apart by fold, seed, place and loggers, they are one experiment."""
    found = []
    for fold in (1, 2):
        folder = tmp_path / f"fold_{fold}/seed_1/mlkd"
        losses = {"losses": ["!new:x", {}]}
        loggers = {"train_logger": ["!name:y", ""]} if fold == 1 else {}
        settings = {**STUDENT, "fold": fold, "train_manifest": fold}
        settings["save_folder"] = str(folder.parent / "save")
        write_json(
            folder / "settings.json",
            {**settings, "objects": {**losses, **loggers}},
        )
        write_json(folder / "stage.json", STAGE)
        found.append(results_header(folder, {})["settings"])
    assert found[0] == found[1]
    assert found[0]["lr"] == 0.1 and found[0]["losses"] == ["!new:x", {}]
    assert not {"fold", "save_folder", "objects"} & {*found[0]}
