#!/usr/bin/env python3
"""Recipe for noise-robust emotion recognition by multi-level distillation.

A wav2vec 2.0 teacher is fine-tuned on clean speech. A small student, its first
layers, hears noisy speech and learns from the labels and, through one head per
level, from several layers of the teacher on the clean signal. Evaluated on
clean speech and on noise types x SNRs (after arXiv 2312.13556).

To run this recipe, do the following:
> python train.py hparams/mlkd.yaml --data_folder=IEMOCAP_full_release \
    --noise_folder=musan

Every step goes on where it was stopped; what is finished is not done again.

Authors
 * The MLKD recipe's authors 2026
"""

import gc
import math
import pathlib
import sys

import torch
import transformers
from brains import EmotionBrain, MLKDBrain, StagedSchedule, TrainingPlan
from data import (
    TrainingBatchSampler,
    add_grid_pipeline,
    add_training_pipeline,
    read_manifest,
)
from hyperpyyaml import load_hyperpyyaml
from prepare import (
    check_leakage,
    find_corpus,
    prepare_corpus,
    prepare_noise_csvs,
)
from runs import (
    MODEL,
    TEACHER,
    check_claims,
    claim_folder,
    claimed_folder,
    clear_partial,
    confirm_results,
    finish_stage,
    finished_results,
    one_at_a_time,
    read_stage,
    results_header,
)
from settings import (
    SettingsError,
    check_arguments,
    object_definitions,
    resolve_overrides,
    resolved_values,
)
from stages import stage_settings, training_options
from values import check_values

import speechbrain as sb
from mlkd_lobes.audibility import leave_silence_out
from mlkd_lobes.classifier import (
    EmotionClassifier,
    FrozenTeacher,
    load_classifier,
    state_sha256,
)
from mlkd_lobes.distillation import WeightedLosses, needs_teacher
from mlkd_lobes.encoders import (
    check_depth,
    check_levels,
    source_fingerprint,
    source_layers,
)
from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.cost import model_cost
from mlkd_lobes.evaluation.results import read_results, write_run
from mlkd_lobes.evaluation.tables import run_table
from mlkd_lobes.files import file_sha256, full_disk_told, stable_seed
from mlkd_lobes.noise import CLEAN, conditions, noise_fingerprint
from mlkd_lobes.targets import TargetCache
from speechbrain.utils.distributed import (
    ddp_barrier,
    if_main_process,
    infer_device,
    run_on_main,
)
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# Options of SpeechBrain's that this recipe cannot keep its promises with.
WHOLE_EPOCHS = (
    "checkpoints are written after every epoch alone, where training goes on "
    "exactly"
)
REFUSED_OPTIONS = {
    "ckpt_interval_minutes": WHOLE_EPOCHS,
    "ckpt_interval_steps": WHOLE_EPOCHS,
    "remove_vector_weight_decay": "weights of all shapes decay; give "
    "--weight_decay",
    "optimizer_step_limit": "the learning rate falls over all epochs; give "
    "--teacher_epochs and --student_epochs",
}

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


def noises(hparams):
    """What adds the noise of each split."""
    return {
        "train": hparams["add_noise"],
        "valid": hparams["valid_noise"],
        "test": hparams["test_noise"],
    }


def prepare(hparams):
    """Manifests and noise CSVs; with skip_prep, those that the user gives."""
    if not hparams["skip_prep"]:
        prepare_speech(hparams)
    unlabelled = hparams["unlabelled"]
    datasets = {
        split: dataset(hparams, split, unlabelled and split == "train")
        for split in annotations(hparams)[0]
    }
    prepare_noise(hparams, datasets)
    if unlabelled and all(
        entry["emo"] for entry in datasets["train"].data.values()
    ):
        logger.warning(
            "unlabelled: the training speakers have no unlabelled utterance"
        )
    declared = None
    if not hparams["skip_prep"]:
        _, protocol = find_corpus(hparams["corpus"], hparams["protocol"])
        declared = protocol.declared
    noise = {split: source.types for split, source in noises(hparams).items()}
    check_leakage(datasets, noise, declared)


