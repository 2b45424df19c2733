#!/usr/bin/env python3
"""Recipe for noise-robust emotion recognition by multi-level distillation.

A wav2vec 2.0 teacher is fine-tuned on clean speech. A small student, its first
layers, hears noisy speech and learns from the labels and, through one head per
level, from several layers of the teacher on the clean signal. Evaluated on
clean speech and on noise types x SNRs (after arXiv 2312.13556).

To run this recipe, do the following:
> python train.py hparams/mlkd.yaml --data_folder=/path/to/corpus \
    --noise_folder=/path/to/noise

Every step goes on where it was stopped; what is finished is not done again.

Authors
 * The MLKD recipe's authors 2026
"""

import json
import pathlib
import shutil
import sys
import time

import pandas as pd
import torch
import torch.nn.functional as F
from data import (
    add_grid_pipeline,
    add_training_pipeline,
    grid_loader_options,
    read_manifest,
    training_loader_options,
)
from hyperpyyaml import load_hyperpyyaml
from prepare import check_leakage, prepare_corpus, prepare_noise_csvs
from settings import (
    SettingsError,
    check_choices,
    claim_folder,
    code_version,
    resolve_overrides,
    stage_settings,
)

import speechbrain as sb
from mlkd_lobes.checkpoints import History
from mlkd_lobes.classifier import (
    EmotionClassifier,
    FrozenTeacher,
    load_classifier,
    state_sha256,
)
from mlkd_lobes.distillation import Student, Targets, WeightedLosses
from mlkd_lobes.encoders import check_levels
from mlkd_lobes.evaluation.cost import (
    macs_per_second,
    n_parameters,
    peak_memory_mb,
)
from mlkd_lobes.evaluation.results import read_results, summarize, write_run
from mlkd_lobes.evaluation.tables import run_table
from mlkd_lobes.files import file_sha256, stable_seed, text_sha256, write_json
from mlkd_lobes.noise import CLEAN, conditions, noise_fingerprint
from mlkd_lobes.targets import TargetCache
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# Losses that need a teacher, and no label.
DISTILLATION = ("features", "logits")


