#!/usr/bin/env python3
"""Recipe for noise-robust emotion recognition by multi-level distillation.

A wav2vec 2.0 teacher is fine-tuned on clean speech. A small student starts from
its first layers and is trained on noisy speech: on the labels and, through one
head per level, on several of the teacher's layers for the clean signal (arXiv
2312.13556).

To run this recipe, do the following:
> python train.py hparams/mlkd.yaml --data_folder=IEMOCAP_full_release \
    --noise_folder=musan

Authors
 * The MLKD recipe's authors 2026
"""

import functools
import gc
import inspect
import os
import pathlib
import sys
import time

import inputs
import numpy as np
import torch
import transformers
from hyperpyyaml import load_hyperpyyaml
from noise_prepare import prepare_noise
from torch.utils.data import ConcatDataset

import speechbrain as sb
from mlkd_lobes.data import batches, leakage, unlabelled
from mlkd_lobes.data.manifests import describe_split
from mlkd_lobes.errors import InputError, run_command
from mlkd_lobes.evaluation import calibration, metrics, results
from mlkd_lobes.files import report_full_disk, stable_seed, write_json
from mlkd_lobes.models import classifier, distillation
from mlkd_lobes.models.distillation import Student, Targets
from mlkd_lobes.noise import add_noise
from mlkd_lobes.noise.distortions import apply_grid
from mlkd_lobes.training import checkpoints, overrides, run_folder, settings
from mlkd_lobes.training.checkpoints import n_processes
from mlkd_lobes.training.run_folder import distils
from mlkd_lobes.training.target_cache import TargetCache
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.utils import distributed
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


