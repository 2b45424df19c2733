"""Mutated input is answered, or refused by a message; never by a traceback.

`make test` tries a few fixed examples of each property, `make fuzz` thousands
of new ones.
"""

import csv
import io
import json
import math
import os
import signal

import numpy as np
import pytest
import soundfile
import train
from helpers import LABELS, RECIPE, write_corpus, write_noise
from hypothesis import (
    HealthCheck,
    Phase,
    given,
    settings,
    strategies as st,
)
from iemocap_prepare import LABEL_MAP, parse_turn, read_turns

from mlkd_lobes.data.audio import audio_info, read_audio, read_frames
from mlkd_lobes.data.batches import read_manifest
from mlkd_lobes.data.prepare import prepare_corpus
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import read_csv
from mlkd_lobes.noise.add_noise import read_noise_csv
from mlkd_lobes.training.overrides import read_settings
from mlkd_lobes.training.settings import TABLE

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
# More than any example needs, far less than a hang.
SECONDS = 30

fuzz = settings(
    max_examples=EXAMPLES or 40,
    derandomize=not EXAMPLES,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
edits = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "cut", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)
YAML = str(RECIPE / "hparams/mlkd.yaml")


def mutate(content, changes, header=None):
    """Bytes after edits at relative places, of the first `header` bytes."""
    for kind, place, new in changes:
        at = int(place * min(header or len(content), len(content)))
        rest = {
            "replace": new + content[at + len(new) :],
            "insert": new + content[at:],
            "delete": content[at + len(new) :],
            "cut": b"",
            "repeat": content[at : at + 40] + content[at:],
        }
        content = content[:at] + rest[kind]
    return content