class EmotionBrain(sb.Brain):
    """A classifier trained on labels: teachers, and students without one.

    Arguments
    ---------
    modules : dict
        "model", an EmotionClassifier.
    hparams : dict
        Of the system.
    run_opts : speechbrain.utils.run_opts.RunOptions
        Of the command line.
    grid : list of mlkd_lobes.noise.Condition
        What validation or test utterances are heard under.
    speakers : dict
        Speaker of each of them.
    """

    def __init__(self, modules, hparams, run_opts, grid, speakers):
        super().__init__(modules, None, hparams, run_opts)
        self.grid, self.speakers = grid, speakers

    def set_up_training(self, folder, weights, n_epochs, rates, n_steps):
        """What only training needs.

        Arguments
        ---------
        folder : pathlib.Path
            Where the run keeps its state.
        weights : dict
            Of the named losses.
        n_epochs : int
            How long.
        rates : dict
            Highest learning rate of "encoder" and "head".
        n_steps : int
            Updates in all.
        """
        self.title, self.n_epochs = folder.name, n_epochs
        self.losses = WeightedLosses(self.hparams.losses, weights)
        warmup = round(self.hparams.warmup_share * n_steps)
        self.schedules = {
            name: self.hparams.lr_schedule(rate, warmup, n_steps)
            for name, rate in rates.items()
        }
        self.loggers = [
            self.hparams.train_logger(save_file=str(folder / "train_log.txt")),
            self.hparams.tensorboard_logger(str(folder / "tensorboard")),
        ]
        self.history = History()
        self.epoch_counter = self.hparams.epoch_counter(limit=n_epochs)
        self.checkpointer = self.hparams.checkpointer(
            folder / "save",
            {
                "brain": self,
                "history": self.history,
                "counter": self.epoch_counter,
                **{
                    name: module
                    for name, module in self.modules.items()
                    if name != "teacher"
                },
            },
        )

    def compute_forward(self, batch, stage):
        """The network's view of the batch and, in training, its targets."""
        batch = batch.to(self.device)
        if stage != sb.Stage.TRAIN:
            return self.classify_grid(batch)
        logits, encoded = self.modules.model(*batch.sig)
        student = Student(logits, None, encoded.n_frames)
        return student, Targets(batch.label, None, None)

    def classify_grid(self, batch):
        """Logits [conditions, classes] of one utterance, in bounded memory."""
        wavs, started = batch.grid.data[0], time.perf_counter()
        samples = self.hparams.eval_batch_length * 16000
        parts = wavs.split(max(1, int(samples / wavs.shape[1])))
        logits = [self.modules.model(part).logits for part in parts]
        logits = torch.cat(logits).float().cpu()
        self.seconds_computed += time.perf_counter() - started
        self.seconds_heard += wavs.numel() / 16000
        return logits

    def compute_objectives(self, predictions, batch, stage):
        """The weighted sum of the named losses."""
        if stage != sb.Stage.TRAIN:
            label = batch.label.cpu()
            self.records.append((batch.id[0], label.item(), predictions))
            return F.cross_entropy(predictions, label.expand(len(predictions)))
        loss, terms = self.losses(*predictions, only=self.active_terms)
        for name, term in terms.items():
            self.terms.setdefault(name, []).append(term)
        self.snrs.append(batch.snr.cpu())
        return loss

    @property
    def active_terms(self):
        """Two-stage training: first distillation alone, then labels alone."""
        if not self.hparams.distillation_epochs:
            return None
        first = self.epoch <= self.hparams.distillation_epochs
        return DISTILLATION if first else ("emotion",)

    def on_stage_start(self, stage, epoch=None):
        """Sets the epoch of the noise draws and empties the statistics."""
        self.records, self.seconds_computed, self.seconds_heard = [], 0.0, 0.0
        if stage == sb.Stage.TRAIN:
            self.epoch, self.terms, self.snrs = epoch, {}, []
            self.hparams.add_noise.set_epoch(epoch)
            self.epoch_started = time.perf_counter()
            logger.info(f"{self.title}: epoch {epoch} of {self.n_epochs}")

    def on_fit_batch_start(self, batch, should_step):
        """Chance and learning rate are functions of the step alone."""
        rank = getattr(self, "rank", 0)
        key = (self.hparams.seed, self.title, self.epoch, self.step, rank)
        torch.manual_seed(stable_seed(*key))
        for name, optimizer in self.optimizers_dict.items():
            rate = self.schedules[name].calculate_lr(self.optimizer_step + 1)
            optimizer.param_groups[0]["lr"] = rate

    def init_optimizers(self):
        """One optimizer per learning rate: clipping sees one group only."""
        model = getattr(self.modules.model, "module", self.modules.model)
        head = list(model.head.parameters())
        if "projection" in self.modules:
            head += self.modules.projection.parameters()
        encoder = [p for p in model.encoder.parameters() if p.requires_grad]
        self.optimizers_dict = {
            name: self.hparams.opt_class(params, lr=self.schedules[name].lr0)
            for name, params in (("encoder", encoder), ("head", head))
        }
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"opt_{name}", optimizer)

    def predictions(self):
        """One row per utterance and condition."""
        labels, rows = self.hparams.labels, []
        for utterance, label, logits in self.records:
            for condition, p in zip(self.grid, logits.softmax(-1)):
                row = {
                    "id": utterance,
                    "speaker": self.speakers[utterance],
                    "noise": condition.noise,
                    "snr_db": condition.snr_db,
                    "true": labels[label],
                    "predicted": labels[p.argmax()],
                }
                for name, value in zip(labels, p.tolist()):
                    row[f"p_{name}"] = round(value, 6)
                rows.append(row)
        return pd.DataFrame(rows)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs an epoch and keeps its checkpoint."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = self.training_statistics(stage_loss)
        elif stage == sb.Stage.VALID:
            self.end_epoch(float(stage_loss), epoch)

    def training_statistics(self, loss):
        """Every loss, and the SNRs measured on what was heard."""
        stats = {"loss": float(loss)}
        for name, values in self.terms.items():
            stats[name] = torch.stack(values).float().mean().item()
        snrs = torch.cat(self.snrs)
        noisy = snrs[torch.isfinite(snrs)]
        if len(noisy):
            stats["snr_low"] = noisy.min().item()
            stats["snr_mean"] = noisy.mean().item()
            stats["snr_high"] = noisy.max().item()
            stats["clean_share"] = 1 - len(noisy) / len(snrs)
        return stats

    def end_epoch(self, loss, epoch):
        """Scores the validation speech: mean over what it was heard under."""
        scores = summarize(
            self.predictions(), self.hparams.labels, self.grid
        )
        valid = {"loss": loss}
        for name in ("UA", "WA"):
            valid[name] = sum(score[name] for score in scores) / len(scores)
        meta = {"epoch": epoch}
        for name, optimizer in self.optimizers_dict.items():
            meta[f"lr_{name}"] = optimizer.param_groups[0]["lr"]
        for train_logger in self.loggers:
            train_logger.log_stats(meta, self.train_stats, valid_stats=valid)
        seconds = time.perf_counter() - self.epoch_started
        self.history.append(
            {"epoch": epoch, "seconds": seconds, **self.train_stats}
            | {f"valid_{name}": value for name, value in valid.items()}
        )
        # Only epochs that saw labels last may be selected.
        if epoch > self.hparams.distillation_epochs:
            meta["UA"] = valid["UA"]
        self.checkpointer.save_and_keep_only(
            meta=meta, num_to_keep=2, max_keys=["UA"], importance_keys=[]
        )


