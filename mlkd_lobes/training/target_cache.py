"""A disk cache of the teacher's targets for clean speech.

The teacher is frozen, so the targets of a clean signal never change: they are
computed once and read from disk from then on, one file per signal, written
atomically. Files are in half precision, and so are targets that were just
computed: they are used as they will be read.
"""

import hashlib
import math
import pathlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from mlkd_lobes.errors import InputError
from mlkd_lobes.files import atomic_path, text_sha256
from mlkd_lobes.training.checkpoints import n_processes


class TargetCache:
    """Targets of a teacher in a folder.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where they are stored.
    teacher_sha256 : str
        Hash of the teacher's weights.
    levels : sequence of int
        The levels they come from.
    limit : float
        Gigabytes to store at most; targets that do not fit are computed each
        time.

    Example
    -------
    >>> cache = TargetCache(getfixture("tmp_path"), "4f", [1, 2])
    >>> computed = [(torch.rand(2, n, 16), torch.rand(4)) for n in (9, 5)]
    >>> features, logits = cache.get(["a", "b"], lambda places: computed)
    >>> features.shape, logits.shape
    (torch.Size([2, 2, 9, 16]), torch.Size([2, 4]))
    >>> again = cache.get(["a", "b"], lambda places: "not called")
    >>> torch.equal(again[0], features)
    True
    """

    def __init__(self, folder, teacher_sha256, levels, limit=math.inf):
        # Other weights or levels mean another folder: a changed teacher never
        # uses an old cache.
        key = text_sha256([teacher_sha256, list(levels)])
        self.folder = pathlib.Path(folder) / key[:16]
        self.levels = levels
        stored = self.folder.rglob("*.safetensors")
        used = sum(path.stat().st_size for path in stored)
        # Every process fills its part.
        self.room = (limit * 1e9 - used) / n_processes()

    def get(self, ids, compute, device="cpu"):
        """Targets of a batch.

        Arguments
        ---------
        ids : sequence of str
            Names of clean signals, some perhaps twice.
        compute : callable
            Takes the places in the batch of signals that are missing or
            damaged; gives hidden states [levels, frames, width] and logits
            [classes] of each, which are stored.
        device : str
            Where the targets are wanted.

        Returns
        -------
        features : torch.Tensor
            Hidden states [levels, batch, frames, width], 0 where padded, in
            half precision.
        logits : torch.Tensor
            Logits [batch, classes] in half precision.
        """
        paths = [self._path(name) for name in ids]
        # A signal may come twice.
        entries = {path: _read(path, device) for path in paths}
        missing = [p for p, entry in entries.items() if entry is None]
        if missing:
            computed = compute([paths.index(path) for path in missing])
            for path, targets in zip(missing, computed):
                entries[path] = self._write(path, *targets)
        return _batch([entries[path] for path in paths])

    def _write(self, path, features, logits):
        """Stores targets if there is room; returns them as they would be read."""
        entry = {
            name: tensor.detach().half().contiguous()
            for name, tensor in (("features", features), ("logits", logits))
        }
        for level, states in zip(self.levels, entry["features"]):
            if not states.isfinite().all():
                raise InputError(
                    f"kd_levels: the teacher's hidden states of level {level} "
                    "are not finite, or beyond the range of half precision, in "
                    "which they are stored; choose other levels"
                )
        size = sum(t.numel() * t.element_size() for t in entry.values())
        if size <= self.room:
            with atomic_path(path) as temporary:
                save_file(entry, temporary)
            self.room -= path.stat().st_size
        return entry

    def _path(self, utterance):
        # Names in a corpus may hold anything; hashes are safe file names.
        name = hashlib.sha256(utterance.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"


def _read(path, device):
    """Targets of a signal; None if they are missing or damaged."""
    try:
        entry = load_file(path) if path.exists() else None
    except SafetensorError:
        path.unlink(missing_ok=True)
        return None
    return entry and {name: t.to(device) for name, t in entry.items()}


# Under autocast a CPU cannot stack half precision.
@torch.autocast("cpu", enabled=False)
def _batch(entries):
    """Features [levels, batch, frames, width] and logits of several signals."""
    features = pad_sequence(
        [entry["features"].transpose(0, 1) for entry in entries],
        batch_first=True,
    )
    logits = torch.stack([entry["logits"] for entry in entries])
    return features.permute(2, 0, 1, 3), logits