def or_refused(function, *arguments, **options):
    """The result, or None where an error message is raised."""

    def give_up(*_):
        raise TimeoutError(f"no answer in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        return function(*arguments, **options)
    except (InputError, FileNotFoundError) as error:
        assert len(str(error)) > 10
        return None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def recording(suffix, subtype, rate, channels):
    """Bytes of a real file."""
    generator = np.random.default_rng(rate)
    wav = 0.1 * generator.standard_normal((rate // 10, channels))
    file = io.BytesIO()
    soundfile.write(file, wav, rate, format=suffix.upper(), subtype=subtype)
    return file.getvalue()


RECORDINGS = [
    (suffix, recording(suffix, *rest))
    for suffix, *rest in [
        ("wav", "PCM_16", 16000, 1),
        ("wav", "PCM_24", 48000, 2),
        ("wav", "FLOAT", 8000, 1),
        ("flac", "PCM_16", 16000, 1),
        ("flac", "PCM_24", 44100, 2),
        ("ogg", "VORBIS", 22050, 1),
        ("mp3", "MPEG_LAYER_III", 16000, 1),
    ]
]


@fuzz
@given(chosen=st.sampled_from(RECORDINGS), changes=edits, whole=st.booleans())
def test_recordings(place, chosen, changes, whole):
    suffix, content = chosen
    path = place / f"a.{suffix}"
    path.write_bytes(mutate(content, changes, None if whole else 64))
    wav = or_refused(read_audio, path)
    if wav is None:
        return
    info = audio_info(path)
    assert np.isfinite(wav).all() and wav.ndim == 1
    assert wav.size == pytest.approx(info.duration * 16000, abs=2)
    assert np.array_equal(read_frames(path, 0, info.frames), wav)
    if suffix == "mp3":
        return  # soundfile trusts a frame count that was mutated
    expected, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert (len(expected), rate) == (info.frames, info.sample_rate)
    if rate == 16000:
        assert np.allclose(wav, expected.mean(1), atol=1e-6)


TURN = "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]"


@fuzz
@given(
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.integers(1, 5),
    st.sampled_from("FM"),
    st.sampled_from("FM"),
    st.sampled_from(["impro01", "impro05b", "script01_1", "script03_2"]),
    st.integers(0, 999),
    st.sampled_from(sorted(LABEL_MAP)),
)
def test_turns_as_they_should_be(
    start, end, session, left, speaker, scene, number, emotion
):
    dialog = f"Ses0{session}{left}_{scene}"
    name = f"{dialog}_{speaker}{number:03}"
    line = f"[{start:.4f} - {end:.4f}]\t{name}\t{emotion}\t[2.5, 2.5, 2.5]"
    turn, problem = parse_turn(line, f"Session{session}", dialog)
    assert problem is None
    assert turn[:5] == (name, dialog, f"Session{session}", speaker, emotion)
    assert turn.time == pytest.approx(end - start, abs=1e-3)


@fuzz
@given(changes=edits)
def test_mutated_turns(place, changes):
    folder = place / "release/Session1/dialog/EmoEvaluation"
    folder.mkdir(parents=True, exist_ok=True)
    header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    votes = "C-E2:\tNeutral;\t()\n"
    whole = header + "".join(
        TURN.replace("F000", f"{who}{n:03}") + "\n" + votes
        for n, who in enumerate("FMFM")
    )
    content = mutate(whole.encode(), changes)
    (folder / "Ses01F_impro01.txt").write_bytes(content)
    turns, problems = or_refused(read_turns, place / "release")
    text = content.decode(errors="replace")
    assert all(problems) and len(turns) == len({turn.name for turn in turns})
    for turn in turns:
        assert f"{turn.name}\t{turn.emo}\t" in text
        assert turn.emo in LABEL_MAP and turn.gender in "FM"
        assert math.isfinite(turn.time)
    # No line of a turn is lost without a message.
    spoken = [x for x in text.splitlines() if x.startswith("[")]
    assert len(turns) + len(problems) >= len(spoken)


@fuzz
@given(
    st.lists(
        st.lists(
            st.text(
                st.characters(codec="utf-8", exclude_characters="\r\n\0"),
                max_size=20,
            ).map(str.strip),
            min_size=2,
            max_size=2,
        ),
        max_size=5,
    )
)
def test_tables_as_they_should_be(place, rows):
    path = place / "table.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["a", "b"], *rows])
    found = read_csv(path, ["a", "b"])
    assert [[row["a"], row["b"]] for row in found] == rows


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("table"))


@fuzz
@given(changes=edits)
def test_mutated_corpora(table, place, changes):
    whole = table / "whole.csv"
    if not whole.exists():
        (table / "manifest.csv").rename(whole)
    (table / "manifest.csv").write_bytes(mutate(whole.read_bytes(), changes))
    label_map = dict(zip(["neutral", "happy", "sad", "angry"], LABELS))
    label_map["surprised"] = "unlabelled"
    save = place / "manifests"
    for path in save.glob("*"):
        path.unlink()
    options = [LABELS, label_map, "groups", 3, 1]
    or_refused(prepare_corpus, "csv", table, save, *options)
    if not (save / "test.json").exists():
        return
    rows = {row["path"]: row for row in read_csv(table / "manifest.csv")}
    for split in ("train", "valid", "test"):
        data = read_manifest(save / f"{split}.json", table, LABELS, 60).data
        for entry in data.values():
            row = rows[os.path.relpath(entry["wav"], table)]
            label = label_map[row["emotion"]]
            assert entry["emo"] == (None if label == "unlabelled" else label)
            assert row["speaker"] == entry["speaker"]


MANIFEST = b"""{
  "a": {"wav": "{data_root}/a.wav", "length": 1.5, "emo": "neu", "start": null,
        "stop": null, "speaker": "s0"},
  "b": {"wav": "{data_root}/b.wav", "length": 2.0, "emo": null, "start": 0.5,
        "stop": 2.5, "speaker": "s1"}
}"""


@fuzz
@given(changes=edits)
def test_mutated_manifests(place, changes):
    path = place / "train.json"
    path.write_bytes(mutate(MANIFEST, changes))
    data = or_refused(read_manifest, path, "root", LABELS, 10, True)
    for entry in data.data.values() if data else ():
        assert isinstance(entry["wav"], str)
        assert entry["emo"] in (None, *LABELS)
        assert 0 < entry["length"] <= 10


@fuzz
@given(changes=edits)
def test_mutated_noise_csvs(place, changes):
    folder = place / "noise"
    if not folder.exists():
        write_noise(folder, files=2)
    lines = ["ID,duration,wav,wav_format,wav_opts,noise_type"]
    lines[0] += ",noise_type_format,noise_type_opts"
    for kind in ("rain", "wind"):
        for n in range(2):
            path = f"$noise_folder/{kind}/{kind}_{n}.wav"
            lines.append(
                f"{kind}{n},0.5,{path},wav,start:{n} stop:8000,{kind},string,"
            )
    file = place / "noise.csv"
    file.write_bytes(mutate("\n".join(lines).encode(), changes))
    replacements = {"noise_folder": str(folder)}
    found = or_refused(read_noise_csv, str(file), replacements) or {}
    for recordings in found.values():
        for segment in (s for rows in recordings.values() for s in rows):
            frames = audio_info(segment.path).frames
            assert 0 <= segment.start < segment.stop <= frames


SETTINGS = b"""data_folder: corpus
seed: 3
system: mlkd
label_map: {neutral: neu, happy: hap}
systems:
  mine: {network: student, speech: noisy, student_lr: 0.001}
test_snrs: [0, 5]
loss_weights: {emotion: 1.0, features: 2.0}
precision: bf16
"""


@fuzz
@given(typed=edits, saved=edits)
def test_mutated_settings(place, typed, saved):
    file = place / "settings.yaml"
    file.write_bytes(mutate(SETTINGS, saved))
    typed = mutate(SETTINGS, typed).decode(errors="replace")
    for text in (typed, f"settings: {file}"):
        found = or_refused(read_settings, YAML, text)
        if found is not None:
            assert set(found.overrides) <= set(found.values)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@fuzz
@given(key=st.sampled_from(sorted(TABLE)), value=anything)
def test_any_value_of_any_setting(key, value):
    text = json.dumps({"data_folder": "corpus", key: value})
    found = or_refused(read_settings, YAML, text)
    if found is not None:
        or_refused(train.load, YAML, found)
