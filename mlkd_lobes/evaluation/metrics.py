"""Metrics of the field, by scikit-learn.

WA, weighted accuracy, is plain accuracy; UA, unweighted accuracy, the mean of
the classes' recalls; F1 the mean of their F1 scores. Classes that do not occur
in the truth are left out of these means.
"""

import warnings

import numpy as np
from sklearn import metrics

from mlkd_lobes.errors import InputError


def emotion_metrics(true, predicted, labels):
    """All metrics of one condition.

    Arguments
    ---------
    true : sequence of str
        The emotions.
    predicted : sequence of str
        What was said.
    labels : sequence of str
        All classes, in order.

    Returns
    -------
    dict
        `n`, `WA`, `UA`, `F1` and `recall` per class (None where the class
        does not occur) as fractions, `confusion` with the truth as rows.

    Example
    -------
    >>> result = emotion_metrics(["a", "a", "b"], ["a", "b", "b"], ["a", "b"])
    >>> round(result["WA"], 3), result["UA"], result["confusion"]
    (0.667, 0.75, [[1, 1], [0, 1]])
    """
    if len(true) == 0:
        raise InputError("there is no utterance to compute metrics of")
    labels = list(labels)
    confusion = metrics.confusion_matrix(true, predicted, labels=labels)
    counts = confusion.sum(1)
    present = [label for label, n in zip(labels, counts) if n]
    with warnings.catch_warnings():
        # A class predicted but not present is no error here.
        warnings.simplefilter("ignore", UserWarning)
        ua = metrics.balanced_accuracy_score(true, predicted)
    recall = np.diag(confusion) / np.maximum(counts, 1)
    return {
        "n": int(counts.sum()),
        "WA": float(metrics.accuracy_score(true, predicted)),
        "UA": float(ua),
        "F1": float(
            metrics.f1_score(
                true,
                predicted,
                labels=present,
                average="macro",
                zero_division=0,
            )
        ),
        "recall": {
            label: float(r) if n else None
            for label, r, n in zip(labels, recall, counts)
        },
        "confusion": confusion.tolist(),
    }


def consistency(predicted, clean):
    """Share of predictions that noise leaves as they were.

    Arguments
    ---------
    predicted : sequence of str
        Predictions under a condition.
    clean : sequence of str
        Predictions for the same utterances without noise.

    Returns
    -------
    float
        In [0, 1].

    Example
    -------
    >>> consistency(["a", "b"], ["a", "a"])
    0.5
    """
    return float(np.mean(np.asarray(predicted) == np.asarray(clean)))
