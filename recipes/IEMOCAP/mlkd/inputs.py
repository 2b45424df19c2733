"""Corpora, noise files, teachers and settings of models, checked before training.

Authors
 * The MLKD recipe's authors 2026
"""

import itertools
import os
import pathlib

import iemocap_prepare

from mlkd_lobes.data import corpora
from mlkd_lobes.data.audio import OWN_OUTPUT, walk_audio
from mlkd_lobes.data.prepare import prepare_corpus
from mlkd_lobes.errors import InputError, check_choice, listing
from mlkd_lobes.files import read_json
from mlkd_lobes.models import classifier, distillation, encoder, slim
from mlkd_lobes.noise import add_noise
from mlkd_lobes.training import run_folder

# The system whose model all students of an output folder start from.
TEACHER = "teacher"
CORPORA = ("iemocap", "csv", *corpora.CORPORA)
# Settings that a corpus does not take; those by name take all but `columns`.
NOT_TAKEN = {
    "iemocap": ("columns", "select", "crowd_votes", "cut_silence"),
    "csv": ("select", "crowd_votes", "partial_corpus"),
}


def find_corpus(values):
    """The preparation of the chosen corpus, and the protocol."""
    corpus, protocol = values["corpus"], values["protocol"]
    check_choice("corpus", corpus, CORPORA)
    function, known = iemocap_prepare.prepare_iemocap, iemocap_prepare.PROTOCOLS
    if corpus != "iemocap":
        function, known = prepare_corpus, corpora.protocols_of(corpus)
    check_choice("protocol", protocol, known)
    return function, known[protocol]


def check_audio(entries):
    """Raises, before any training, for audio of manifests that is not there."""
    wavs = sorted({entry["wav"] for entry in entries})
    missing = [wav for wav in wavs if not os.path.isfile(wav)]
    if missing:
        raise InputError(listing("audio files do not exist", missing))


def training_noise(hparams):
    """What makes training speech noisy; None if it stays clean."""
    return hparams["add_noise"] if hparams["speech"] == "noisy" else None


def held_out_noise(hparams):
    """Recordings of validation and test noise and of babble, as entries."""
    noises = hparams["valid_noise"], hparams["test_noise"]
    kinds = [kind for noise in noises for kind in noise.types.values()]
    paths = {os.path.realpath(path) for paths in kinds for path in paths}
    speech = hparams["babble_folder"]
    places = {**noises[1].replacements, "babble_folder": speech}
    # Voices of their babble, wherever they lie.
    for held_out, noise in zip(("valid", "test"), noises):
        stamp = pathlib.Path(noise.csv_file).with_name(OWN_OUTPUT)
        voices = read_json(stamp, dict) if stamp.is_file() else {}
        voices = voices.get("talkers", {})
        for path in itertools.chain(*voices.get(held_out, ())):
            paths.add(os.path.realpath(add_noise.locate(path, places, stamp)))
    if speech:
        paths.update(map(os.path.realpath, walk_audio(speech)))
    return [{"wav": path, "speaker": None} for path in sorted(paths)]


def load_teacher(hparams, folder):
    """A trained teacher."""
    factory, labels = hparams["teacher_encoder"], hparams["labels"]
    return classifier.load_classifier(folder, factory, labels)


def check_models(systems, hparams, folder):
    """Raises for model settings that cannot work, before any preparation."""
    weights = hparams["loss_weights"]
    distillation.WeightedLosses(hparams["losses"], weights)
    channels = hparams["student_cnn"]["channels"]
    if channels != 1.0 and hparams["student_freeze_cnn"]:
        raise InputError(
            "student_cnn: to train a narrow front end, set student_freeze_cnn: False"
        )
    new = [n for n in systems if not run_folder.read_stage(folder.with_name(n))]
    student, given = hparams["network"] == "student", hparams["teacher_folder"]
    if student and given and folder.name in new:
        source = load_teacher(hparams, given).encoder
    elif any(systems[name]["network"] == "teacher" for name in new):
        source = hparams["teacher_encoder"]()
    else:
        return
    depth = source.n_layers
    if student or TEACHER in systems:
        if distillation.needs_teacher(weights):
            distillation.resolve_levels(hparams["kd_levels"], depth)
        encoder.check_depth(hparams["student_layers"], depth)
        slim.shares_of(source.config, channels)
        if channels != 1.0 and hasattr(source.config, "kept_channels"):
            raise InputError(
                "student_cnn: the teacher's front end is narrow already"
            )
