"""Calibrated probabilities: the temperature of a model.

A temperature divides the logits: it changes how sure a model is, not what it
predicts (Guo et al., arXiv 1706.04599).
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

# Stored probabilities have six digits; others are not below float32's smallest.
MIN_STORED, SMALLEST = 1e-6, 1e-38
# Bounds of the temperature's logarithm: 0.25 to 20.
RANGE = (np.log(0.25), np.log(20))


def probabilities_of(predictions, labels):
    """Probabilities and true classes of a table of predictions.

    Arguments
    ---------
    predictions : pandas.DataFrame
        As `mlkd_lobes.evaluation.results.prediction_table` makes it.
    labels : sequence of str
        The classes, in order.

    Returns
    -------
    probabilities : numpy.ndarray
        [rows, classes], as stored, zeros raised to 1e-6.
    truth : numpy.ndarray
        Index of the true class [rows].
    """
    columns = [f"p_{label}" for label in labels]
    places = {label: i for i, label in enumerate(labels)}
    truth = predictions["true"].map(places).to_numpy()
    found = predictions[columns].to_numpy(float)
    return np.maximum(found, MIN_STORED), truth


def probabilities_of_records(records):
    """Probabilities and true classes of a Brain's records, not rounded.

    Arguments
    ---------
    records : sequence of mlkd_lobes.evaluation.results.Record
        One per utterance.

    Returns
    -------
    probabilities : numpy.ndarray
        [rows, classes].
    truth : numpy.ndarray
        Index of the true class [rows].
    """
    found = [np.asarray(own.probabilities, float) for own in records]
    labels = [own.label for own in records]
    return np.concatenate(found), np.repeat(labels, list(map(len, found)))


def cross_entropy(records):
    """Mean cross-entropy of a Brain's records.

    Arguments
    ---------
    records : sequence of mlkd_lobes.evaluation.results.Record
        One per utterance.

    Returns
    -------
    float
        In nats.
    """
    found, truth = probabilities_of_records(records)
    return float(-_logits(found)[np.arange(len(truth)), truth].mean())


def soften(probabilities, temperature):
    """Probabilities at a temperature.

    Arguments
    ---------
    probabilities : numpy.ndarray
        [rows, classes], at temperature 1.
    temperature : float or numpy.ndarray
        Of all rows, or of each [rows, 1].

    Returns
    -------
    numpy.ndarray
        [rows, classes].

    Example
    -------
    >>> soften(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.667, 0.333]]
    """
    return softmax(_logits(probabilities) / temperature, axis=-1)


def _logits(probabilities):
    """Logits, up to a constant per row."""
    return np.log(np.maximum(probabilities, SMALLEST))


def fit_temperature(probabilities, truth):
    """The temperature at which the true classes are most likely.

    Arguments
    ---------
    probabilities : numpy.ndarray
        [rows, classes].
    truth : numpy.ndarray
        Index of the true class [rows].

    Returns
    -------
    float
        Above 1 for an overconfident model.
    """
    rows, logits = np.arange(len(truth)), _logits(probabilities)

    def loss(logarithm):
        """Mean negative log likelihood."""
        scaled = log_softmax(logits / np.exp(logarithm), axis=-1)
        return -scaled[rows, truth].mean()

    found = minimize_scalar(loss, bounds=RANGE, method="bounded")
    return float(np.exp(found.x))
