"""Multi-level distillation: the projection of the student, and the losses.

Several layers of the teacher supervise the student's single last hidden state:
one small head per teacher level maps it to that level's hidden states of the
clean signal. The heads are dropped after training.

Every loss is a module with the same call, `loss(student, targets)`, returning one
value per utterance and a mask of the utterances it applies to. So the loss of an
utterance depends neither on padding nor on the rest of the batch.
"""

from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from mlkd_lobes.errors import InputError, check_choice
from speechbrain.dataio.dataio import length_to_mask


class Student(namedtuple("Student", ["logits", "features", "n_frames"])):
    """Student outputs for noisy speech.

    `logits` [batch, classes]; `features` [levels, batch, frames, teacher width],
    its projections, or None; `n_frames` [batch].
    """


class Targets(namedtuple("Targets", ["labels", "features", "logits"])):
    """Training targets.

    `labels` [batch], -1 where unknown; `features` like the student's and `logits`
    [batch, classes] from the teacher on clean speech, or None.
    """


# Losses that need a teacher, and no label.
DISTILLATION = ("features", "logits")


def needs_teacher(weights):
    """Whether a loss needs a teacher.

    Arguments
    ---------
    weights : dict
        Weight of each named loss.

    Returns
    -------
    bool
        True if one of `DISTILLATION` has a weight.
    """
    return any(weights.get(name) for name in DISTILLATION)


def resolve_levels(levels, n_layers):
    """Turns requested levels into layer numbers.

    Arguments
    ---------
    levels : list of int, or None
        Level l is the output of transformer layer l, 0 what enters layer 1;
        negative ones count from the end (-1 is the last); None: a third, two
        thirds and all of the layers.
    n_layers : int
        Transformer layers of the teacher.

    Returns
    -------
    list of int
        Levels in [0, n_layers], as ordered by the user.

    Raises
    ------
    InputError
        If a level does not exist or comes twice.

    Example
    -------
    >>> resolve_levels([-1], 12)
    [12]
    >>> resolve_levels(None, 12)
    [4, 8, 12]
    """
    if levels is None:
        thirds = (round(n_layers / 3), round(2 * n_layers / 3), n_layers)
        return sorted({max(1, level) for level in thirds})
    known = f"this encoder has levels 0 to {n_layers} (-1 is the last)"
    if not isinstance(levels, (list, tuple)) or not levels:
        raise InputError(f"kd_levels: {levels!r} is not a list; {known}")
    for level in levels:
        if not isinstance(level, int) or not -n_layers <= level <= n_layers:
            raise InputError(f"kd_levels: no level {level!r}; {known}")
    levels = [n_layers + 1 + lv if lv < 0 else lv for lv in levels]
    if len(set(levels)) < len(levels):
        raise InputError(f"kd_levels: {levels} names a level twice; {known}")
    return levels


class MultiLevelProjection(nn.Module):
    """One head per teacher level: p_l = W_l GELU(V_l h).

    Arguments
    ---------
    student_width : int
        Dimension of the student's hidden states.
    teacher_width : int
        Dimension of the teacher's.
    levels : sequence of int
        The teacher's levels.

    Example
    -------
    >>> projection = MultiLevelProjection(16, 24, levels=[4, 8, 12])
    >>> projection(torch.rand(2, 9, 16)).shape
    torch.Size([3, 2, 9, 24])
    """

    def __init__(self, student_width, teacher_width, levels):
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                str(level): nn.Sequential(
                    nn.Linear(student_width, student_width),
                    nn.GELU(),
                    nn.Linear(student_width, teacher_width),
                )
                for level in levels
            }
        )

    def forward(self, hidden):
        """Projects the student's last hidden state to each level.

        Arguments
        ---------
        hidden : torch.Tensor
            Hidden states [batch, frames, student width].

        Returns
        -------
        torch.Tensor
            Predictions [levels, batch, frames, teacher width].
        """
        return torch.stack([head(hidden) for head in self.heads.values()])


def mean_over_frames(values, n_frames):
    """Mean over each utterance's valid frames.

    Arguments
    ---------
    values : torch.Tensor
        One value per frame [..., batch, frames].
    n_frames : torch.Tensor
        True frames [batch].

    Returns
    -------
    torch.Tensor
        Means [..., batch].

    Example
    -------
    >>> values = torch.tensor([[1.0, 3.0], [5.0, 100.0]])
    >>> mean_over_frames(values, torch.tensor([2, 1]))
    tensor([2., 5.])
    """
    mask = length_to_mask(n_frames, values.shape[-1], dtype=values.dtype)
    return (values * mask).sum(-1) / n_frames.to(values.dtype)


