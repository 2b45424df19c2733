#!/usr/bin/env python3
"""How fast students are trained, beside a straightforward loop.

The loop: batches at random, SpeechBrain's AddNoise in the forward pass, the
teacher computed in every step. Ours: batches by length, noise mixed while
loading, the teacher's targets computed once and read from then on. Both train
the same student of the same teacher at wav2vec2-base's shape with random weights
on the same utterances, an epoch each, a step of each in turn.

> python benchmarks/training.py results/bench/training.json
"""

import itertools
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import time
import types
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLACES = "recipes/IEMOCAP/mlkd", "tests"
sys.path += [str(ROOT / place) for place in PLACES]

import train  # noqa: E402
from helpers import LABELS, save_encoder, write_wav  # noqa: E402
from machine import write_figures  # noqa: E402

import speechbrain as sb  # noqa: E402
from mlkd_lobes.evaluation.metrics import peak_memory_mb  # noqa: E402
from mlkd_lobes.files import write_csv  # noqa: E402
from mlkd_lobes.models.classifier import (  # noqa: E402
    EmotionClassifier,
    load_classifier,
    state_sha256,
)
from mlkd_lobes.models.distillation import Student, Targets  # noqa: E402
from mlkd_lobes.models.encoder import SSLEncoder  # noqa: E402
from speechbrain.augment.time_domain import AddNoise  # noqa: E402
from speechbrain.dataio.batch import PaddedBatch  # noqa: E402
from speechbrain.dataio.dataloader import SaveableDataLoader  # noqa: E402

YAML = ROOT / "recipes/IEMOCAP/mlkd/hparams/mlkd.yaml"
# Like IEMOCAP's lengths: median 3.6 s, mean 4.5 s.
MEDIAN, SPREAD, SHORTEST, LONGEST = 3.6, 0.66, 0.6, 15.0
UTTERANCES, BATCH, BATCH_SECONDS, EPOCHS = 80, 4, 14, 20
NOISES, NOISE_SECONDS = 12, 60
FEW, MANY = 100, 5000
STRAIGHTFORWARD, WITHOUT_CACHE, FIRST, LATER = (
    "straightforward",
    "ours, no cache",
    "ours, first epoch",
    "ours, later epochs",
)
FROZEN, TRAINED = "CNN frozen", "CNN trained"
# 12 layers as well, but 128 wide: what one trains on a CPU.
TINY = transformers.Wav2Vec2Config(
    conv_dim=[24, 32, 48, 64, 64, 96, 96],
    hidden_size=128,
    intermediate_size=512,
    num_attention_heads=4,
    num_conv_pos_embeddings=32,
    num_conv_pos_embedding_groups=8,
)

Step = namedtuple("Step", "seconds waited utterances loss")


# ---- What is trained on ------------------------------------------------------


def write_speech(folder, n, speaker=lambda i: min(i, 2)):
    """A csv corpus with n utterances and two more.

    `speaker` gives the number of the i-th one's speaker; by default n are of one,
    to train on, and one each to choose and test.
    """
    generator = np.random.default_rng(0)
    rows, written = [], {}
    for i in range(n + 2):
        name = f"{i}.wav"
        own = written.setdefault(speaker(i), [])
        if i < FEW or not own:
            length = MEDIAN * np.exp(SPREAD * generator.standard_normal())
            length = np.clip(length, SHORTEST, LONGEST)
            wav = 0.1 * torch.randn(int(16000 * length))
            write_wav(folder / name, wav)
            own.append(name)
        else:
            # Another name for a file of the speaker: disks are slow to fill.
            (folder / name).hardlink_to(folder / own[i % len(own)])
        rows.append([name, f"s{speaker(i)}", LABELS[i % 4]])
    write_csv(folder / "manifest.csv", ["path", "speaker", "emotion"], rows)


def write_noise(folder, kinds=("hum",)):
    """Noise recordings of a minute, of some types."""
    for kind in kinds:
        for i in range(NOISES):
            wav = 0.1 * torch.randn(16000 * NOISE_SECONDS)
            write_wav(folder / f"{kind}/{i}.wav", wav)


def write_teacher(folder, config):
    """A teacher with random weights."""
    source = save_encoder(folder.with_name(f"{folder.name}_encoder"), config)
    encoder = SSLEncoder(source, source)
    EmotionClassifier(encoder, LABELS).save_pretrained(folder)


