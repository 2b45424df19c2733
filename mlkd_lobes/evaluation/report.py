"""The report of several runs as text, and its place in a README."""

import re

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.tables import comparisons_table, systems_table

# Below so many a bootstrap over speakers promises too much.
FEW_SPEAKERS = 10
END = "<!-- end of report -->"


def report_text(systems, about):
    """Tables of UA and WA, one row per system, worst in noise first.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.summary.System
        From `pool`.
    about : dict
        results.json of one of their runs.

    Returns
    -------
    str
        Markdown.
    """
    folds = sorted({fold for system in systems for fold in system.folds})
    table = next(iter(systems[-1].seeds.values()))
    n, speakers = table["id"].nunique(), table["speaker"].nunique()
    where = (
        f"{about['corpus']}, {about['protocol']}, fold(s) "
        f"{', '.join(map(str, folds))}: {n} test utterances of {speakers} "
        "speakers under every condition, folds pooled, mean over seeds. A "
        'noise type\'s column is the mean over its SNRs, "noisy" the mean over '
        "the types met in training. Intervals draw speakers anew; p is that of "
        "a sign-flip test over speakers."
    )
    if speakers < FEW_SPEAKERS:
        where += f" Of {speakers} speakers, intervals are too narrow."
    parts = [where, systems_table(systems), comparisons_table(systems)]
    parts.append(systems_table(systems, "WA"))
    return "\n\n".join(part for part in parts if part)


def update_text(text, folder, report):
    """Puts a report between its marks.

    Arguments
    ---------
    text : str
        Of a README.
    folder : str
        Names the marks: <!-- report: FOLDER --> and <!-- end of report -->.
    report : str
        What belongs there.

    Returns
    -------
    str
        The new text.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If the marks are not there, once.

    Example
    -------
    >>> old = "<!-- report: x -->\\nold\\n<!-- end of report -->"
    >>> print(update_text(old, "x", "new"))
    <!-- report: x -->
    new
    <!-- end of report -->
    """
    begin = f"<!-- report: {folder} -->"
    pattern = re.escape(begin) + r"\n.*?" + re.escape(END)
    found = re.findall(pattern, text, flags=re.DOTALL)
    if len(found) != 1:
        raise InputError(f"expected one '{begin} … {END}', found {len(found)}")
    return text.replace(found[0], f"{begin}\n{report}\n{END}")
