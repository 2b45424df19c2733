"""The report of several runs as text, and its place in a README."""

import re

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.results import noisy_mean
from mlkd_lobes.evaluation.tables import systems_table

END = "<!-- end of report -->"


def report_text(runs):
    """Tables of UA and WA, one row per run, worst in noise first.

    Arguments
    ---------
    runs : sequence of dict
        Their results, all of one fold, seed and set of conditions.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    mlkd_lobes.errors.InputError
        If the runs are not comparable.
    """
    first = runs[0]
    for run in runs:
        for key in ("corpus", "protocol", "fold", "seed"):
            if run[key] != first[key]:
                raise InputError(
                    f"{run['system']}: {key} {run[key]}, but {first[key]} in "
                    f"{first['system']}; give folders of one {key}"
                )
        if _grid(run) != _grid(first):
            raise InputError(
                f"{run['system']} was evaluated under other conditions than "
                f"{first['system']}"
            )
    runs = sorted(runs, key=noisy_mean)
    n = first["conditions"][0]["n"]
    where = (
        f"{first['corpus']}, {first['protocol']}, fold {first['fold']}, seed "
        f"{first['seed']}: {n} test utterances per condition. A noise type's "
        'column is the mean over its SNRs, "noisy" the mean over the types '
        "met in training."
    )
    return "\n\n".join(
        [where, systems_table(runs, "UA"), systems_table(runs, "WA")]
    )


def _grid(run):
    return [(c["noise"], c["snr_db"], c["n"]) for c in run["conditions"]]


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