class EmotionBrain(sb.Brain):
    """What all trainings share; forward pass without a teacher; test."""

    def __init__(self, modules, hparams, run_opts, checkpointer=None):
        super().__init__(modules, None, hparams, run_opts, checkpointer)
        self.history = checkpoints.History()
        if checkpointer:
            trained = {k: m for k, m in self.modules.items() if k != "teacher"}
            checkpointer.add_recoverables(trained)
            checkpointer.add_recoverable("history", self.history)
            checkpointer.add_recoverable("counter", hparams["counter"])

    def compute_forward(self, batch, stage):
        """Logits and targets; in evaluation of utterances in all conditions."""
        batch = batch.to(self.device, non_blocking=True)
        if stage == sb.Stage.TRAIN:
            logits, encoded = self.modules.model(*batch.sig)
            student = Student(logits, None, encoded.n_frames)
            return student, Targets(batch.label, None, None)
        started, length = time.perf_counter(), self.hparams.eval_batch_length
        wavs = [wav for own in batch.wavs for part in own for wav in part]
        logits = classifier.classify(self.modules.model, wavs, length)
        self.compute_seconds += time.perf_counter() - started
        self.audio_seconds += sum(map(len, wavs)) / 16000
        return Student(logits, None, None), Targets(batch.label, None, None)

    def compute_objectives(self, predictions, batch, stage):
        """The weighted sum of the losses; in evaluation keeps probabilities."""
        student, targets = predictions
        if stage != sb.Stage.TRAIN:
            # 0 * -inf is NaN: softmax alone would turn such a logit into 0.
            probabilities = student.logits.softmax(-1) + 0 * student.logits
            rows = probabilities.split(len(batch.conditions[0]))
            seconds, label = batch.length.tolist(), batch.label.tolist()
            about = batch.id, batch.speaker, seconds, label, batch.conditions
            self.records.extend(map(results.Record, *about, rows))
            return torch.zeros(())  # on_stage_end computes the loss
        only = distillation.DISTILLATION if self.distilling else None
        loss, terms = self.hparams.loss(student, targets, only=only)
        for name, term in terms.items():
            self.terms.setdefault(name, []).append(term)
        self.snrs.append(batch.snr.cpu())
        return loss

    @property
    def distilling(self):
        """Whether the epoch is in the first of two stages, without labels."""
        return self.epoch <= self.hparams.epochs[0]

    def on_stage_start(self, stage, epoch=None):
        """Sets the epoch of the draws and empties the statistics."""
        self.records, self.compute_seconds, self.audio_seconds = [], 0.0, 0.0
        if stage == sb.Stage.TRAIN:
            self.epoch, self.terms, self.snrs = epoch, {}, []
            self.hparams.speed_perturb.set_epoch(epoch)
            self.hparams.add_noise.set_epoch(epoch)
            self.epoch_started = time.perf_counter()
            limit = self.hparams.counter.limit
            logger.info(f"{self.hparams.system}: epoch {epoch} of {limit}")

    def on_fit_batch_start(self, batch, should_step):
        """Derives dropout's seed and the learning rates from the step."""
        rank = getattr(self, "rank", 0)
        key = (self.hparams.system, self.epoch, self.step, rank)
        seed = stable_seed(self.hparams.seed, *key)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # draws masked spans
        for name, optimizer in self.optimizers_dict.items():
            schedule = self.hparams.schedules[name]
            rate = schedule.calculate_lr(self.optimizer_step + 1)
            optimizer.param_groups[0]["lr"] = rate

    def init_optimizers(self):
        """One optimizer per learning rate: Brain clips the first group only."""
        model = getattr(self.modules.model, "module", self.modules.model)
        head = list(model.head.parameters())
        if "projection" in self.modules:
            head += self.modules.projection.parameters()
        trained = [p for p in model.encoder.parameters() if p.requires_grad]
        self.optimizers_dict = {}
        for name, parameters in (("encoder", trained), ("head", head)):
            rate = self.hparams.schedules[name].rate
            optimizer = self.hparams.opt_class(parameters, lr=rate)
            self.optimizers_dict[name] = optimizer
            self.checkpointer.add_recoverable(f"opt_{name}", optimizer)

    def predictions(self):
        """One row per utterance and condition."""
        records = sorted(self.records, key=lambda record: record.id)
        return results.prediction_table(records, self.hparams.labels)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs an epoch and saves its checkpoint."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = checkpoints.epoch_statistics(
                stage_loss, self.terms, self.snrs
            )
        elif stage == sb.Stage.VALID:
            scores = results.summarize(self.predictions(), self.hparams.labels)
            # A mean over utterances, independent of the batches.
            valid = {"loss": calibration.cross_entropy(self.records)}
            for name in ("UA", "WA"):
                values = [score[name] for score in scores]
                valid[name] = sum(values) / len(values)
            self.end_epoch(epoch, valid)

    def _fit_valid(self, valid_set, epoch, enable):
        """Validates; while distilling, when the head is untrained, only saves."""
        if self.distilling:
            self.end_epoch(epoch, {})
        else:
            super()._fit_valid(valid_set, epoch, enable)

    def end_epoch(self, epoch, valid):
        """Logs and saves an epoch; without `valid` it is never chosen."""
        meta = {"epoch": epoch}
        for name, optimizer in self.optimizers_dict.items():
            meta[f"lr_{name}"] = optimizer.param_groups[0]["lr"]
        self.hparams.logger.log_stats(meta, self.train_stats, valid)
        seconds = time.perf_counter() - self.epoch_started
        entry = {"epoch": epoch, "seconds": seconds, **self.train_stats}
        entry.update({f"valid_{k}": value for k, value in valid.items()})
        self.history.epochs.append(entry)
        if valid:
            meta["UA"] = valid["UA"]
        # A list of its own: SpeechBrain adds to its default.
        self.checkpointer.save_and_keep_only(
            meta=meta, num_to_keep=2, max_keys=["UA"], importance_keys=[]
        )