class MLKDBrain(EmotionBrain):
    """A student on noisy speech, supervised by a teacher on clean speech.

    Has the modules "teacher" and "projection" besides "model", and `targets`,
    the cache of what the teacher says.
    """

    def compute_forward(self, batch, stage):
        """Teacher on the clean signal, student on the noisy one."""
        if stage != sb.Stage.TRAIN:
            return super().compute_forward(batch, stage)
        batch = batch.to(self.device)
        logits, encoded = self.modules.model(*batch.sig)
        projected = self.modules.projection(encoded.last_hidden)
        features, teacher_logits = self.teacher_targets(batch)
        student = Student(logits, projected, encoded.n_frames)
        return student, Targets(batch.label, features, teacher_logits)

    def teacher_targets(self, batch):
        """What the teacher says of the clean signal, from the cache if there."""
        targets = self.targets.get(batch.id)
        if targets is None:
            features, logits, n_frames = self.modules.teacher(*batch.clean)
            targets = self.targets.put(batch.id, features, logits, n_frames)
        return [target.to(self.device) for target in targets]


# ---- Data --------------------------------------------------------------------


def annotations(hparams):
    """Manifest and noise CSV of each split."""
    speech = {
        "train": hparams["train_annotation"],
        "valid": hparams["valid_annotation"],
        "test": hparams["test_annotation"],
    }
    noise = {
        "train": hparams["noise_annotation"],
        "valid": hparams["noise_valid_annotation"],
        "test": hparams["noise_test_annotation"],
    }
    return speech, noise