def prepare_speech(hparams):
    """The fold's manifests, by the first process."""
    run_on_main(
        prepare_corpus,
        kwargs={
            "corpus": hparams["corpus"],
            "data_folder": hparams["data_folder"],
            "save_folder": pathlib.Path(hparams["output_folder"]) / "manifests",
            "protocol": hparams["protocol"],
            "partial_corpus": hparams["partial_corpus"],
            "labels": hparams["labels"],
            "label_map": hparams["label_map"],
            "columns": hparams["columns"],
            "n_folds": hparams["n_folds"],
            "fold": hparams["fold"],
        },
    )


def prepare_noise(hparams, datasets):
    """Its noise CSVs, by the first process; silence in given ones is left out."""
    folder = pathlib.Path(hparams["output_folder"]) / "noise"
    csvs = annotations(hparams)[1]
    run_on_main(
        prepare_noise_csvs,
        kwargs={
            "save_folder": folder,
            "csvs": csvs,
            "datasets": datasets,
            "noise_corpus": hparams["noise_corpus"],
            "noise_folder": hparams["noise_folder"],
            "noise_types": hparams["noise_types"],
            "babble_folder": hparams["babble_folder"],
            "unseen_noise": hparams["unseen_noise"],
        },
    )
    for source in noises(hparams).values():
        leave_silence_out(source, folder)


def dataset(hparams, split, unlabelled=False):
    """A split's utterances, on request those without a label as well."""
    longest = hparams["max_batch_length"]
    return read_manifest(
        annotations(hparams)[0][split],
        hparams["data_folder"],
        hparams["labels"],
        unlabelled=unlabelled,
        longest=longest if split == "train" else hparams["eval_batch_length"],
    )


def training_set(hparams):
    """What is trained on: without labels only where a teacher supervises."""
    unlabelled = hparams["unlabelled"] and distils(hparams)
    data = dataset(hparams, "train", unlabelled)
    noise = hparams["add_noise"] if hparams["speech"] == "noisy" else None
    speed = hparams["speed_perturb"]
    add_training_pipeline(data, hparams["labels"], speed, noise)
    return data


def validation_set(hparams):
    """What the epoch is chosen by: speech as in training, clean or noisy."""
    noise, grid = hparams["valid_noise"], [CLEAN]
    if hparams["speech"] == "noisy":
        grid = conditions(list(noise.types), hparams["valid_snrs"])[1:]
    data = dataset(hparams, "valid")
    add_grid_pipeline(data, hparams["labels"], grid, noise)
    return data, grid


def test_set(hparams):
    """What is reported: clean, and every noise type at every SNR."""
    data, noise = dataset(hparams, "test"), hparams["test_noise"]
    grid = conditions(list(noise.types), hparams["test_snrs"])
    add_grid_pipeline(data, hparams["labels"], grid, noise)
    return data, grid


def loader_options(hparams):
    """What all loaders have: workers, and a generator of their own.

    The global one stays as it is, whatever loaders draw.
    """
    return {
        "num_workers": hparams["num_workers"],
        "generator": torch.Generator().manual_seed(hparams["seed"]),
    }


def brain_arguments(hparams, run_opts, data, grid):
    """What every Brain of this recipe takes besides its modules."""
    return {
        "hparams": hparams,
        "run_opts": run_opts,
        "grid": grid,
        "speakers": {n: data.data[n]["speaker"] for n in data.data_ids},
        "labels": hparams["labels"],
        "eval_batch_length": hparams["eval_batch_length"],
    }


# ---- Stages ------------------------------------------------------------------


def run_folder(hparams):
    """Where a system's run keeps everything."""
    return pathlib.Path(hparams["output_folder"]) / hparams["system"]


def plain_settings(hparams, run_opts):
    """What the trained network depends on, as far as settings say it."""
    return stage_settings({**hparams, **training_options(hparams, run_opts)})


def training_settings(hparams, run_opts, teacher_sha256):
    """All that the trained network depends on, contents of files as well."""
    speech, _ = annotations(hparams)
    # Their number decides how many steps an epoch has.
    content = {"teacher_sha256": teacher_sha256, "processes": n_processes()}
    if hparams["network"] == "teacher":
        content["wav2vec2_hub"] = source_fingerprint(hparams["wav2vec2_hub"])
    for split in ("train", "valid"):
        content[f"{split}_manifest"] = file_sha256(speech[split])
        if hparams["speech"] == "noisy":
            content[f"{split}_noise"] = noise_fingerprint(
                noises(hparams)[split].types
            )
    return {**plain_settings(hparams, run_opts), **content}


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