class MLKDBrain(EmotionBrain):
    """A student on noisy speech, supervised by a teacher on clean speech."""

    def compute_forward(self, batch, stage):
        """Teacher on the clean signal, student on the noisy one."""
        if stage != sb.Stage.TRAIN:
            return super().compute_forward(batch, stage)
        batch = batch.to(self.device, non_blocking=True)
        logits, encoded = self.modules.model(*batch.sig)
        projected = self.modules.projection(encoded.last_hidden)
        features, teacher_logits = self.teacher_targets(batch)
        student = Student(logits, projected, encoded.n_frames)
        return student, Targets(batch.label, features, teacher_logits)

    def teacher_targets(self, batch):
        """Hidden states and logits of the clean signals, from the cache."""

        def compute(places):
            """The teacher's targets of some signals."""
            signals, lengths = batch.clean
            n_samples = (lengths * signals.shape[1]).round().int().tolist()
            wavs = [signals[i, : n_samples[i]] for i in places]
            # Alone they do not depend on the batch, but leave a GPU idle.
            gpu = self.device_type == "cuda"
            groups = [wavs] if gpu else [[wav] for wav in wavs]
            return [t for own in groups for t in self.modules.teacher(own)]

        return self.hparams.cache.get(batch.key, compute, self.device)


def splits_of(hparams):
    """Manifest and noise augmenter of each split."""
    return {
        "train": (hparams["train_annotation"], hparams["add_noise"]),
        "valid": (hparams["valid_annotation"], hparams["valid_noise"]),
        "test": (hparams["test_annotation"], hparams["test_noise"]),
    }


def prepare(hparams, train=True):
    """Prepares manifests, noise CSVs and, to train, crops; refuses overlaps."""
    function, protocol = inputs.find_corpus(hparams)
    declared = None if hparams["skip_prep"] else protocol.declared
    if not hparams["skip_prep"]:
        options = {
            "data_folder": hparams["data_folder"],
            "save_folder": os.path.join(hparams["output_folder"], "manifests"),
            "corpus": hparams["corpus"],
            "labels": hparams["labels"],
            "label_map": hparams["label_map"],
            "protocol": hparams["protocol"],
            "fold": hparams["fold"],
            "partial_corpus": hparams["partial_corpus"],
            "columns": hparams["columns"],
            "n_folds": hparams["n_folds"],
            "select": hparams["select"],
            "crowd_votes": hparams["crowd_votes"],
            "cut_silence": hparams["cut_silence"],
        }
        for key in inputs.NOT_TAKEN.get(hparams["corpus"], ["columns"]):
            if options[key]:
                raise InputError(f"{key}: not for corpus {hparams['corpus']}")
        taken = inspect.signature(function).parameters
        run_on_main(function, kwargs={key: options[key] for key in taken})
    entries, own = {}, hparams["unlabelled"] in (True, "corpus")
    for split in splits_of(hparams):
        # Of all utterances, also unlabelled ones: they must not overlap either.
        data = read_dataset(hparams, split, own and split == "train").data
        entries[split] = [
            {**entry, "wav": os.path.realpath(entry["wav"])}
            for entry in data.values()
        ]
    if hparams["skip_prep"]:  # else the preparation has read them
        used = [s for s in entries if train or s != "train"]
        inputs.check_audio([e for s in used for e in entries[s]])
    prepare_noise_csvs(hparams, [e for part in entries.values() for e in part])
    if train:
        prepare_crops(hparams, **entries)
    noises = {s: noise.types for s, (_, noise) in splits_of(hparams).items()}
    sources = leakage.noise_sources(noises)
    leakage.refuse_overlaps(entries, leakage.SPEECH_KEYS, declared)
    leakage.refuse_overlaps(sources, [leakage.NOISE_KEY], declared)