class EmotionLoss(nn.Module):
    """Cross-entropy with the labels; label -1 is ignored."""

    def forward(self, student, targets):
        """Loss per utterance.

        Arguments
        ---------
        student : Student
            Its `logits` are used.
        targets : Targets
            Its `labels` are used.

        Returns
        -------
        loss : torch.Tensor
            Values [batch], 0 where there is no label.
        known : torch.Tensor
            Booleans [batch].
        """
        loss = F.cross_entropy(
            student.logits.float(),
            targets.labels,
            ignore_index=-1,
            reduction="none",
        )
        return loss, targets.labels >= 0


class FeatureLoss(nn.Module):
    """Distance of the projections from the teacher's hidden states.

    Per frame and level mean|p - z| - w log sigmoid(cos(p, z)), the loss of
    DistilHuBERT (arXiv 2110.01900): L1 averaged over the dimensions, levels
    weighted equally, raw targets.

    Arguments
    ---------
    cosine_weight : float
        The weight w.
    """

    def __init__(self, cosine_weight=1.0):
        super().__init__()
        self.cosine_weight = cosine_weight

    def forward(self, student, targets):
        """Loss per utterance.

        Arguments
        ---------
        student : Student
            Its `features` and `n_frames` are used.
        targets : Targets
            Its `features` are used.

        Returns
        -------
        loss : torch.Tensor
            Values [batch].
        known : torch.Tensor
            Booleans [batch], all true.
        """
        predicted, wanted = student.features.float(), targets.features.float()
        distance = (predicted - wanted).abs().mean(-1)
        cosine = F.cosine_similarity(predicted, wanted, dim=-1)
        per_frame = distance - self.cosine_weight * F.logsigmoid(cosine)
        loss = mean_over_frames(per_frame, student.n_frames).mean(0)
        return loss, torch.ones_like(loss, dtype=torch.bool)


class LogitLoss(nn.Module):
    """T^2 KL(teacher || student) of softened posteriors (Hinton et al., 2015).

    Arguments
    ---------
    temperature : float
        The temperature T, above 0.
    """

    def __init__(self, temperature=2.0):
        super().__init__()
        self.temperature = temperature

    def forward(self, student, targets):
        """Loss per utterance.

        Arguments
        ---------
        student : Student
            Its `logits` are used.
        targets : Targets
            Its `logits` are used.

        Returns
        -------
        loss : torch.Tensor
            Values [batch].
        known : torch.Tensor
            Booleans [batch], all true.
        """
        predicted = F.log_softmax(student.logits.float() / self.temperature, -1)
        wanted = F.log_softmax(targets.logits.float() / self.temperature, -1)
        divergence = F.kl_div(
            predicted, wanted, reduction="none", log_target=True
        )
        loss = self.temperature**2 * divergence.sum(-1)
        return loss, torch.ones_like(loss, dtype=torch.bool)


class WeightedLosses(nn.Module):
    """The sum of named losses, each times its weight.

    Arguments
    ---------
    losses : dict of str to torch.nn.Module
        The known losses.
    weights : dict of str to float
        Their weights; a loss without one, or with 0, is not computed.

    Example
    -------
    >>> losses = WeightedLosses({"emotion": EmotionLoss()}, {"emotion": 1.0})
    >>> student = Student(torch.zeros(2, 4), None, torch.tensor([9, 5]))
    >>> total, terms = losses(
    ...     student, Targets(torch.tensor([0, -1]), None, None)
    ... )
    >>> round(terms["emotion"].item(), 3)
    1.386
    """

    def __init__(self, losses, weights):
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        for name in weights:
            check_choice("loss_weights", name, losses, "loss")
        self.weights = {n: weights[n] for n in losses if weights.get(n)}
        if not self.weights:
            raise InputError("loss_weights: every weight is 0")

    def forward(self, student, targets, only=None):
        """The weighted sum, and its terms.

        Arguments
        ---------
        student : Student
            Student outputs.
        targets : Targets
            Training targets.
        only : collection of str, optional
            Names to restrict the sum to (first stage of two).

        Returns
        -------
        total : torch.Tensor
            A scalar.
        terms : dict of str to torch.Tensor
            Each loss, without weight and gradient, mean over the utterances
            it applies to.
        """
        # DDP wants a gradient of every output.
        total, terms = student.logits.sum() * 0.0, {}
        if student.features is not None:
            total = total + student.features.sum() * 0.0
        for name, weight in self.weights.items():
            if only is not None and name not in only:
                continue
            values, known = self.losses[name](student, targets)
            term = (values * known).sum() / known.sum().clamp(min=1)
            total = total + weight * term
            terms[name] = term.detach()
        return total, terms
