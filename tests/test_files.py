"""Files are complete or absent; hashes and seeds are the same everywhere."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from mlkd_lobes.errors import InputError
from mlkd_lobes.files import (
    atomic_path,
    read_csv,
    remove,
    report_full_disk,
    spelled,
    stable_seed,
    text_sha256,
    write_csv,
    write_json,
)


def test_interrupted_writing_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    before = path.read_text()
    with pytest.raises(KeyboardInterrupt):
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_folders_are_replaced_atomically(tmp_path):
    for name in ("one", "two"):
        with atomic_path(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["two"]


def test_csv_round_trip_and_bad_csv(tmp_path):
    path = tmp_path / "a.csv"
    write_csv(path, ["x", "y"], [["1", 'a,"b'], ["ü", ""]])
    assert read_csv(path) == [{"x": "1", "y": 'a,"b'}, {"x": "ü", "y": ""}]
    with pytest.raises(ValueError, match="column z is missing; it has: x, y"):
        read_csv(path, ["z"])
    path.write_bytes("\ufeffx, y\r\n1 , 2\r\n".encode())
    assert read_csv(path, ["x", "y"]) == [{"x": "1", "y": "2"}]
    path.write_text("x,y\n1\n")
    with pytest.raises(ValueError, match="line 2: expected 2 fields"):
        read_csv(path)
    with pytest.raises(FileNotFoundError, match="b.csv"):
        read_csv(tmp_path / "b.csv")


def test_csv_of_spreadsheets_and_of_windows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("path,text,,\na.wav,x,,\n")
    assert read_csv(path, ["path"])[0]["text"] == "x"
    path.write_text("path,path,\na.wav,x,\n")
    with pytest.raises(InputError, match="column path comes twice"):
        read_csv(path)
    # Otherwise the rows that follow would be part of the text.
    path.write_text('path,text\na.wav,"not closed\nb.wav,y\n')
    with pytest.raises(InputError, match="is not a CSV file"):
        read_csv(path)
    (tmp_path / "ü").mkdir()
    (tmp_path / "ü/b.wav").touch()
    assert spelled(tmp_path, "ü\\b.wav") == "ü/b.wav"
    assert spelled(tmp_path, "a\\b.wav") == "a\\b.wav"


def test_seeds_are_the_same_in_another_process():
    code = (
        "from mlkd_lobes.files import stable_seed as s; print(s(1, 'ü', None))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf8"},
    )
    assert int(found.stdout) == stable_seed(1, "ü", None)
    assert stable_seed(1, "ab") != stable_seed(1, "a", "b")


def test_hash_is_independent_of_the_order_of_keys():
    assert text_sha256({"a": 1, "b": 2}) == text_sha256({"b": 2, "a": 1})


def test_links_stay_links(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_is_a_full_disk(tmp_path, number):
    with pytest.raises(InputError, match="the disk is full"):
        with report_full_disk(tmp_path / "file"):
            raise OSError(number, "no room")
    with pytest.raises(PermissionError):
        with report_full_disk(tmp_path / "file"):
            raise PermissionError


def test_pipes_and_devices_are_written_to(tmp_path):
    """Replaced, /dev/null would be an ordinary file for everybody."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with atomic_path(pipe) as temporary:
        temporary.write_text("text")
    reader.join()
    assert received == [b"text"] and pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_link_is_removed_but_not_what_it_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a").touch()
    (tmp_path / "targets").symlink_to(tmp_path / "disk")
    remove(tmp_path / "targets")
    assert os.listdir(tmp_path) == ["disk"] and (tmp_path / "disk/a").exists()
