"""The front end in chunks gives the features of the front end as it is."""

import copy

import pytest
import torch
from helpers import seeded

from mlkd_lobes.deployment.chunks import use_chunks

# 400 samples are one frame, 720 two; a chunk has 320.
LENGTHS = [400, 401, 719, 720, 721, 4879, 4880, 24320]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_chunks_give_the_same_features(make_encoder, norm, bias):
    torch.manual_seed(0)
    plain = make_encoder("wav2vec2", norm, 1, conv_bias=bias).eval()
    for name, parameter in plain.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    chunked = copy.deepcopy(plain)
    use_chunks(chunked)
    batch = torch.randn(2, max(LENGTHS), generator=seeded(1))
    # Silence between speech, as in recordings.
    batch[:, 9000:14000] = 0
    for n in LENGTHS:
        n_samples = torch.tensor([n, max(400, n - 350)])
        same = [e.convolve(batch[:, :n], n_samples) for e in (plain, chunked)]
        assert same[0].shape == (2, (n - 400) // 320 + 1, 8)
        torch.testing.assert_close(*same, rtol=1e-5, atol=1e-5)