def prepare_noise_csvs(hparams, entries):
    """Writes noise CSVs unless all are given; no talker may be in `entries`."""
    folder = pathlib.Path(hparams["output_folder"], "noise")
    csv_files = [noise.csv_file for _, noise in splits_of(hparams).values()]
    if folder not in [pathlib.Path(file).parent for file in csv_files]:
        return
    options = {
        "save_folder": folder,
        "noise_corpus": hparams["noise_corpus"],
        "noise_folder": hparams["noise_folder"],
        "noise_types": hparams["noise_types"],
        "babble_folder": hparams["babble_folder"],
        "unseen_noise": hparams["unseen_noise"],
        "corpus_files": {entry["wav"] for entry in entries},
        "corpus_speakers": {entry["speaker"] for entry in entries},
    }
    run_on_main(prepare_noise, kwargs=options)


def prepare_crops(hparams, train, valid, test):
    """Lists the unlabelled speech of a folder, if the system uses it."""
    sources, used = hparams["unlabelled_folder"], hparams["unlabelled"]
    if used == "folder" and sources is None:
        raise InputError("unlabelled: 'folder' needs an unlabelled_folder")
    if used in (False, "corpus") and sources and distils(hparams):
        logger.warning(f"{hparams['system']} does not use unlabelled_folder")
    if used in (True, "folder") and sources and distils(hparams):
        lengths = [entry["length"] for entry in train if entry["emo"]]
        held_out = [*valid, *test, *inputs.held_out_noise(hparams)]
        options = sources, lengths, held_out
        place = unlabelled.database_path(hparams["output_folder"], *options)
        run_on_main(unlabelled.prepare_unlabelled, args=[place, *options])
        hparams["crops"] = place


def read_dataset(hparams, split, with_unlabelled=False):
    """Labelled utterances of a split, optionally also the unlabelled ones."""
    longest = hparams["eval_batch_length"]
    if split == "train":
        longest = hparams["max_batch_length"]
    manifest, _ = splits_of(hparams)[split]
    options = hparams["labels"], longest, with_unlabelled
    return batches.read_manifest(manifest, hparams["data_folder"], *options)


def training_set(hparams):
    """Training speech, clean or noisy; unlabelled only with a teacher."""
    own = hparams["unlabelled"] in (True, "corpus")
    data = read_dataset(hparams, "train", own and distils(hparams))
    if hparams["repeat_labelled"] and hparams["network"] == "student":
        batches.repeat_labelled(data, hparams["unlabelled_ratio"])
    labels, speed = hparams["labels"], hparams["speed_perturb"]
    noise = inputs.training_noise(hparams)
    batches.add_training_pipeline(data, labels, speed, noise)
    return data


def evaluation_loader(hparams, split, grid):
    """Batches of an evaluated split's speech under all conditions of a grid."""
    data, (_, noise) = read_dataset(hparams, split), splits_of(hparams)[split]
    mix = functools.partial(apply_grid, noise)
    batches.add_evaluation_pipeline(data, hparams["labels"], grid, mix)
    # Without a GPU larger batches are no faster.
    seconds = hparams["eval_batch_length"] if torch.cuda.is_available() else 0
    options = loader_options(hparams)
    sampler = batches.evaluation_batches(data, len(grid), seconds)
    return make_dataloader(data, batch_sampler=sampler, **options)


def validation_grid(hparams):
    """Conditions under which epochs are compared: as in training."""
    if hparams["speech"] != "noisy":
        return [add_noise.CLEAN]
    kinds = list(hparams["valid_noise"].types)
    return add_noise.conditions(kinds, hparams["valid_snrs"])[1:]


def loader_options(hparams):
    """Options of a loader; its generator is separate from the global one."""
    # SNRs and lengths are in double precision, which MPS does not have.
    keys = ["sig", "clean", "label"]
    return {
        "collate_fn": functools.partial(PaddedBatch, device_prep_keys=keys),
        "num_workers": hparams["num_workers"],
        "persistent_workers": hparams["num_workers"] > 0,
        "pin_memory": torch.cuda.is_available(),
        "generator": torch.Generator().manual_seed(hparams["seed"]),
    }


