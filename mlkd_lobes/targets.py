"""A cache of what the teacher says of clean speech.

The teacher is frozen and its features are length-exact, so the targets of a clean
signal never change: they are computed when it is first met and read from disk
from then on, one file per signal, written whole or not at all. The
files are in half precision, and so is what is returned when they are written:
the first epoch sees the same numbers as all others.
"""

import hashlib
import pathlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from mlkd_lobes.files import atomic_path, text_sha256


class TargetCache:
    """Targets of a teacher, kept in a folder.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to keep them.
    teacher_sha256 : str
        Hash of the teacher's weights.
    levels : sequence of int
        The levels they come from.

    Example
    -------
    >>> cache = TargetCache(getfixture("tmp_path"), "4f", [1, 2])
    >>> features = torch.rand(2, 1, 9, 16)
    >>> out = cache.put(["a"], features, torch.rand(1, 4), torch.tensor([9]))
    >>> torch.equal(out[0], cache.get(["a"])[0])
    True
    >>> cache.get(["a", "b"]) is None
    True
    """

    def __init__(self, folder, teacher_sha256, levels):
        # Other weights or levels mean another folder: an old cache is never
        # met by a changed teacher.
        key = text_sha256([teacher_sha256, list(levels)])
        self.folder = pathlib.Path(folder) / key[:16]

    # Under autocast a CPU cannot stack half precision.
    @torch.autocast("cpu", enabled=False)
    def get(self, ids):
        """Targets of a batch, if all of them are there.

        Arguments
        ---------
        ids : sequence of str
            Names of clean signals.

        Returns
        -------
        tuple of torch.Tensor, or None
            `features` [levels, batch, frames, width] (0 where padded) and
            `logits` [batch, classes], in half precision.
        """
        entries = [_read(self._path(utterance)) for utterance in ids]
        if None in entries:
            return None
        features = pad_sequence(
            [entry["features"].transpose(0, 1) for entry in entries],
            batch_first=True,
        )
        logits = torch.stack([entry["logits"] for entry in entries])
        return features.permute(2, 0, 1, 3), logits

    def put(self, ids, features, logits, n_frames):
        """Keeps the targets of a batch; those there already stay as they are.

        Arguments
        ---------
        ids : sequence of str
            Names of clean signals.
        features : torch.Tensor
            Hidden states [levels, batch, frames, width].
        logits : torch.Tensor
            Logits [batch, classes].
        n_frames : torch.Tensor
            True frames [batch].

        Returns
        -------
        tuple of torch.Tensor
            What `get` returns from now on.
        """
        features = features.detach().to("cpu", torch.float16)
        logits = logits.detach().to("cpu", torch.float16)
        for i, (utterance, n) in enumerate(zip(ids, n_frames.tolist())):
            if self._path(utterance).exists():
                continue
            entry = {
                "features": features[:, i, :n].contiguous(),
                "logits": logits[i].contiguous(),
            }
            with atomic_path(self._path(utterance)) as temporary:
                save_file(entry, temporary)
        return self.get(ids)

    def _path(self, utterance):
        # Names in a corpus may hold anything; hashes are safe file names.
        name = hashlib.sha256(utterance.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"


def _read(path):
    """Targets of a signal; None if they are not there, or damaged."""
    try:
        return load_file(path) if path.exists() else None
    except SafetensorError:
        path.unlink()
        return None
