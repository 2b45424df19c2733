#!/usr/bin/env python3
"""Breaks the code on purpose, one contract at a time; the tests must notice.

> python tools/breakages.py [NAME ...]

Each row of `BREAKAGES` names a contract, a file, a piece of its text and what
replaces it, and the test files that guard the contract. The script works on a
copy of the checkout. A row that no test notices, or whose text is no longer there,
is a failure. Takes about ten minutes.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPIED = ("mlkd_lobes", "recipes", "tests", "examples", "tools", "benchmarks")

Breakage = namedtuple("Breakage", ["contract", "file", "old", "new", "tests"])

BREAKAGES = [
    Breakage(
        "group norm takes its statistics over true frames",
        "length_exact.py",
        "count = n_frames[:, None, None].to(exact)",
        "count = torch.full_like(n_frames, frames.shape[2])[:, None, None].to(exact)",
        "test_encoder.py",
    ),
    Breakage(
        "waveforms are normalised over true samples",
        "length_exact.py",
        "count = n_samples[:, None].to(wavs.dtype)",
        "count = torch.full_like(n_samples, wavs.shape[1])[:, None].to(wavs.dtype)",
        "test_encoder.py",
    ),
    Breakage(
        "attention does not see padding",
        "encoder.py",
        "self.model.encoder(hidden, attention_mask=mask)",
        "self.model.encoder(hidden, attention_mask=None)",
        "test_encoder.py",
    ),
    Breakage(
        "the last level of a layer-norm model follows its final norm",
        "encoder.py",
        "caught[self.n_layers] = last",
        "self.model.encoder.layers[-1].register_forward_hook("
        "lambda m, a, o: caught.update("
        "{self.n_layers: o[0] if isinstance(o, tuple) else o})); "
        "self.model.encoder(hidden, attention_mask=mask)",
        "test_encoder.py",
    ),
    Breakage(
        "no layer is skipped at random",
        "encoder.py",
        "config.layerdrop = 0.0",
        "config.layerdrop = 0.9",
        "test_encoder.py",
    ),
    Breakage(
        "the teacher stays in evaluation mode",
        "classifier.py",
        "return super().train(False)",
        "return super().train(mode)",
        "test_classifier.py",
    ),
    Breakage(
        "losses are means over true frames",
        "distillation.py",
        "return (values * mask).sum(-1) / n_frames.to(values.dtype)",
        "return values.mean(-1)",
        "test_distillation.py",
    ),
    Breakage(
        "label -1 is ignored",
        "distillation.py",
        "return loss, targets.labels >= 0",
        "return loss, targets.labels >= -1",
        "test_distillation.py",
    ),
    Breakage(
        "training noise changes from epoch to epoch",
        "add_noise.py",
        '_generator("train", self.seed, epoch, utterance)',
        '_generator("train", self.seed, 1, utterance)',
        "test_add_noise.py",
    ),
    Breakage(
        "test noise depends on noise type and utterance alone",
        "add_noise.py",
        '_generator("evaluation", kind, utterance)',
        '_generator("evaluation", self.seed, kind, utterance)',
        "test_add_noise.py",
    ),
    Breakage(
        "the SNR is exact",
        "mixing.py",
        "levels = torch.tensor(snrs, dtype=wav.dtype)[:, None]",
        "levels = torch.tensor(snrs, dtype=wav.dtype)[:, None] + 0.5",
        "test_add_noise.py",
    ),
    Breakage(
        "audio of any rate is resampled",
        "audio.py",
        "same = rate == sample_rate",
        "same = True",
        "test_audio.py",
    ),
    Breakage(
        "a truncated file is refused",
        "audio.py",
        "if stated > found and not",
        "if False and not",
        "test_audio.py",
    ),
    Breakage(
        "files are written atomically",
        "files.py",
        "temporary = path.with_name(name)",
        "temporary = path",
        "test_files.py",
    ),
    Breakage(
        "a checkpoint gets its name when it is complete",
        "checkpoints.py",
        "return final.with_name(UNFINISHED + final.name)",
        "return final",
        "test_checkpoints.py",
    ),
    Breakage(
        "an unreadable checkpoint is skipped",
        "checkpoints.py",
        "except Exception as error:",
        "except KeyError as error:",
        "test_checkpoints.py",
    ),
    Breakage(
        "what a protocol does not declare is not shared",
        "leakage.py",
        "return (overlap.key, *overlap.splits) in set(map(tuple, declared))",
        "return True",
        "test_leakage.py",
    ),
    Breakage(
        "published splits test the published speakers",
        "protocols.py",
        "tested[fold - 1].split()",
        "tested[0].split()",
        "test_corpora.py",
    ),
    Breakage(
        "utterances that come twice must be the same file",
        "corpus_reader.py",
        "if file_sha256(paths[0]) != file_sha256(paths[1]):",
        "if False:",
        "test_corpora.py",
    ),
    Breakage(
        "a wrong checksum is refused",
        "fetch.py",
        "if expected and found != expected:",
        "if False:",
        "test_fetch.py",
    ),
    Breakage(
        "distortions depend on the utterance",
        "distortions.py",
        'stable_seed("distortion", name, utterance)',
        'stable_seed("distortion", name)',
        "test_distortions.py",
    ),
    Breakage(
        "distortions are never counted as noise",
        "add_noise.py",
        "return noise != CLEAN.noise and not noise.startswith(DISTORTED)",
        "return noise != CLEAN.noise",
        "test_distortions.py",
    ),
    Breakage(
        "models from elsewhere get the run's own recordings",
        "run_speech.py",
        'if entry.get("sha256") not in (None, self.sha256(path)[:16]):',
        "if False:",
        "test_evaluate.py",
    ),
    Breakage(
        "loso5 validates on the next session",
        "protocols.py",
        "tested[fold % len(folds)]",
        "tested[fold - 2]",
        "test_iemocap_prepare.py",
    ),
    Breakage(
        "a turn's speaker is the letter of its last field",
        "iemocap_prepare.py",
        'r"_(?P<gender>[FM])\\w*\\d+$"',
        'r"_[FM]\\w*(?P<gender>)\\d+$"',
        "test_iemocap_prepare.py",
    ),
    Breakage(
        "happy and excited are one class",
        "iemocap_prepare.py",
        '"exc": "hap"',
        '"exc": UNLABELLED',
        "test_iemocap_prepare.py",
    ),
    Breakage(
        "babble contains no speaker of the emotion corpus",
        "generated.py",
        "if talker in corpus_speakers or",
        "if",
        "test_generated.py",
    ),
    Breakage(
        "an unknown key is an error",
        "overrides.py",
        'check_choice(where, key, defaults, "key")',
        "pass",
        "test_overrides.py",
    ),
    Breakage(
        "students side by side share their settings",
        "settings.py",
        "return sorted(keys)",
        "return []",
        "test_run_folder.py test_settings.py",
    ),
    Breakage(
        "chance follows from seed and step",
        "train.py",
        "torch.manual_seed(seed)",
        "stable_seed(self.hparams.seed, *key)",
        "test_kill.py",
    ),
    Breakage(
        "the target cache belongs to one teacher",
        "target_cache.py",
        "key = text_sha256([teacher_sha256, list(levels)])",
        "key = text_sha256([list(levels)])",
        "test_target_cache.py",
    ),
    Breakage(
        "UA is the mean of the recalls",
        "metrics.py",
        "float(recall[present].mean())",
        "float(hits.sum() / counts.sum())",
        "test_results.py",
    ),
    Breakage(
        "two systems are compared on the same drawn speakers",
        "statistics.py",
        "for counts in (one, other)]",
        "for counts in (one, one)]",
        "test_statistics.py",
    ),
    Breakage(
        "the best validation epoch is kept",
        "train.py",
        'recover_if_possible(max_key="UA")',
        'recover_if_possible(min_key="UA")',
        "test_train.py",
    ),
    Breakage(
        "noise-trained systems are validated in noise",
        "train.py",
        'if hparams["speech"] != "noisy":',
        "if True:",
        "test_yaml.py",
    ),
    Breakage(
        "an unreadable recording does not stop the others",
        "predict.py",
        "except InputError as error:\n            report(str(error))",
        "except KeyError as error:\n            report(str(error))",
        "test_predict.py",
    ),
    Breakage(
        "an export that disagrees with its model is refused",
        "parity.py",
        "if not free and not value <= LIMIT:",
        "if not free and value < 0:",
        "test_export.py",
    ),
    Breakage(
        "INT8 is as precise in quiet frames",
        "chunks.py",
        "peak = peak.clamp(min=1e-6)",
        "peak = torch.ones_like(peak)",
        "test_graph.py",
    ),
]


def find(folder, name):
    """The one file of this name below the code's folders."""
    found = [p for place in COPIED for p in (folder / place).rglob(name)]
    if len(found) != 1:
        sys.exit(f"{name}: {len(found)} files of this name")
    return found[0]


def check(breakage):
    """Breaks a copy and runs the tests; what came of it, in a word."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = pathlib.Path(temporary)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name)
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = find(copy, breakage.file)
        text = path.read_text(encoding="utf-8")
        if breakage.old not in text:
            return "TEXT NOT FOUND"
        path.write_text(
            text.replace(breakage.old, breakage.new, 1), encoding="utf-8"
        )
        tests = [str(find(copy, name)) for name in breakage.tests.split()]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        environment.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
        )
        # 1: a test failed; others would be errors of another kind.
        return {0: "NOT NOTICED", 1: "noticed"}.get(
            done.returncode, f"PYTEST ENDED WITH {done.returncode}"
        )


def main(names):
    """Checks the rows whose contract holds one of the names; the exit code."""
    chosen = [
        row
        for row in BREAKAGES
        if not names or any(name in row.contract for name in names)
    ]
    outcomes = []
    for row in chosen:
        outcomes.append(check(row))
        print(f"{outcomes[-1]:12}  {row.contract} ({row.file})", flush=True)
    noticed = outcomes.count("noticed")
    print(f"{noticed} of {len(chosen)} noticed")
    return int(noticed < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
