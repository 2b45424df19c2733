"""The Brains of this recipe: a classifier, and a student with its teacher.

What they are given comes from train.py, which reads the YAML file; what they do
is here: forward passes, losses, checkpoints, scores.
"""

import time
from collections import namedtuple

import torch
import torch.nn.functional as F

import speechbrain as sb
from mlkd_lobes.checkpoints import History
from mlkd_lobes.distillation import DISTILLATION, Student, Targets
from mlkd_lobes.evaluation.results import prediction_table, summarize
from mlkd_lobes.files import stable_seed
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

TrainingPlan = namedtuple(
    "TrainingPlan",
    [
        "seed",
        "draws",
        "losses",
        "distillation_epochs",
        "opt_class",
        "schedules",
        "epoch_counter",
        "checkpointer",
        "loggers",
    ],
)
TrainingPlan.__doc__ = """What a training consists of.

`seed`; `draws`, what changes the training speech from epoch to epoch, such as
the noise mixer; `losses`, a WeightedLosses;
`distillation_epochs`, how many come first, without labels;
`opt_class`; `schedules`, learning-rate schedules of "encoder" and "head";
`epoch_counter`, `checkpointer` and `loggers` of SpeechBrain.
"""


class StagedSchedule:
    """A learning-rate schedule per stage of training, each from its start.

    Arguments
    ---------
    schedule : callable
        Of rate, warm-up steps and steps; what it makes has `calculate_lr`.
    rate : float
        The highest learning rate.
    warmup_share : float
        Share of a stage's steps spent on warming up.
    n_steps : sequence of int
        Optimizer steps of each stage.

    Example
    -------
    >>> from speechbrain.nnet.schedulers import LinearWarmupScheduler
    >>> staged = StagedSchedule(LinearWarmupScheduler, 1.0, 0.5, [4, 4])
    >>> [staged.calculate_lr(step) for step in range(1, 10)]
    [0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, schedule, rate, warmup_share, n_steps):
        self.lr0, self.n_steps = rate, n_steps
        self.stages = [
            schedule(rate, round(warmup_share * n), n) for n in n_steps
        ]

    def calculate_lr(self, step):
        """The rate of an optimizer step.

        Arguments
        ---------
        step : int
            Counted from 1, over all stages.

        Returns
        -------
        float
            The learning rate.
        """
        for stage, n in zip(self.stages[:-1], self.n_steps):
            if step <= n:
                return stage.calculate_lr(step)
            step -= n
        return self.stages[-1].calculate_lr(step)


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
    labels : list of str
        The classes.
    eval_batch_length : float
        Seconds of audio classified at once.
    """

    def __init__(
        self,
        modules,
        hparams,
        run_opts,
        grid,
        speakers,
        labels,
        eval_batch_length,
    ):
        super().__init__(modules, None, hparams, run_opts)
        self.grid, self.speakers, self.labels = grid, speakers, labels
        self.eval_batch_length = eval_batch_length

    def set_up_training(self, folder, plan):
        """What only training needs.

        Arguments
        ---------
        folder : pathlib.Path
            Where the run keeps its state; its name is the run's.
        plan : TrainingPlan
            What the training consists of.
        """
        self.title, self.plan = folder.name, plan
        self.history = History()
        networks = {
            name: module
            for name, module in self.modules.items()
            if name != "teacher"
        }
        self.checkpointer = plan.checkpointer
        self.checkpointer.add_recoverables(
            {
                **networks,
                "brain": self,
                "history": self.history,
                "counter": plan.epoch_counter,
            }
        )
        # SpeechBrain keeps it only of a Brain that was made with a checkpointer.
        if self.scaler.is_enabled():
            self.checkpointer.add_recoverable(
                "scaler", self.scaler, optional_load=True
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
        samples = self.eval_batch_length * 16000
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
        loss, terms = self.plan.losses(*predictions, only=self.active_terms)
        for name, term in terms.items():
            self.terms.setdefault(name, []).append(term)
        self.snrs.append(batch.snr.cpu())
        return loss

    @property
    def active_terms(self):
        """Two-stage training: first distillation alone, then all losses."""
        return DISTILLATION if self.distilling else None

    @property
    def distilling(self):
        """Whether the epoch is one of those without labels."""
        return self.epoch <= self.plan.distillation_epochs

    def on_stage_start(self, stage, epoch=None):
        """Sets the epoch of the noise draws and empties the statistics."""
        self.records, self.seconds_computed, self.seconds_heard = [], 0.0, 0.0
        if stage == sb.Stage.TRAIN:
            self.epoch, self.terms, self.snrs = epoch, {}, []
            # Those of the last epoch, if a checkpoint was written at its end.
            self.step, self.avg_train_loss = 0, 0.0
            for draw in self.plan.draws:
                draw.set_epoch(epoch)
            self.epoch_started = time.perf_counter()
            logger.info(
                f"{self.title}: epoch {epoch} of {self.plan.epoch_counter.limit}"
            )

    def on_fit_batch_start(self, batch, should_step):
        """Chance and learning rate are functions of the step alone."""
        rank = getattr(self, "rank", 0)
        key = (self.plan.seed, self.title, self.epoch, self.step, rank)
        torch.manual_seed(stable_seed(*key))
        for name, optimizer in self.optimizers_dict.items():
            rate = self.plan.schedules[name].calculate_lr(
                self.optimizer_step + 1
            )
            optimizer.param_groups[0]["lr"] = rate

    def init_optimizers(self):
        """One optimizer per learning rate: clipping sees one group only."""
        model = getattr(self.modules.model, "module", self.modules.model)
        head = list(model.head.parameters())
        if "projection" in self.modules:
            head += self.modules.projection.parameters()
        encoder = [p for p in model.encoder.parameters() if p.requires_grad]
        self.optimizers_dict = {
            name: self.plan.opt_class(params, lr=self.plan.schedules[name].lr0)
            for name, params in (("encoder", encoder), ("head", head))
        }
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"opt_{name}", optimizer)

    def predictions(self):
        """One row per utterance and condition."""
        return prediction_table(
            self.records, self.grid, self.labels, self.speakers
        )

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs an epoch and keeps its checkpoint."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = self.training_statistics(stage_loss)
            if self.distilling:
                self.end_epoch(epoch, {})
        elif stage == sb.Stage.VALID:
            self.end_epoch(epoch, self.validation_scores(float(stage_loss)))

    def _fit_valid(self, valid_set, epoch, enable):
        """Before labels are learned there is nothing to choose from."""
        if not self.distilling:
            super()._fit_valid(valid_set, epoch, enable)

    def training_statistics(self, loss):
        """Every loss, and the SNRs measured on what was heard."""
        stats = {"loss": float(loss)}
        for name, values in self.terms.items():
            terms = torch.stack(values).float()
            # As in the loss: a batch that was skipped does not count.
            stats[name] = terms[torch.isfinite(terms)].mean().item()
        snrs = torch.cat(self.snrs)
        noisy = snrs[torch.isfinite(snrs)]
        if len(noisy):
            stats["snr_low"] = noisy.min().item()
            stats["snr_mean"] = noisy.mean().item()
            stats["snr_high"] = noisy.max().item()
            stats["clean_share"] = 1 - len(noisy) / len(snrs)
        return stats

    def validation_scores(self, loss):
        """Loss, UA and WA: means over what validation speech was heard under."""
        scores = summarize(self.predictions(), self.labels, self.grid)
        means = {
            name: sum(score[name] for score in scores) / len(scores)
            for name in ("UA", "WA")
        }
        return {"loss": loss, **means}

    def end_epoch(self, epoch, valid):
        """Logs an epoch and keeps its checkpoint.

        Arguments
        ---------
        epoch : int
            The epoch.
        valid : dict
            From `validation_scores`; empty while distilling, and such an epoch
            is never the one chosen.
        """
        meta = {"epoch": epoch}
        for name, optimizer in self.optimizers_dict.items():
            meta[f"lr_{name}"] = optimizer.param_groups[0]["lr"]
        for train_logger in self.plan.loggers:
            train_logger.log_stats(meta, self.train_stats, valid_stats=valid)
        seconds = time.perf_counter() - self.epoch_started
        self.history.append(
            {
                "epoch": epoch,
                "seconds": seconds,
                **self.train_stats,
                **{f"valid_{name}": value for name, value in valid.items()},
            }
        )
        if valid:
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
        """What the teacher says of the clean signals, once of each."""

        def ask(i):
            """The teacher's hidden states and logits of one of them."""
            signals, lengths = batch.clean
            n_samples = round(lengths[i].item() * signals.shape[1])
            alone = signals[i : i + 1, :n_samples]
            features, logits = self.modules.teacher(alone)
            return features[:, 0], logits[0]

        targets = self.targets.get(batch.key, ask)
        return [target.to(self.device) for target in targets]