def prepare(hparams):
    """Manifests and noise CSVs; with skip_prep, those that the user gives."""
    speech, noise = annotations(hparams)
    folder = pathlib.Path(hparams["output_folder"])
    if not hparams["skip_prep"]:
        run_on_main(
            prepare_corpus,
            kwargs={
                "corpus": hparams["corpus"],
                "protocol": hparams["protocol"],
                "data_folder": hparams["data_folder"],
                "save_folder": folder / "manifests",
                "labels": hparams["labels"],
                "label_map": hparams["label_map"],
                "columns": hparams["columns"],
                "n_folds": hparams["n_folds"],
                "fold": hparams["fold"],
            },
        )
        run_on_main(
            prepare_noise_csvs,
            kwargs={
                "save_folder": folder / "noise",
                "csvs": noise,
                "manifests": speech,
                "data_folder": hparams["data_folder"],
                "noise_corpus": hparams["noise_corpus"],
                "noise_folder": hparams["noise_folder"],
                "noise_types": hparams["noise_types"],
                "babble_folder": hparams["babble_folder"],
                "unseen_noise": hparams["unseen_noise"],
            },
        )
    datasets = {split: dataset(hparams, split) for split in speech}
    replacements = {"noise_folder": hparams["noise_folder"]}
    refuse = not hparams["skip_prep"]
    check_leakage(datasets, noise, replacements, refuse)


def dataset(hparams, split):
    """A split's utterances; unlabelled ones only where they serve training."""
    return read_manifest(
        annotations(hparams)[0][split],
        hparams["data_folder"],
        hparams["labels"],
        unlabelled=split == "train" and hparams["unlabelled"],
    )


def training_set(hparams):
    """What is trained on."""
    data = dataset(hparams, "train")
    noise = hparams["add_noise"] if hparams["speech"] == "noisy" else None
    add_training_pipeline(data, hparams["labels"], noise)
    return data


def validation_set(hparams):
    """What the epoch is chosen by: speech as in training, clean or noisy."""
    data, noise, grid = dataset(hparams, "valid"), hparams["valid_noise"], [CLEAN]
    if hparams["speech"] == "noisy":
        grid = conditions(list(noise.types), hparams["valid_snrs"])[1:]
    add_grid_pipeline(data, hparams["labels"], grid, noise)
    return data, grid


def test_set(hparams):
    """What is reported: clean, and every noise type at every SNR."""
    data, noise = dataset(hparams, "test"), hparams["test_noise"]
    grid = conditions(list(noise.types), hparams["test_snrs"])
    add_grid_pipeline(data, hparams["labels"], grid, noise)
    return data, grid


def speakers(data):
    """Speaker of each utterance."""
    return {name: data.data[name]["speaker"] for name in data.data_ids}


# ---- Stages ------------------------------------------------------------------


def run_folder(hparams):
    """Where a system's run keeps everything."""
    return pathlib.Path(hparams["output_folder"]) / hparams["system"]


def finished_stage(hparams):
    """What the finished training says of itself, or None."""
    path = run_folder(hparams) / "stage.json"
    return json.loads(path.read_text()) if path.is_file() else None


def training_settings(hparams, teacher_sha256):
    """All that the trained network depends on."""
    speech, noise = annotations(hparams)
    content = {"teacher_sha256": teacher_sha256}
    if teacher_sha256 is None:
        content["wav2vec2_hub"] = hparams["wav2vec2_hub"]
    for split in ("train", "valid"):
        content[f"{split}_manifest"] = file_sha256(speech[split])
        if hparams["speech"] == "noisy":
            replacements = {"noise_folder": hparams["noise_folder"]}
            content[f"{split}_noise"] = noise_fingerprint(
                noise[split], replacements
            )
    return stage_settings(hparams, content)


def build(hparams, teacher_folder):
    """The network to train: a new teacher, or a student of a finished one."""
    torch.manual_seed(stable_seed(hparams["seed"], "initialisation"))
    if hparams["network"] == "student":
        factory = hparams["student_encoder"]
        return load_classifier(teacher_folder, factory, hparams["labels"])
    encoder = hparams["teacher_encoder"]()
    return EmotionClassifier(
        encoder, hparams["labels"], hparams["head_projection"]
    )


