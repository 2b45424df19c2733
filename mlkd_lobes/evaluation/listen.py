"""A few test utterances to hear, as the systems heard them.

The noise of an evaluation is a function of noise type and utterance, so it can
be mixed again from the manifest and the noise CSV of the run.
"""

import base64
import io
import pathlib

import soundfile

from mlkd_lobes.audio import read_audio
from mlkd_lobes.encoders import SAMPLE_RATE
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.summary import MULTI_LEVEL, noise_kinds
from mlkd_lobes.manifest_reader import read_manifest_entries
from mlkd_lobes.noise import CLEAN, Condition, KeyedAddNoise
from mlkd_lobes.recordings import wav_path

# How loud, in dB, the noise of the examples is if it was tested so.
SNRS = (10, 0)


def examples(systems, folder, data_folder, noise_folder=None):
    """One utterance per class, clean and at two SNRs, and what was said.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.
    folder : str or pathlib.Path
        Holds the manifests and noise of the fold that the utterances are of.
    data_folder : str
        What {data_root} stands for; must be given.
    noise_folder : str, optional
        What $noise_folder stands for.

    Returns
    -------
    list of dict
        `title`, `true`, and `heard`: caption, its short form, audio (a data
        URI) and what each system `said`.

    Raises
    ------
    FileNotFoundError
        If the folder lacks manifest or noise.
    mlkd_lobes.errors.InputError
        If it is not of a fold that the systems were tested on.
    """
    path = pathlib.Path(folder) / "manifests/test.json"
    manifest = read_manifest_entries(path)
    if data_folder is None:
        raise InputError(
            "--listen: give --data_folder, where the corpus is, and "
            "--noise_folder, where its noise is"
        )
    noise = KeyedAddNoise(
        csv_file=str(path.parents[1] / "noise/test.csv"),
        replacements={"noise_folder": noise_folder},
    )
    answers = {system.name: _answers(system) for system in systems[::-1]}
    found = []
    chosen = [_choose(answers, manifest, name) for name in systems[0].labels]
    if not any(chosen):
        raise InputError(
            f"{path}: has no utterance that the runs were tested on; give the "
            "folder of one of their folds"
        )
    for i, (label, utterance) in enumerate(zip(systems[0].labels, chosen)):
        if utterance is None:
            continue
        grid = _conditions(systems[0], i)
        entry = manifest[utterance]
        wav = read_audio(
            wav_path(entry["wav"], data_folder, f"{path}: {utterance}"),
            entry.get("start"),
            entry.get("stop"),
        )
        heard = [
            {
                "caption": _caption(condition),
                "short": _caption(condition).split(", ")[-1],
                "audio": _data_uri(audio),
                "said": {
                    n: a[utterance, condition] for n, a in answers.items()
                },
            }
            for condition, audio in zip(grid, noise.grid(wav, utterance, grid))
        ]
        title = f"{label}: {utterance}"
        found.append({"title": title, "true": label, "heard": heard})
    return found


def _answers(system):
    """What a system's first seed said: (utterance, condition) to label."""
    table = next(iter(system.seeds.values()))
    snrs = table["snr_db"].astype(object).where(table["snr_db"].notna(), None)
    keys = zip(table["id"], map(Condition, table["noise"], snrs))
    return dict(zip(keys, table["predicted"]))


def _conditions(system, i):
    """Clean, then one noise type, another for each example."""
    kinds = noise_kinds(system) or noise_kinds(system, unseen=True)
    if not kinds:
        return [CLEAN]
    kind = kinds[i % len(kinds)]
    tested = [c for c in system.grid if c.noise == kind]
    wanted = [Condition(kind, float(snr)) for snr in SNRS]
    chosen = [c for c in wanted if c in tested] or tested[-1:]
    return [CLEAN, *chosen]


def _choose(answers, manifest, label):
    """An utterance of a class, on which the systems differ if they do on any.

    None if none of the class was tested.
    """
    of_class = sorted(n for n, e in manifest.items() if e["emo"] == label)
    first = next(iter(answers.values()))
    tested = [n for n in of_class if (n, CLEAN) in first]
    return max(
        tested, key=lambda name: _disagreement(answers, name), default=None
    )


def _disagreement(answers, utterance):
    """Under how many conditions the systems do not say the same."""
    names = [n for n in answers if n in (*MULTI_LEVEL, "student_noisy")]
    compared = [answers[n] for n in names or answers]
    return sum(
        len({said[key] for said in compared}) > 1
        for key in compared[0]
        if key[0] == utterance
    )


def _caption(condition):
    if condition == CLEAN:
        return "clean"
    return f"{condition.noise}, {condition.snr_db:g} dB"


def _data_uri(wav):
    """A waveform as 16-bit WAV inside the page."""
    buffer = io.BytesIO()
    peak = max(1.0, wav.abs().max().item())
    soundfile.write(
        buffer,
        (wav / peak).numpy(),
        SAMPLE_RATE,
        format="WAV",
        subtype="PCM_16",
    )
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:audio/wav;base64,{text}"