def distils(hparams):
    """Whether a loss asks for a teacher."""
    return needs_teacher(loss_weights(hparams))


def stage_epochs(hparams):
    """How long a system distils without labels, and how long it learns them."""
    if hparams["speech"] == "none":
        return 0, 0
    if hparams["network"] == "teacher":
        return 0, hparams["teacher_epochs"]
    first = hparams["distillation_epochs"] if distils(hparams) else 0
    return first, hparams["student_epochs"]


def training_plan(hparams, folder, n_updates):
    """What the training of a system consists of; n_updates: of an epoch."""
    teacher = hparams["network"] == "teacher"
    rate = hparams["teacher_lr"] if teacher else hparams["student_lr"]
    rates = {"encoder": rate, "head": hparams["head_lr"]}
    epochs = stage_epochs(hparams)
    return TrainingPlan(
        seed=hparams["seed"],
        draws=[hparams["speed_perturb"], hparams["add_noise"]],
        losses=WeightedLosses(hparams["losses"], loss_weights(hparams)),
        distillation_epochs=epochs[0],
        opt_class=hparams["opt_class"],
        schedules={
            name: StagedSchedule(
                hparams["lr_schedule"],
                rate,
                hparams["warmup_share"],
                [n * n_updates for n in epochs],
            )
            for name, rate in rates.items()
        },
        epoch_counter=hparams["epoch_counter"](limit=sum(epochs)),
        checkpointer=hparams["checkpointer"](folder / "save"),
        loggers=[
            hparams["train_logger"](save_file=str(folder / "train_log.txt")),
            hparams["tensorboard_logger"](str(folder / "tensorboard")),
        ],
    )


def make_brain(hparams, run_opts, model, teacher, validation):
    """The Brain of a stage, with a teacher if a loss asks for one."""
    common = brain_arguments(hparams, run_opts, *validation)
    if not distils(hparams):
        return EmotionBrain({"model": model}, **common)
    levels = check_levels(hparams["kd_levels"], teacher.encoder.n_layers)
    projection = hparams["projection"](
        model.encoder.width, teacher.encoder.width, levels
    )
    modules = {"model": model, "projection": projection}
    modules["teacher"] = FrozenTeacher(teacher, levels)
    brain = MLKDBrain(modules, **common)
    cache = run_folder(hparams) / "targets"
    brain.targets = TargetCache(cache, state_sha256(teacher), levels)
    return brain


def n_processes():
    """How many processes train together."""
    distributed = torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def updates(brain, n_batches):
    """Optimizer steps of an epoch: batches are shared by the processes."""
    shared = math.ceil(n_batches / n_processes())
    return shared // brain.grad_accumulation_factor


def prepare_training(hparams, run_opts, model, teacher=None):
    """A Brain ready to train, what it trains on, and what chooses the epoch."""
    folder = run_folder(hparams)
    data, validation = training_set(hparams), validation_set(hparams)
    brain = make_brain(hparams, run_opts, model, teacher, validation)
    sampler = TrainingBatchSampler(
        data,
        hparams["max_batch_length"],
        hparams["num_buckets"],
        hparams["seed"],
    )
    n_updates = updates(brain, len(sampler))
    if not n_updates:
        raise SettingsError(
            f"grad_accumulation_factor: {brain.grad_accumulation_factor} is "
            f"more than the {len(sampler)} batches of an epoch: nothing would "
            "be learned"
        )
    if n_processes() > 1 and len(sampler) <= n_processes():
        raise SettingsError(
            f"max_batch_length: an epoch of {len(sampler)} batches is too few "
            f"for {n_processes()} processes; take fewer of them, or shorter "
            "batches"
        )
    brain.set_up_training(folder, training_plan(hparams, folder, n_updates))
    loader = brain.make_dataloader(
        data,
        sb.Stage.TRAIN,
        ckpt_prefix=None,
        batch_sampler=sampler,
        **loader_options(hparams),
    )
    # Without DDP, Brain would not tell a batch sampler the epoch.
    brain.train_sampler = brain.train_sampler or sampler
    return brain, loader, validation[0]


