"""A run's export, and speech to try it on."""

import pytest
import soundfile
import torch
from helpers import seeded, write_wav

from mlkd_lobes.cli import main
from mlkd_lobes.deployment import parity


@pytest.fixture(scope="session")
def run_folder(finished):
    return finished.arguments["output_folder"] / "mlkd"


@pytest.fixture(scope="session")
def exported(run_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "out"
    with pytest.MonkeyPatch.context() as patch:
        # Two epochs on seconds of speech: every answer is close to a draw.
        patch.setattr(parity, "INT8_LIMIT", 1.0)
        assert main(["export", str(run_folder), str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """Utterances as waveforms and as files of 16 kHz."""
    folder = tmp_path_factory.mktemp("speech")
    lengths = (16000, 399, 9000, 24001)
    wavs = [0.1 * torch.randn(n, generator=seeded(n)) for n in lengths]
    for i, wav in enumerate(wavs):
        write_wav(folder / f"{i}.wav", wav)
    return folder, [
        soundfile.read(p, dtype="float32")[0] for p in sorted(folder.iterdir())
    ]
