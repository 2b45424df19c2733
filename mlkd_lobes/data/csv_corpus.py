"""Any corpus with a CSV file: the rows of manifest.csv.

Columns: path, speaker, emotion and optionally session, gender, start, end
(seconds), text (the words spoken) and split.
"""

from collections import Counter

from mlkd_lobes.errors import InputError, check_choice, check_columns
from mlkd_lobes.files import composed, read_csv, spelled

REQUIRED = ("path", "speaker", "emotion")
COLUMNS = REQUIRED + ("session", "gender", "start", "end", "text", "split")


def read_manifest_csv(manifest, columns):
    """Rows of manifest.csv under this recipe's column names.

    Arguments
    ---------
    manifest : pathlib.Path
        The file.
    columns : dict
        Maps the file's column names to the names above.

    Returns
    -------
    list of dict
        One per utterance, with `where` for messages.

    Raises
    ------
    InputError
        If the file is not as described.
    """
    for name in columns.values():
        check_choice("columns", name, COLUMNS, "column")
    rows = read_csv(manifest, required=list(columns))
    if not rows:
        raise InputError(f"{manifest}: has no rows")
    renamed = Counter(columns.get(name, name) for name in rows[0])
    twice = [name for name, n in renamed.items() if n > 1]
    if twice:
        raise InputError(
            f"columns: {manifest} would have several columns {', '.join(twice)}"
        )
    kept = {k: n for k in rows[0] if (n := columns.get(k, k)) in COLUMNS}
    rows = [{name: row[k] for k, name in kept.items()} for row in rows]
    check_columns(f"columns: {manifest}", REQUIRED, renamed)
    for number, row in enumerate(rows, start=2):
        row["where"] = f"{manifest}, line {number}"
        row["path"] = spelled(manifest.parent, row["path"])
        for name in {"speaker", "session", "emotion"} & {*row}:
            row[name] = composed(row[name])
    return rows
