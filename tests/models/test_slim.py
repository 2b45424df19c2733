"""A narrower front end keeps what matters of a wider one, and stays one."""

import pytest
import torch
from transformers import AutoModelForAudioClassification

from mlkd_lobes.deployment.models import open_classifier
from mlkd_lobes.errors import InputError
from mlkd_lobes.models.classifier import EmotionClassifier, load_classifier
from mlkd_lobes.models.encoder import SSLEncoder
from mlkd_lobes.models.slim import LAYER, narrowed

LABELS = ["neu", "hap", "sad", "ang"]
WAV = torch.sin(torch.arange(9000) ** 1.5 / 40)[None]
HALF = [0.5] * 6


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_features_of_a_narrow_encoder_do_not_depend_on_padding(
    encoder_folder, kind, norm
):
    folder = encoder_folder(kind, norm)
    wide, narrow = (
        SSLEncoder(folder, folder, channels=c).eval() for c in (1.0, 0.5)
    )
    dims = wide.config.conv_dim, narrow.config.conv_dim
    assert [2 * n for n in dims[1]] == dims[0]
    padded = torch.nn.functional.pad(WAV, (0, 4000)).repeat(2, 1)
    with torch.no_grad():
        alone = narrow(WAV)
        both = narrow(padded, torch.tensor([1.0, WAV.shape[1] / 13000]))
    n = alone.n_frames.item()
    found = both.last_hidden[1, :n]
    assert (found - alone.last_hidden[0]).abs().max() <= 1e-4
    assert alone.last_hidden.shape == wide(WAV).last_hidden.shape


def test_filters_that_nothing_reads_go_first(encoder_folder):
    """Without them the output is the same. The last convolution is normalised
    over its channels and stays."""
    folder = encoder_folder()
    model = SSLEncoder(folder, folder).model.eval()
    with torch.no_grad():
        for i in range(1, 7):
            read = model.get_parameter(f"{LAYER.format(i)}conv.weight")
            unused = torch.randperm(read.shape[1])[: read.shape[1] // 2]
            read[:, unused] = 0
        expected = model(WAV).last_hidden_state
        slim = narrowed(model, [*HALF, 1.0]).eval()
        assert torch.allclose(slim(WAV).last_hidden_state, expected, atol=1e-5)
        # What is read instead makes a difference.
        slim = narrowed(model, [0.25, *HALF[1:], 1.0]).eval()
        found = slim(WAV).last_hidden_state
        assert not torch.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("channels", [0.5, [*HALF, 0.25]])
def test_a_narrow_classifier_is_a_folder_like_any_other(
    encoder_folder, tmp_path, channels
):
    """It opens with its own settings, without them, and in transformers."""

    def factory(source):
        return SSLEncoder(source, source, 2, channels=channels)

    encoder = factory(encoder_folder())
    model = EmotionClassifier(encoder, LABELS).eval()
    model.save_pretrained(tmp_path / "model")
    own = load_classifier(tmp_path / "model", factory, LABELS).eval()
    plain = open_classifier(tmp_path / "model").eval()
    native = AutoModelForAudioClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        expected = model(WAV).logits
        for other in (own, plain):
            assert torch.equal(other(WAV).logits, expected)
        whole = (WAV - WAV.mean()) / WAV.std(unbiased=False)
        assert torch.allclose(native.eval()(whole).logits, expected, atol=1e-4)


def test_filters_that_a_later_norm_silences_go_first(encoder_folder):
    """A layer norm scales the last convolution's output before it is read."""
    model = SSLEncoder(encoder_folder(), encoder_folder()).model.eval()
    scale = model.feature_projection.layer_norm.weight
    with torch.no_grad():
        model.feature_projection.projection.weight[:, ::2] *= 100
        scale[::2] = 0
    slim = narrowed(model, [1.0] * 6 + [0.5])
    assert torch.equal(slim.feature_projection.layer_norm.weight, scale[1::2])


def test_other_numbers_of_shares_are_refused(make_encoder):
    with pytest.raises(InputError, match="student_cnn: 2 shares.*7 conv"):
        narrowed(make_encoder().model, [0.5, 0.5])
