"""The report of several runs as text, and its place in a README."""

import re

from mlkd_lobes.errors import InputError
from mlkd_lobes.evaluation.statistics import seeds_interval
from mlkd_lobes.evaluation.summary import (
    BASELINE,
    MULTI_LEVEL,
    PRIMARY,
    TEACHER,
    comparable_seeds,
    consistency_interval,
    contrast,
    contrasts,
    score,
    seen_noise,
)
from mlkd_lobes.evaluation.tables import (
    between,
    consistency_table,
    contrasts_table,
    markdown,
    recall_table,
    systems_table,
)
from mlkd_lobes.noise import CLEAN

# Below so many no interval over speakers is to be trusted.
FEW_SPEAKERS = 8
END = "<!-- end of report -->"


def setting(systems, about, left_out=()):
    """What the figures of a report were measured on, in words.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.
    about : dict
        results.json of one of their runs.
    left_out : sequence of str
        Runs that were left out, in words.

    Returns
    -------
    str
        A paragraph.
    """
    folds = sorted({fold for system in systems for fold in system.folds})
    table = next(iter(systems[-1].seeds.values()))
    n, speakers = table["id"].nunique(), table["speaker"].nunique()
    text = (
        f"{about['corpus']}, {about['protocol']}, fold(s) "
        f"{', '.join(map(str, folds))}: {n} test utterances of {speakers} "
        "speakers under every condition, folds pooled, mean over seeds; chance "
        f"is {100 / len(about['labels']):.1f} % UA. A noise type's column is "
        'the mean over its SNRs, "noisy" the mean over the types met in '
        "training. The 95 % intervals draw speakers anew, p is that of a "
        "sign-flip test over speakers: both are about these trained models. "
        'A difference is taken over the seeds that both systems have; "runs '
        'better" counts the folds and seeds in which the first one is ahead.'
    )
    asked = contrasts(systems)
    if any(len(entry.seeds) > 1 for entry in asked):
        text += (
            " What another training would bring is what "
            '"over seeds" is about, a 95 % interval of the mean over seeds: '
            "of few of them a wide one."
        )
    if any(
        (entry.one, entry.other, entry.under) == (PRIMARY, BASELINE, "noisy")
        for entry in asked
    ):
        text += (
            f" The main comparison is {PRIMARY} − {BASELINE} in noise; the "
            "others are not corrected for their number."
        )
    if left_out:
        text += (
            f" Left out, so that all have the same folds: "
            f"{'; '.join(left_out)}."
        )
    if speakers < FEW_SPEAKERS:
        text += f" Intervals over {speakers} speakers are not to be trusted."
    elif rare := _rare_classes(systems[-1]):
        text += (
            f" Intervals are not to be trusted: fewer than {FEW_SPEAKERS} "
            f"speakers were tested on {', '.join(rare)}."
        )
    return text


def _rare_classes(system):
    """Classes of which many draws of speakers have none, or the same few."""
    speakers = (system.counts.total.sum(1) > 0).sum(0)
    return [
        label
        for label, n in zip(system.labels, speakers)
        if 0 < n < FEW_SPEAKERS
    ]


def answer(systems):
    """What distillation gains in noise, in words.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    str, or None
        A sentence; None if the two systems were not compared.
    """
    named = {system.name: system for system in systems}
    if not {PRIMARY, BASELINE} <= named.keys():
        return None
    asked = contrast(named[PRIMARY], named[BASELINE])
    if asked is None:
        return None
    found, ahead = asked.found, sum(gain > 0 for gain in asked.per_run)
    return (
        f"{PRIMARY} − {BASELINE} in noise: {100 * found.difference:+.1f} points "
        f"of UA (95 % interval over speakers "
        f"{between(found.low, found.high, '+.1f')}, over seeds "
        f"{between(*seeds_interval(found.per_seed), '+.1f')}), ahead in "
        f"{ahead} of {len(asked.per_run)} runs."
    )


def aims(systems):
    """What the multi-level students keep, in words.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    list of str
        Of each its consistency at the highest SNR, and its clean UA as a share
        of the teacher's, both over the seeds that the two have; none without
        such seeds, without student, teacher or noise.
    """
    named = {system.name: system for system in systems}
    if TEACHER not in named or not seen_noise(systems[0]):
        return []
    students = [named[name] for name in MULTI_LEVEL if name in named]
    kept = [_kept(student, named[TEACHER]) for student in students]
    return list(filter(None, kept))


def _kept(student, teacher):
    """What a student keeps of its answers in noise, and of its teacher's UA."""
    seeds = comparable_seeds(student, teacher)
    if not seeds:
        return None
    snr = max(condition.snr_db for condition in seen_noise(student))
    part = seen_noise(student, snr=snr)
    same, of_teacher = (
        f"{100 * score(system, part, 'consistency', seeds=seeds):.1f} %"
        for system in (student, teacher)
    )
    clean = score(student, [CLEAN], seeds=seeds)
    clean /= score(teacher, [CLEAN], seeds=seeds)
    return (
        f"At {snr:g} dB {student.name} says of {same} of the utterances what "
        "it says of them without noise (95 % interval "
        f"{between(*consistency_interval(student, part, seeds))}), the "
        f"teacher of {of_teacher}. On clean speech its UA is "
        f"{100 * clean:.1f} % of the teacher's."
    )


def tables(systems):
    """All tables of a report.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.

    Returns
    -------
    list of mlkd_lobes.evaluation.tables.Table
        One row per system, worst in noise first; none is empty.
    """
    found = [
        systems_table(systems),
        contrasts_table(systems),
        systems_table(systems, "WA"),
        systems_table(systems, "F1"),
        recall_table(systems),
        consistency_table(systems),
    ]
    return [table for table in found if table.rows]


def report_text(systems, about, short=False, left_out=()):
    """What was measured, and the tables.

    Arguments
    ---------
    systems : sequence of mlkd_lobes.evaluation.pooling.System
        From `pool`.
    about : dict
        results.json of one of their runs.
    short : bool
        Only UA and its differences, for a README.
    left_out : sequence of str
        Runs that were left out, in words.

    Returns
    -------
    str
        Markdown.
    """
    chosen = [table for table in tables(systems) if not short or _is_ua(table)]
    parts = [markdown(*table) for table in chosen]
    parts += aims(systems)
    return "\n\n".join([setting(systems, about, left_out), *parts])


def _is_ua(table):
    return table.header[0].startswith("UA")


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
    # Never across another report, should an end mark be lost.
    within = r"\n(?:(?!<!-- report:).)*?"
    pattern = re.escape(begin) + within + re.escape(END)
    found = re.findall(pattern, text, flags=re.DOTALL)
    if len(found) != 1:
        raise InputError(f"expected one '{begin} … {END}', found {len(found)}")
    return text.replace(found[0], f"{begin}\n{report}\n{END}")