def loss_weights(hparams):
    """Weights of the named losses; a teacher learns from labels alone."""
    if hparams["network"] == "teacher":
        return {"emotion": 1.0}
    return hparams["loss_weights"]


def make_brain(hparams, run_opts, model, teacher, validation):
    """The Brain of a stage, with a teacher if a loss asks for one."""
    data, grid = validation
    common = (hparams, run_opts, grid, speakers(data))
    if not any(loss_weights(hparams).get(name) for name in DISTILLATION):
        return EmotionBrain({"model": model}, *common)
    levels = check_levels(hparams["kd_levels"], teacher.encoder.n_layers)
    projection = hparams["projection"](
        model.encoder.width, teacher.encoder.width, levels
    )
    modules = {"model": model, "projection": projection}
    modules["teacher"] = FrozenTeacher(teacher, levels)
    brain = MLKDBrain(modules, *common)
    cache = run_folder(hparams) / "targets"
    brain.targets = TargetCache(cache, state_sha256(teacher), levels)
    return brain


def train_network(hparams, run_opts, teacher_folder=None):
    """Trains a system's network, or goes on, or finds it finished."""
    teacher, teacher_sha256 = None, None
    if teacher_folder is not None:
        factory = hparams["teacher_encoder"]
        teacher = load_classifier(teacher_folder, factory, hparams["labels"])
        teacher_sha256 = state_sha256(teacher)
    folder = run_folder(hparams)
    settings = training_settings(hparams, teacher_sha256)
    run_on_main(claim_folder, args=[folder, settings])
    if finished_stage(hparams):
        logger.info(f"{folder.name}: trained already.")
        return
    model = build(hparams, teacher_folder)
    data, validation = training_set(hparams), validation_set(hparams)
    brain = make_brain(hparams, run_opts, model, teacher, validation)
    loader_options = training_loader_options(data, hparams)
    sampler = loader_options["batch_sampler"]
    role = hparams["network"]
    n_epochs = hparams[f"{role}_epochs"]
    rates = {"encoder": hparams[f"{role}_lr"], "head": hparams["head_lr"]}
    n_steps, weights = n_epochs * len(sampler), loss_weights(hparams)
    brain.set_up_training(folder, weights, n_epochs, rates, n_steps)
    loader = brain.make_dataloader(
        data, sb.Stage.TRAIN, ckpt_prefix=None, **loader_options
    )
    # Without DDP, Brain would not tell a batch sampler the epoch.
    brain.train_sampler = brain.train_sampler or sampler
    brain.fit(
        brain.epoch_counter,
        loader,
        validation[0],
        valid_loader_kwargs=grid_loader_options(hparams),
    )
    run_on_main(finish_stage, args=[brain, model, folder, teacher_sha256])


def finish_stage(brain, model, folder, teacher_sha256):
    """Keeps the best epoch's network; stage.json, last, means "finished"."""
    best = brain.checkpointer.recover_if_possible(max_key="UA")
    model.save_pretrained(folder / "model")
    own = state_sha256(model)
    epochs = brain.history.epochs
    stage = {
        "epoch": best and best.meta["epoch"],
        "valid_UA": best and best.meta["UA"],
        "training_seconds": sum(epoch["seconds"] for epoch in epochs),
        "model_sha256": own,
        "teacher_sha256": teacher_sha256 or own,
        "history": epochs,
    }
    write_json(folder / "stage.json", stage)
    shutil.rmtree(folder / "save", ignore_errors=True)
    shutil.rmtree(folder / "targets", ignore_errors=True)