def build_modules(hparams, teacher_folder, teacher):
    """A new teacher; or a student, its projection and the frozen teacher."""
    torch.manual_seed(stable_seed(hparams["seed"], "initialisation"))
    labels = hparams["labels"]
    if hparams["network"] == "teacher":
        new, width = hparams["teacher_encoder"](), hparams["head_projection"]
        return {"model": classifier.EmotionClassifier(new, labels, width)}
    factory = hparams["student_encoder"]
    model = classifier.load_classifier(teacher_folder, factory, labels)
    if not distils(hparams):
        return {"model": model}
    depth, width = teacher.encoder.n_layers, teacher.encoder.width
    levels = distillation.resolve_levels(hparams["kd_levels"], depth)
    projection = hparams["projection"](model.encoder.width, width, levels)
    teacher = classifier.FrozenTeacher(teacher, levels)
    return {"model": model, "projection": projection, "teacher": teacher}


def training_objects(hparams, folder, n_updates):
    """Loss, schedules, epoch counter, logger; n_updates: steps per epoch."""
    teacher = hparams["network"] == "teacher"
    weights = {"emotion": 1.0} if teacher else hparams["loss_weights"]
    epochs = hparams["teacher_epochs"] if teacher else hparams["student_epochs"]
    # Epochs with distillation losses only, then those with all losses.
    epochs = [hparams["distillation_epochs"] * distils(hparams), epochs]
    if hparams["speech"] == "none":
        epochs = [0, 0]
    rate = hparams["teacher_lr"] if teacher else hparams["student_lr"]
    rates = {"encoder": rate, "head": hparams["head_lr"]}
    shape = hparams["warmup_share"], [n * n_updates for n in epochs]
    schedule, log = hparams["lr_schedule"], str(folder / "train_log.txt")
    return {
        "loss": distillation.WeightedLosses(hparams["losses"], weights),
        "epochs": epochs,
        "schedules": {
            name: checkpoints.StagedSchedule(schedule, highest, *shape)
            for name, highest in rates.items()
        },
        "counter": hparams["epoch_counter"](limit=sum(epochs)),
        "logger": hparams["train_logger"](save_file=log),
    }


def train_network(hparams, run_opts, folder, teacher_folder=None):
    """Trains a system's network or resumes it; does nothing if it is done."""
    teacher, teacher_sha256 = None, None
    if hparams["network"] == "student":
        teacher = inputs.load_teacher(hparams, teacher_folder)
        teacher_sha256 = classifier.state_sha256(teacher)
    files = splits_of(hparams), hparams["wav2vec2_hub"], hparams["crops"]
    record = settings.with_contents(hparams["record"], *files, teacher_sha256)
    with run_folder.reserved(folder, record, hparams["systems"]):
        if run_folder.read_stage(folder):
            logger.info(f"{folder.name}: trained already.")
            return
        brain, loader, validation = prepare_fit(
            hparams, run_opts, folder, teacher_folder, teacher, teacher_sha256
        )
        model = brain.modules.model  # before DDP wraps it
        brain.fit(brain.hparams.counter, loader, validation)
        # Read before the best epoch's checkpoint restores an earlier history.
        history = brain.history.epochs
        best = brain.checkpointer.recover_if_possible(max_key="UA")
        # Others may still read the checkpoint that is removed next.
        distributed.ddp_barrier()
        arguments = [folder, model, best, history, teacher_sha256]
        run_on_main(run_folder.finish_stage, args=arguments)