def train_network(hparams, run_opts, teacher_folder=None):
    """Trains a system's network, or goes on, or finds it finished."""
    teacher, teacher_sha256 = None, None
    if hparams["network"] == "student":
        factory = hparams["teacher_encoder"]
        teacher = load_classifier(teacher_folder, factory, hparams["labels"])
        teacher_sha256 = state_sha256(teacher)
    folder = run_folder(hparams)
    settings = training_settings(hparams, run_opts, teacher_sha256)
    with claimed_folder(folder, settings, hparams["systems"]):
        if read_stage(folder):
            logger.info(f"{folder.name}: trained already.")
            return
        learned = learn(hparams, run_opts, teacher_folder, teacher)
        run_on_main(finish_stage, args=[folder, *learned, teacher_sha256])


def learn(hparams, run_opts, teacher_folder, teacher):
    """Trains from where it was stopped: network, best checkpoint, history."""
    model = build(hparams, teacher_folder)
    brain, loader, validation = prepare_training(
        hparams, run_opts, model, teacher
    )
    brain.fit(
        brain.plan.epoch_counter,
        loader,
        validation,
        valid_loader_kwargs={"batch_size": 1, **loader_options(hparams)},
    )
    # Before the best epoch's checkpoint brings back what was known then.
    epochs = brain.history.epochs
    best = brain.checkpointer.recover_if_possible(max_key="UA")
    # Finishing clears away the checkpoint that others may still be reading.
    ddp_barrier()
    return model, best, epochs


def evaluate(hparams, run_opts):
    """Results of a trained system; those there are kept if still true."""
    folder, (data, grid) = run_folder(hparams), test_set(hparams)
    speech, _ = annotations(hparams)
    test = {"conditions": grid, "manifest": file_sha256(speech["test"])}
    test["noise"] = noise_fingerprint(hparams["test_noise"].types)
    precision = training_options(hparams, run_opts)["eval_precision"]
    if precision != "fp32":
        test["precision"] = precision
    header = results_header(
        folder,
        test,
        system=hparams["system"],
        corpus=hparams["corpus_name"],
        protocol=hparams["protocol"],
        fold=hparams["fold"],
        seed=hparams["seed"],
        noise_corpus=hparams["noise_corpus"],
        labels=hparams["labels"],
    )
    results = finished_results(folder, header)
    if results and not run_opts["test_only"]:
        logger.info(f"{folder.name}: evaluated already.")
        run_on_main(confirm_results, args=[folder])
        return results
    factory = hparams[f"{hparams['network']}_encoder"]
    model = load_classifier(folder / MODEL, factory, hparams["labels"])
    common = brain_arguments(hparams, run_opts, data, grid)
    brain = EmotionBrain({"model": model}, **common)
    logger.info(f"{folder.name}: {len(data)} utterances x {len(grid)}")
    options = {"batch_size": 1, **loader_options(hparams)}
    brain.evaluate(data, test_loader_kwargs=options)
    cost = model_cost(model, brain.device)
    cost["training_seconds"] = read_stage(folder)["training_seconds"]
    cost["real_time_factor"] = brain.seconds_computed / brain.seconds_heard
    run_on_main(
        write_run, args=[folder, header, brain.predictions(), grid, cost]
    )
    return read_results(folder)


def load(hparams_file, overrides):
    """Hyperparameters of a system, their values checked first."""
    check_values(resolved_values(hparams_file, overrides))
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    hparams["objects"] = object_definitions(hparams_file)
    return hparams


def check_trained(hparams, run_opts):
    """Evaluation alone needs a network trained with these very settings."""
    folder = run_folder(hparams)
    stage = read_stage(folder)
    teacher = hparams["network"] == "teacher"
    sha256 = None if teacher else stage["teacher_sha256"]
    settings = training_settings(hparams, run_opts, sha256)
    run_on_main(claim_folder, args=[folder, settings, hparams["systems"]])


def check_options(hparams, run_opts):
    """Refuses options of SpeechBrain's that do not go with this recipe."""
    for name, reason in REFUSED_OPTIONS.items():
        if run_opts.get(name) or hparams.get(name):
            raise SettingsError(f"--{name}: {reason}")
    options = training_options(hparams, run_opts)
    half = options["auto_mix_prec"] or "fp16" in (
        options["precision"],
        options["eval_precision"],
    )
    device = run_opts["device"] or infer_device()
    if half and device.startswith("cpu") and not hparams["prepare_only"]:
        raise SettingsError("precision: fp16 needs a GPU; bf16 does not")


