"""The speech and noise of a finished run, to calibrate and compare models on."""

import pathlib
import random
from collections import namedtuple

from ruamel.yaml import YAML, YAMLError

from mlkd_lobes.audibility import leave_silence_out
from mlkd_lobes.audio import read_audio
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import stable_seed
from mlkd_lobes.manifest_reader import read_manifest_entries
from mlkd_lobes.noise import UNSEEN_PREFIX, KeyedAddNoise, conditions
from mlkd_lobes.recordings import wav_path

Heard = namedtuple("Heard", ["utterance", "label", "wavs"])
Heard.__doc__ = """An utterance, the index of its label, and its waveforms
[conditions, time]."""

# Of a run's settings, what exporting it asks for.
NEEDED = (
    *("data_folder", "noise_folder", "snr_low", "snr_high", "speech", "speeds"),
    *("train_annotation", "test_annotation", "unlabelled", "wav2vec2_hub"),
    *("noise_annotation", "noise_test_annotation", "skip_prep"),
    *("network", "teacher_folder", "loss_weights"),
)

# At what SNRs, in dB, models are compared.
SNRS = [0, 10]


class RunSpeech:
    """Reads what a run was trained and tested on.

    Arguments
    ---------
    run : str or pathlib.Path
        The run's folder; manifests and noise CSVs lie beside it.
    labels : sequence of str
        The emotions, in order.
    data_folder : str, optional
        What {data_root} stands for; default: where the run found it.
    noise_folder : str, optional
        What $noise_folder stands for; default: where the run found it.

    Raises
    ------
    FileNotFoundError
        If manifests or noise CSVs are gone.
    mlkd_lobes.errors.InputError
        If they are damaged, or the noise is none that was trained on.
    """

    def __init__(self, run, labels, data_folder=None, noise_folder=None):
        run, self.labels = pathlib.Path(run), list(labels)
        known = run_settings(run)
        self.data_folder = data_folder or known["data_folder"]
        noise_folder = noise_folder or known["noise_folder"]
        self.manifests, self.noise = {}, {}
        for split, key in (("train", "noise"), ("test", "noise_test")):
            path = pathlib.Path(known[f"{split}_annotation"])
            if not path.is_file():
                # Someone moved the results.
                path = run.parent / "manifests" / path.name
            csv = pathlib.Path(known[f"{key}_annotation"])
            if not csv.is_file():
                csv = run.parent / "noise" / csv.name
            self.manifests[split] = read_labelled(path)
            self.noise[split] = KeyedAddNoise(
                str(csv),
                snr_low=known["snr_low"],
                snr_high=known["snr_high"],
                clean_share=0.5,
                replacements={"noise_folder": noise_folder},
            )
            leave_silence_out(self.noise[split], run.parent / "noise")
        kinds = self.noise["test"].types
        seen = [k for k in kinds if not k.startswith(UNSEEN_PREFIX)]
        if not seen:
            raise InputError(
                f"{self.noise['test'].csv_file}: has no noise of a type that "
                "was trained on"
            )
        self.conditions = conditions(seen, SNRS)

    def training(self, n):
        """Training utterances, half of them in training noise.

        Arguments
        ---------
        n : int
            At most so many.

        Yields
        ------
        numpy.ndarray
            Waveforms [time].
        """
        names = sorted(self.manifests["train"])
        random.Random(stable_seed("calibration")).shuffle(names)
        for name in names[:n]:
            wav = self._read("train", name)
            yield self.noise["train"].corrupt(wav, name)[0].numpy()

    def test(self):
        """Test utterances, clean and in noise.

        Yields
        ------
        Heard
            One per utterance, its waveforms as `conditions` says.
        """
        for name, entry in self.manifests["test"].items():
            wav = self._read("test", name)
            grid = self.noise["test"].grid(wav, name, self.conditions)
            yield Heard(name, self.labels.index(entry["emo"]), grid.numpy())

    def _read(self, split, name):
        entry = self.manifests[split][name]
        where = f"{split}.json: utterance {name}"
        path = wav_path(entry["wav"], self.data_folder, where)
        return read_audio(path, entry.get("start"), entry.get("stop"))


def read_labelled(path):
    """The labelled utterances of a run's manifest.

    Arguments
    ---------
    path : pathlib.Path
        A manifest that preparation wrote.

    Returns
    -------
    dict
        Entries by ID.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    mlkd_lobes.errors.InputError
        If it is damaged, or nothing in it is labelled.
    """
    entries = read_manifest_entries(path)
    labelled = {name: e for name, e in entries.items() if e.get("emo")}
    if not labelled:
        raise InputError(f"{path}: has no labelled utterances")
    return labelled


def run_settings(run):
    """The settings a run was started with.

    Arguments
    ---------
    run : str or pathlib.Path
        The run's folder.

    Returns
    -------
    dict
        Keys of its hyperparams.yaml; what it would build is not built.

    Raises
    ------
    FileNotFoundError
        If it has none.
    """
    path = pathlib.Path(run) / "hyperparams.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a run's folder"
        )
    try:
        found = YAML().load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no YAML ({' '.join(str(error).split())})")
    found = found if isinstance(found, dict) else {}
    missing = [key for key in NEEDED if key not in found]
    if missing:
        raise InputError(
            f"{path}: holds no settings of a run; {', '.join(missing)} "
            "is missing"
        )
    return found