def prepare_fit(hparams, run_opts, folder, teacher_folder, teacher, sha256):
    """A Brain ready to train, its training batches and validation set."""
    modules = build_modules(hparams, teacher_folder, teacher)
    data, validation = training_set(hparams), validation_grid(hparams)
    place, noise = hparams["crops"], inputs.training_noise(hparams)
    crops = unlabelled.Crops(place, noise) if place else ()
    sampler = hparams["train_sampler"](
        data, crops=crops, processes=n_processes()
    )
    options = settings.run_options(hparams, run_opts)
    n_updates = checkpoints.updates_per_epoch(
        len(sampler), options["grad_accumulation_factor"]
    )
    own = training_objects(hparams, folder, n_updates)
    brain_class = EmotionBrain
    if "teacher" in modules:
        brain_class, levels = MLKDBrain, modules["teacher"].levels
        limit = hparams["cache_limit"]
        own["cache"] = TargetCache(folder / "targets", sha256, levels, limit)
    checkpointer = hparams["checkpointer"](folder / "save")
    brain = brain_class(modules, {**hparams, **own}, run_opts, checkpointer)
    own["loss"].to(brain.device)  # constants, such as weights of classes
    options = {"batch_sampler": sampler, **loader_options(hparams)}
    data = ConcatDataset([data, crops])
    loader = brain.make_dataloader(data, sb.Stage.TRAIN, None, **options)
    # Without DDP, Brain does not set the epoch of a batch sampler.
    brain.train_sampler = brain.train_sampler or sampler
    return brain, loader, evaluation_loader(hparams, "valid", validation)


def evaluate(hparams, run_opts, folder):
    """Tests a trained system; existing results are kept if still valid."""
    run_folder.check_prepared(folder, splits_of(hparams))
    manifest, noise = splits_of(hparams)["test"]
    kinds, distorted = list(noise.types), hparams["test_distortions"]
    grid = add_noise.conditions(kinds, hparams["test_snrs"], distorted)
    precision = settings.run_options(hparams, run_opts)["eval_precision"]
    test = results.describe_test(grid, manifest, noise.types, precision)
    manifest, noise = splits_of(hparams)["valid"]
    fit_grid = add_noise.conditions(list(noise.types), hparams["valid_snrs"])
    fit = results.describe_test(fit_grid, manifest, noise.types, precision)
    names = ("system", "protocol", "fold", "seed", "noise_corpus", "labels")
    header = {name: hparams[name] for name in names}
    header["comparisons"] = hparams["comparisons"]
    header["corpus"] = hparams["corpus_name"]
    header.update(describe_split(m for m, _ in splits_of(hparams).values()))
    teacher = hparams["teacher_folder"] or folder.with_name(inputs.TEACHER)
    header = run_folder.results_header(folder, test, fit, header, teacher)
    header["settings"]["eval_precision"] = precision
    data = run_folder.describe_data(hparams, splits_of(hparams))
    run_on_main(write_json, args=[folder / results.DATA, data])
    kept = results.is_complete(folder) and results.read_results(folder)
    same = kept and kept["hparams_sha256"] == header["hparams_sha256"]
    if same and not run_opts["test_only"]:
        logger.info(f"{folder.name}: evaluated already.")
        # Newer than what it follows from, as cross_validate.py expects.
        run_on_main(os.utime, args=[folder / results.RESULTS])
        return kept
    factory = hparams[f"{hparams['network']}_encoder"]
    model = classifier.load_classifier(folder, factory, hparams["labels"])
    brain = EmotionBrain({"model": model}, hparams, run_opts)
    brain.evaluate(evaluation_loader(hparams, "valid", fit_grid))
    pairs = calibration.probabilities_of_records(brain.records)
    header["temperature"] = calibration.fit_temperature(*pairs)
    loader = evaluation_loader(hparams, "test", grid)
    n = len(loader.dataset)
    logger.info(f"{folder.name}: {n} utterances x {len(grid)} conditions")
    brain.evaluate(loader)
    cost = metrics.model_cost(model, brain.device)
    cost["training_seconds"] = run_folder.read_stage(folder)["training_seconds"]
    cost["real_time_factor"] = brain.compute_seconds / brain.audio_seconds
    arguments = [folder, header, brain.predictions(), cost]
    run_on_main(results.write_run, args=arguments)
    return results.read_results(folder)