def evaluate(hparams, run_opts):
    """Results of a trained system; those there are kept if still true."""
    folder, stage = run_folder(hparams), finished_stage(hparams)
    data, grid = test_set(hparams)
    speech, noise = annotations(hparams)
    settings = json.loads((folder / "settings.json").read_text())
    settings["conditions"] = grid
    settings["model_sha256"] = stage["model_sha256"]
    settings["test_manifest"] = file_sha256(speech["test"])
    settings["test_noise"] = noise_fingerprint(
        noise["test"], {"noise_folder": hparams["noise_folder"]}
    )
    header = {
        "system": hparams["system"],
        "corpus": hparams["corpus_name"],
        "protocol": hparams["protocol"],
        "fold": hparams["fold"],
        "seed": hparams["seed"],
        "noise_corpus": hparams["noise_corpus"],
        "labels": hparams["labels"],
        "epoch": stage["epoch"],
        "teacher_sha256": stage["teacher_sha256"],
        "hparams_sha256": text_sha256(settings),
        "git": code_version(),
    }
    if (folder / "results.json").is_file() and not run_opts["test_only"]:
        results = read_results(folder)
        if results["hparams_sha256"] == header["hparams_sha256"]:
            logger.info(f"{folder.name}: evaluated already.")
            return results
    factory = hparams[f"{hparams['network']}_encoder"]
    model = load_classifier(folder / "model", factory, hparams["labels"])
    brain = EmotionBrain(
        {"model": model}, hparams, run_opts, grid, speakers(data)
    )
    logger.info(f"{folder.name}: {len(data)} utterances x {len(grid)}")
    brain.evaluate(data, test_loader_kwargs=grid_loader_options(hparams))
    if if_main_process():
        cost = costs(brain, model, stage)
        write_run(folder, header, brain.predictions(), grid, cost)
    return read_results(folder)


def costs(brain, model, stage):
    """What may differ between two equal runs."""
    computed, heard = brain.seconds_computed, brain.seconds_heard
    device = str(brain.device)
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name()
    return {
        "parameters": n_parameters(model.encoder),
        "head_parameters": n_parameters(model.head),
        "macs_per_second": macs_per_second(model),
        "training_seconds": stage["training_seconds"],
        "real_time_factor": computed / heard,
        "peak_memory_mb": peak_memory_mb(brain.device),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def load(hparams_file, overrides):
    """Hyperparameters of a system, its choices checked."""
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    check_choices("network", hparams["network"], ("teacher", "student"))
    check_choices("speech", hparams["speech"], ("clean", "noisy"))
    return hparams


def ensure_teacher(hparams_file, command_line, hparams, run_opts):
    """Folder of the teacher on clean speech, trained if there is none."""
    if hparams["teacher_folder"] is not None:
        return hparams["teacher_folder"]
    overrides = resolve_overrides(hparams_file, command_line, "teacher")
    teacher = load(hparams_file, overrides)
    train_network(teacher, run_opts)
    return run_folder(teacher) / "model"


def main(argv):
    """Preparation, teacher, student and evaluation of one fold."""
    hparams_file, run_opts, command_line = sb.parse_arguments(argv)
    sb.utils.distributed.ddp_init_group(run_opts)
    overrides = resolve_overrides(hparams_file, command_line)
    hparams = load(hparams_file, overrides)
    folder = run_folder(hparams)
    if run_opts["test_only"] and not finished_stage(hparams):
        raise SettingsError(
            f"--test_only: {folder} holds no trained model; run the same "
            "command without --test_only first"
        )
    sb.create_experiment_directory(
        folder, hyperparams_to_save=hparams_file, overrides=overrides
    )
    prepare(hparams)
    if not run_opts["test_only"]:
        teacher_folder = None
        if hparams["network"] == "student":
            teacher_folder = ensure_teacher(
                hparams_file, command_line, hparams, run_opts
            )
        train_network(hparams, run_opts, teacher_folder)
    results = evaluate(hparams, run_opts)
    if if_main_process():
        print(f"\n{hparams['system']}, {folder}\n\n{run_table(results)}\n")
        print(run_table(results, "WA"))


if __name__ == "__main__":
    main(sys.argv[1:])