def load(root, teacher, speech, **changes):
    """Hyperparameters and run options, as train.py has them."""
    options = {
        "data_folder": root / speech,
        "system": "mlkd",
        "corpus": "csv",
        "protocol": "groups",
        "n_folds": 3,
        "label_map": "{neu: neu, hap: hap, sad: sad, ang: ang}",
        "noise_corpus": "folder",
        "noise_folder": root / "noise",
        "noise_types": "[hum]",
        "teacher_folder": root / teacher,
        "wav2vec2_hub": root / teacher,
        "output_folder": root / f"out_{teacher}_{speech}",
        "precision": "fp32",
        "max_batch_length": BATCH_SECONDS,
        "num_workers": 0,
        **changes,
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    arguments += ["--device=cpu", "--noprogressbar"]
    yaml, run_opts, text = sb.parse_arguments([str(YAML), *arguments])
    hparams = train.load(yaml, train.overrides.read_settings(yaml, text))
    train.prepare(hparams)
    return hparams, run_opts


# ---- Who trains --------------------------------------------------------------


def targets_of_every_step(self, batch):
    """The teacher's targets, computed anew and not kept."""
    return self.modules.teacher(*batch.clean)[:2]


def straightforward_forward(self, batch, stage):
    """Noise and teacher in the forward pass."""
    batch = batch.to(self.device)
    wavs, lengths = batch.clean
    logits, encoded = self.modules.model(self.add_noise(wavs, lengths), lengths)
    projected = self.modules.projection(encoded.last_hidden)
    features, teacher_logits, _ = self.modules.teacher(wavs, lengths)
    student = Student(logits, projected, encoded.n_frames)
    return student, Targets(batch.label, features, teacher_logits)


def stock_noise(hparams):
    """SpeechBrain's AddNoise with the same recordings and SNRs."""
    return AddNoise(
        csv_file=hparams["add_noise"].csv_file,
        csv_keys=["wav"],
        snr_low=hparams["snr_low"],
        snr_high=hparams["snr_high"],
        replacements={"noise_folder": str(hparams["noise_folder"])},
    )


def make_brain(name, root, teacher, speech, **changes):
    """A Brain and its loader, ready for its first step."""
    hparams, run_opts = load(root, teacher, speech, **changes)
    factory = hparams["teacher_encoder"]
    classifier = load_classifier(hparams["teacher_folder"], factory, LABELS)
    folder = pathlib.Path(hparams["output_folder"], hparams["system"])
    source = hparams["teacher_folder"], classifier, state_sha256(classifier)
    prepared = train.prepare_fit(hparams, run_opts, folder, *source)
    brain, loader, _ = prepared
    if name == WITHOUT_CACHE:
        brain.teacher_targets = types.MethodType(targets_of_every_step, brain)
    if name == STRAIGHTFORWARD:
        forward = types.MethodType(straightforward_forward, brain)
        brain.compute_forward, brain.add_noise = forward, stock_noise(hparams)
        data = train.training_set({**hparams, "speech": "clean"})
        loader = SaveableDataLoader(
            data,
            batch_size=BATCH,
            shuffle=True,
            collate_fn=PaddedBatch,
            generator=torch.Generator().manual_seed(1),
        )
    return brain, loader


def steps(brain, loader):
    """The steps of an epoch, one by one."""
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.modules.train()
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        waited = time.perf_counter() - started
        if batch is None:
            return
        brain.step += 1
        loss = brain.fit_batch(batch).item()
        seconds = time.perf_counter() - started
        yield Step(seconds, waited, len(batch), loss)


# ---- What is measured --------------------------------------------------------


def epochs_in_turn(root, names, **changes):
    """Steps of an epoch of each, a step of each in turn."""
    loops = [
        steps(*make_brain(name, root, "base", "speech", **changes))
        for name in names
    ]
    rounds = itertools.zip_longest(*loops)
    columns = zip(*rounds)
    return {n: [s for s in own if s] for n, own in zip(names, columns)}


def few_steps(root, name, changes, n_steps=5):
    """Most memory of a process that does a few steps, in MiB."""
    loop = steps(*make_brain(name, root, "base", "speech", **changes))
    list(itertools.islice(loop, n_steps))
    return peak_memory_mb("cpu")


def in_own_process(function, *arguments, method="spawn"):
    """The result of a call, whose memory is its own."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def variants(root, cnn):
    """Rows of all variants with the student's CNN frozen or trained."""
    changes = {
        "student_freeze_cnn": cnn == FROZEN,
        "results_folder": root / cnn.replace(" ", "_"),
    }
    changes["output_folder"] = changes["results_folder"] / "out"
    # FIRST fills the cache; LATER reads each entry right after that.
    names = [STRAIGHTFORWARD, WITHOUT_CACHE, FIRST, LATER]
    done = epochs_in_turn(root, names, **changes)
    seconds = {n: sum(step.seconds for step in done[n]) for n in names}
    baseline = seconds[STRAIGHTFORWARD]
    # Another folder: FIRST finds no cache there, LATER the targets of FIRST.
    changes["output_folder"] = changes["results_folder"] / "memory"
    memory = {
        name: round(in_own_process(few_steps, root, name, changes))
        for name in names
    }
    total = f"ours, {EPOCHS} epochs"
    seconds[total] = (seconds[FIRST] + (EPOCHS - 1) * seconds[LATER]) / EPOCHS
    memory[total] = max(memory[FIRST], memory[LATER])
    curves = [[step.loss for step in done[n]] for n in names[1:]]
    return {
        "largest_loss_difference": {
            "cache read or filled": largest_difference(*curves[1:]),
            "cache or none": largest_difference(*curves[:2]),
        },
        "first_and_last_loss": [curves[2][0], curves[2][-1]],
        "variants": [
            {
                "name": f"{name}, {cnn}",
                "steps": len(done.get(name, [])) or None,
                "utterances_per_second": round(UTTERANCES / seconds[name], 3),
                "ratio": round(baseline / seconds[name], 2),
                "peak_memory_mb": memory[name],
            }
            for name in seconds
        ],
    }


def largest_difference(ours, theirs):
    """Between the losses of the same steps."""
    return max(abs(a - b) for a, b in zip(ours, theirs))


def waiting(root):
    """Share of a step spent waiting for data, cached, with one worker."""
    for name in (FIRST, LATER):
        loop = steps(*make_brain(name, root, "tiny", "speech", num_workers=1))
        done = list(loop)[1:]  # the worker starts in the first
    share = sum(s.waited for s in done) / sum(s.seconds for s in done)
    return {"steps": len(done), "workers": 1, "share": round(share, 4)}


def training_loader(hparams):
    """Training batches as train.py loads them."""
    data = train.training_set(hparams)
    return SaveableDataLoader(
        data,
        batch_sampler=hparams["train_sampler"](data),
        **train.loader_options(hparams),
    )


def seconds_per_utterance(root, speech):
    """What loading and mixing an utterance costs, in this process."""
    hparams, _ = load(root, "tiny", speech)
    loader = training_loader(hparams)
    started, loaded = time.perf_counter(), 0
    loader.batch_sampler.set_epoch(1)
    for batch in loader:
        loaded += len(batch)
    return (time.perf_counter() - started) / loaded


def scaling(root):
    """Milliseconds per utterance of a small and a large corpus."""
    small = [seconds_per_utterance(root, "few") for _ in range(5)]
    large = seconds_per_utterance(root, "many")
    small = statistics.median(small)
    return {
        f"ms_of_{FEW}": round(1000 * small, 2),
        f"ms_of_{MANY}": round(1000 * large, 2),
        "ratio": round(large / small, 2),
    }


def mixing(root, rounds=15):
    """Seconds of audio mixed per second, ours beside SpeechBrain's, in turn.

    On one thread; called in a process of its own, both as in a worker.
    """
    torch.set_num_threads(1)
    hparams, _ = load(root, "tiny", "speech")
    data = train.training_set({**hparams, "speech": "clean"})
    wavs = [data[i]["clean"] for i in range(len(data))]
    ours, stock = hparams["add_noise"], stock_noise(hparams)
    lengths = torch.tensor([len(wav) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    batches = list(zip(padded.split(BATCH), lengths.split(BATCH)))
    seconds = {"ours": [], "stock": []}
    for epoch in range(rounds):
        started = time.perf_counter()
        ours.set_epoch(epoch)
        for i, wav in enumerate(wavs):
            ours.corrupt(wav, str(i))
        middle = time.perf_counter()
        for batch, length in batches:
            longest = int(length.max())
            stock(batch[:, :longest], length / longest)
        seconds["ours"].append(middle - started)
        seconds["stock"].append(time.perf_counter() - middle)
    audio = lengths.sum().item() / 16000
    ratios = [s / o for o, s in zip(seconds["ours"], seconds["stock"])]
    return {
        "noise_recordings_seconds": NOISE_SECONDS,
        **{
            f"{name}_seconds_per_second": round(audio / statistics.median(own))
            for name, own in seconds.items()
        },
        "ratio": round(statistics.median(ratios), 2),
    }


def write_inputs(root, base):
    """Speech, noise and teachers of all parts."""
    for name, n in (("speech", UTTERANCES), ("few", FEW - 2), ("many", MANY)):
        write_speech(root / name, n)
    write_noise(root / "noise")
    write_teacher(root / "base", base)
    write_teacher(root / "tiny", TINY)


def main(path):
    """Measures all, writes and prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_inputs(root, transformers.Wav2Vec2Config())
        parts = [variants(root, cnn) for cnn in (FROZEN, TRAINED)]
        result = {
            "name": "training",
            "baseline": f"{STRAIGHTFORWARD}, with the CNN treated alike",
            "variants": [row for part in parts for row in part.pop("variants")],
            "losses": dict(zip((FROZEN, TRAINED), parts)),
            "waiting_for_data": waiting(root),
            "loading_per_utterance": scaling(root),
        }
        result["mixing"] = in_own_process(mixing, root)
    write_figures(path, result)
    for row in result["variants"]:
        print("{name:34} {utterances_per_second:7}/s {ratio:5} x".format(**row))
    print(result["losses"], result["waiting_for_data"])
    print(result["loading_per_utterance"], result["mixing"])


if __name__ == "__main__":
    main(sys.argv[1])