def load(hparams_file, resolved):
    """Hyperparameters of a system, its objects built."""
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, resolved.overrides)
    hparams["crops"] = None
    return hparams


def run(hparams_file, run_opts, command_line):
    """Preparation, teacher, student and evaluation of one fold."""
    # cuDNN plans attention anew for every shape, which takes longer than a step.
    torch.backends.cuda.enable_cudnn_sdp(False)
    read = overrides.read_settings
    resolved = read(hparams_file, command_line)
    values, chosen, systems = resolved.values, [resolved], {}
    if values["network"] == "student" and values["teacher_folder"] is None:
        teacher = read(hparams_file, command_line, inputs.TEACHER)
        chosen.insert(0, teacher)  # trained first
    for own in chosen:
        found = load(hparams_file, own)
        found["record"] = settings.training_record(own, run_opts)
        systems[found["system"]] = found
    hparams = systems[values["system"]]
    folder = pathlib.Path(hparams["output_folder"], hparams["system"])
    if run_opts["test_only"] and not run_folder.read_stage(folder):
        raise InputError(f"--test_only: {folder} holds no trained model")
    device = run_opts["device"] or distributed.infer_device()
    overrides.check_run_options(hparams, run_opts, device)
    run_folder.check_systems(folder.parent, systems)
    logger.info(f"{folder.name}: {resolved.overrides}")
    with run_folder.locked(folder):
        with report_full_disk(folder / "hyperparams.yaml"):
            sb.create_experiment_directory(
                folder, hparams_file, resolved.overrides
            )
        tested = run_stages(systems, run_opts, folder)
    if tested and distributed.if_main_process():
        tables = [metrics.run_table(tested, name) for name in ("UA", "WA")]
        print("", f"{hparams['system']}, {folder}", *tables, sep="\n\n")


def run_stages(systems, run_opts, folder):
    """Runs the stages; returns the results, or None if it ends before the test."""
    hparams = systems[folder.name]
    teacher_folder, train = hparams["teacher_folder"], not run_opts["test_only"]
    # Only one command at a time prepares the fold and trains its teacher.
    with run_folder.locked(folder.parent):
        run_on_main(run_folder.clear_partial, args=[folder])
        run_on_main(run_folder.clear_partial, args=[folder.parent])
        # Again: another command may have begun the fold in the meantime.
        run_folder.check_systems(folder.parent, systems)
        if train and not hparams["prepare_only"]:
            inputs.check_models(systems, hparams, folder)
        prepare(hparams, train)
        if hparams["prepare_only"]:
            logger.info(f"{folder.parent}: prepared (prepare_only).")
            return None
        if inputs.TEACHER in systems and train:
            teacher_run = folder.with_name(inputs.TEACHER)
            train_network(systems[inputs.TEACHER], run_opts, teacher_run)
            teacher_folder = teacher_run / run_folder.MODEL
            # Frees the optimizers: Brain and checkpointer refer to each other.
            gc.collect()
    if train:
        train_network(hparams, run_opts, folder, teacher_folder)
    if hparams["train_only"]:
        logger.info(f"{folder}: trained, not tested (train_only).")
        run_on_main(os.utime, args=[folder / run_folder.STAGE])
        return None
    return evaluate(hparams, run_opts, folder)


def main(argv):
    """Runs the command; its exit code."""
    transformers.utils.logging.disable_progress_bar()
    parsed = sb.parse_arguments(argv)
    distributed.ddp_init_group(parsed[1])

    def _command():
        overrides.check_arguments(argv, parsed[1])
        run(*parsed)
        if distributed.is_distributed_initialized():
            # Gloo's threads must end before Python does. A Brain, in a cycle
            # with its checkpointer, would keep them.
            gc.collect()
            torch.distributed.destroy_process_group()

    # Every process logs its own error, not only the main one.
    report = functools.partial(logger.error, main_process_only=False)
    return run_command(_command, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
