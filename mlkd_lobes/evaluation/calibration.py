"""Whether probabilities can be trusted: temperature, calibration error, coverage.

A temperature divides the logits: it changes how sure a model is, not what it
predicts (Guo et al., arXiv 1706.04599).
"""

import numpy as np
from scipy.optimize import minimize_scalar

# Probabilities below are taken for it.
LEAST = 1e-30
# Bounds of the temperature's logarithm: 0.25 to 20.
RANGE = (np.log(0.25), np.log(20))
BINS = 15


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
        [rows, classes].
    truth : numpy.ndarray
        Index of the true class [rows].
    """
    columns = [f"p_{label}" for label in labels]
    places = {label: i for i, label in enumerate(labels)}
    truth = predictions["true"].map(places).to_numpy()
    return predictions[columns].to_numpy(float), truth


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
    logits = np.log(np.maximum(probabilities, LEAST)) / temperature
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


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
        Above 1 where the model is too sure.
    """
    rows = np.arange(len(truth))

    def loss(logarithm):
        """Mean negative log likelihood."""
        chosen = soften(probabilities, np.exp(logarithm))[rows, truth]
        return -np.log(np.maximum(chosen, LEAST)).mean()

    found = minimize_scalar(loss, bounds=RANGE, method="bounded")
    return float(np.exp(found.x))


def calibration_error(probabilities, truth):
    """Expected calibration error: how far confidence is from accuracy.

    Arguments
    ---------
    probabilities : numpy.ndarray
        [rows, classes].
    truth : numpy.ndarray
        Index of the true class [rows].

    Returns
    -------
    float
        Mean over rows of the difference between the mean confidence and the
        accuracy of their bin, one of 15 of equal width.

    Example
    -------
    >>> p = np.array([[0.9, 0.1], [0.9, 0.1]])
    >>> round(calibration_error(p, np.array([0, 1])), 3)
    0.4
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right, BINS)
    return float(np.abs(gaps).sum() / len(truth))


def accuracy_over_coverage(probabilities, truth):
    """Accuracy of the most confident predictions.

    Arguments
    ---------
    probabilities : numpy.ndarray
        [rows, classes].
    truth : numpy.ndarray
        Index of the true class [rows].

    Returns
    -------
    order : numpy.ndarray
        Rows from the most to the least confident.
    accuracy : numpy.ndarray
        Of the first rows, for every number of them.
    """
    order = np.argsort(-probabilities.max(1), kind="stable")
    right = (probabilities.argmax(1) == truth)[order]
    return order, right.cumsum() / np.arange(1, len(order) + 1)