def run(hparams_file, run_opts, command_line):
    """Preparation, teacher, student and evaluation of one fold."""
    overrides = resolve_overrides(hparams_file, command_line)
    hparams = load(hparams_file, overrides)
    folder = run_folder(hparams)
    files = hparams["settings"] or "none"
    system = hparams["systems"][hparams["system"]]
    logger.info(f"{folder.name}: {system}; settings files: {files}")
    if run_opts["test_only"] and not read_stage(folder):
        raise SettingsError(
            f"--test_only: {folder} holds no trained model; run the same "
            "command without --test_only first"
        )
    check_options(hparams, run_opts)
    teacher = None
    if hparams["network"] == "student" and hparams["teacher_folder"] is None:
        teacher = load(
            hparams_file, resolve_overrides(hparams_file, command_line, TEACHER)
        )
    # Before anything is written: afterwards it would be too late to refuse.
    for network in (hparams, teacher):
        if network is not None:
            check_claims(
                network["output_folder"],
                network["system"],
                plain_settings(network, run_opts),
                network["systems"],
            )
    with one_at_a_time(folder):
        with full_disk_told(folder / "hyperparams.yaml"):
            sb.create_experiment_directory(
                folder, hyperparams_to_save=hparams_file, overrides=overrides
            )
        results = run_stages(hparams, teacher, run_opts)
    if results and if_main_process():
        print(f"\n{hparams['system']}, {folder}\n\n{run_table(results)}\n")
        print(run_table(results, "WA"))


def check_distillation(hparams):
    """Refuses what a student would find out after its teacher's hours.

    Also where a teacher alone is asked for: its students come later, with the
    same settings.
    """
    weights = hparams["loss_weights"]
    WeightedLosses(hparams["losses"], weights)
    n_layers = source_layers(
        hparams["wav2vec2_hub"], hparams["wav2vec2_folder"]
    )
    if needs_teacher(weights):
        check_levels(hparams["kd_levels"], n_layers)
    check_depth(hparams["student_layers"], n_layers)


def run_stages(hparams, teacher, run_opts):
    """Preparation, teacher, student, evaluation; its results, if it got there.

    `teacher` holds the hyperparameters of the teacher to train, or None.
    """
    folder, teacher_folder = run_folder(hparams), hparams["teacher_folder"]
    # What the systems of a fold share is made by one of them.
    with one_at_a_time(hparams["output_folder"]):
        run_on_main(clear_partial, args=[folder])
        prepare(hparams)
        if hparams["prepare_only"]:
            logger.info(f"{hparams['output_folder']}: prepared, as asked for.")
            return None
        if hparams["system"] == TEACHER:
            teacher = hparams
        elif teacher is not None:
            # Heard by both, should a teacher of one's own hear noise.
            for split, source in noises(hparams).items():
                noises(teacher)[split].types = source.types
        if teacher is not None and not run_opts["test_only"]:
            teacher_folder = run_folder(teacher) / MODEL
            if not read_stage(run_folder(teacher)):
                check_distillation(hparams)
            train_network(teacher, run_opts)
            # Brain and checkpointer refer to each other: without this, what
            # trained the teacher would stay in memory beside the student.
            gc.collect()
    if run_opts["test_only"]:
        check_trained(hparams, run_opts)
    else:
        train_network(hparams, run_opts, teacher_folder)
    if hparams["train_only"]:
        logger.info(f"{folder}: trained, not tested, as asked for.")
        return None
    return evaluate(hparams, run_opts)


def main(argv):
    """Runs the command; what a user can mend ends in one clear line."""
    transformers.utils.logging.disable_progress_bar()
    hparams_file, run_opts, command_line = sb.parse_arguments(argv)
    sb.utils.distributed.ddp_init_group(run_opts)
    try:
        check_arguments(argv, run_opts, command_line)
        run(hparams_file, run_opts, command_line)
    # Also a full disk, or a folder that may not be written; any process may
    # be the one that meets it.
    except (OSError, InputError) as error:
        logger.error(f"error: {error}", main_process_only=False)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
