"""Emotion classifier: an SSL encoder with the head of Hugging Face's models.

The head is that of `Wav2Vec2ForSequenceClassification`, so a trained classifier
is stored as a plain Hugging Face folder that opens without this package, and
any such folder (for example a teacher of one's own) opens here.
"""

import hashlib
import pathlib
from collections import namedtuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForAudioClassification

from mlkd_lobes.errors import InputError
from mlkd_lobes.files import atomic_path
from mlkd_lobes.models.encoder import SAMPLE_RATE, opening, refuse_missing
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.utils.data_utils import batch_pad_right

# transformers' name for classes that exclude each other.
SINGLE_LABEL = "single_label_classification"


class Classified(namedtuple("Classified", ["logits", "encoded"])):
    """`logits` [batch, classes] and the encoder's outputs."""


class EmotionHead(nn.Module):
    """Linear, mean over the valid frames, linear.

    Arguments
    ---------
    width : int
        Dimension of the hidden states.
    n_classes : int
        Number of emotions.
    projection : int
        Dimension between the two linear maps.

    Example
    -------
    >>> head = EmotionHead(16, 4)
    >>> head(torch.rand(2, 9, 16), torch.tensor([9, 5])).shape
    torch.Size([2, 4])
    """

    def __init__(self, width, n_classes, projection=256):
        super().__init__()
        self.projector = nn.Linear(width, projection)
        self.classifier = nn.Linear(projection, n_classes)

    def forward(self, hidden, n_frames):
        """Classifies utterances.

        Arguments
        ---------
        hidden : torch.Tensor
            Hidden states [batch, frames, width].
        n_frames : torch.Tensor
            True frames [batch].

        Returns
        -------
        torch.Tensor
            Logits [batch, classes].
        """
        # In float32 under autocast too: bfloat16 rounds 257 frames to 256.
        projected = self.projector(hidden).float()
        mask = length_to_mask(n_frames, hidden.shape[1], dtype=projected.dtype)
        total = (projected * mask[:, :, None]).sum(1)
        return self.classifier(total / n_frames[:, None])


class EmotionClassifier(nn.Module):
    """An encoder with an emotion head.

    Arguments
    ---------
    encoder : mlkd_lobes.models.encoder.SSLEncoder
        Any encoder with `width` and the same call.
    labels : sequence of str
        The emotions, in the order of the logits.
    projection : int
        Inner dimension of the head.
    """

    def __init__(self, encoder, labels, projection=256):
        super().__init__()
        self.encoder = encoder
        self.labels = list(labels)
        self.head = EmotionHead(encoder.width, len(self.labels), projection)

    def forward(self, wavs, wav_lens=None, levels=()):
        """Classifies a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms [batch, time] at 16 kHz.
        wav_lens : torch.Tensor, optional
            True lengths [batch] relative to the longest.
        levels : sequence of int
            Encoder levels to return.

        Returns
        -------
        Classified
            `logits` [batch, classes] and `encoded`.
        """
        encoded = self.encoder(wavs, wav_lens, levels)
        logits = self.head(encoded.last_hidden, encoded.n_frames)
        return Classified(logits, encoded)

    def save_pretrained(self, folder):
        """Stores the native Hugging Face model atomically.

        Arguments
        ---------
        folder : str or pathlib.Path
            Destination: config.json, model.safetensors,
            preprocessor_config.json. An existing folder is replaced.
        """
        native = self.native()
        with atomic_path(folder) as temporary:
            native.save_pretrained(temporary)
            self.encoder.feature_extractor.save_pretrained(temporary)

    def native(self):
        """The same model as Hugging Face builds it.

        Returns
        -------
        transformers.PreTrainedModel
            A `*ForSequenceClassification` model with these weights.
        """
        config = AutoConfig.for_model(**self.encoder.model.config.to_dict())
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {label: i for i, label in enumerate(self.labels)}
        config.classifier_proj_size = self.head.projector.out_features
        # What a source that was fine-tuned otherwise would bring along.
        config.problem_type = SINGLE_LABEL
        config.use_weighted_layer_sum, config.return_dict = False, True
        native = AutoModelForAudioClassification.from_config(config)
        native.base_model.load_state_dict(self.encoder.model.state_dict())
        native.projector.load_state_dict(self.head.projector.state_dict())
        native.classifier.load_state_dict(self.head.classifier.state_dict())
        return native


def classify(model, wavs, batch_seconds):
    """Classifies any number of waveforms in padded batches.

    Arguments
    ---------
    model : EmotionClassifier
        The model.
    wavs : sequence of torch.Tensor
        Waveforms [time] at 16 kHz.
    batch_seconds : float
        Length of a batch, padding included; a single waveform may be longer.

    Returns
    -------
    torch.Tensor
        Logits [waveforms, classes] in float32, on the CPU.
    """
    device = next(model.parameters()).device
    size = int(batch_seconds * SAMPLE_RATE) // max(map(len, wavs)) or 1
    logits = []
    for i in range(0, len(wavs), size):
        # On a CPU padding would take as long as the model takes on a GPU.
        own = [wav.to(device) for wav in wavs[i : i + size]]
        padded, lengths = batch_pad_right(own)
        logits.append(model(padded, lengths.to(device)).logits)
    return torch.cat(logits).float().cpu()


def open_native(source):
    """Opens a Hugging Face audio classifier as transformers builds it.

    Arguments
    ---------
    source : str
        Folder or hub name of a `*ForSequenceClassification` model.

    Returns
    -------
    transformers.PreTrainedModel
        In float32; no code of the source is run.

    Raises
    ------
    InputError
        If it cannot be opened, or has no trained head.
    """
    # Without trust_remote_code, transformers would prompt on a terminal.
    with opening(source):
        native, loading = AutoModelForAudioClassification.from_pretrained(
            source,
            output_loading_info=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    refuse_missing(source, loading, "is not a trained classifier")
    return native


def load_classifier(folder, encoder_factory, labels):
    """Opens a Hugging Face audio classifier as an EmotionClassifier.

    Arguments
    ---------
    folder : str
        Folder or hub name of a `*ForSequenceClassification` model, or a run's.
    encoder_factory : callable
        Builds the encoder from `source=folder`; it decides how many layers
        are kept, which is how a student is made from its teacher.
    labels : sequence of str
        The emotions expected, in order.

    Returns
    -------
    EmotionClassifier
        With the folder's encoder and head.

    Raises
    ------
    InputError
        If it has no trained head, other labels, a head that mixes layers, or
        outputs that are not classes which exclude each other.
    """
    inside = pathlib.Path(folder, "model")  # of a run
    folder = str(inside if (inside / "config.json").is_file() else folder)
    encoder = encoder_factory(source=folder)
    native = open_native(folder)
    found = [native.config.id2label[i] for i in range(native.config.num_labels)]
    if found != list(labels):
        raise InputError(
            f"{folder}: its labels are {found}, expected {list(labels)}"
        )
    if getattr(native.config, "use_weighted_layer_sum", False):
        raise InputError(
            f"{folder}: its head takes a weighted sum of layers; expected one "
            "on the last layer (use_weighted_layer_sum: false)"
        )
    if native.config.problem_type not in (None, SINGLE_LABEL):
        raise InputError(
            f"{folder}: its problem_type is {native.config.problem_type}, "
            f"expected {SINGLE_LABEL}"
        )
    size = native.config.classifier_proj_size
    model = EmotionClassifier(encoder, labels, size)
    model.head.projector.load_state_dict(native.projector.state_dict())
    model.head.classifier.load_state_dict(native.classifier.state_dict())
    return model


class FrozenTeacher(nn.Module):
    """A classifier that stays frozen and in evaluation mode.

    `Brain.fit` calls `train()` on all modules after `on_stage_start`, which
    would give a frozen teacher its dropout back.

    Arguments
    ---------
    classifier : EmotionClassifier
        The finished teacher.
    levels : sequence of int
        Levels that serve as targets.
    """

    def __init__(self, classifier, levels):
        super().__init__()
        self.classifier = classifier.requires_grad_(False)
        self.levels = tuple(levels)
        self.eval()

    def train(self, mode=True):
        """Ignores the mode.

        Arguments
        ---------
        mode : bool
            Without effect.

        Returns
        -------
        FrozenTeacher
            Itself, in evaluation mode.
        """
        return super().train(False)

    @torch.no_grad()
    def forward(self, wavs):
        """Targets of waveforms, computed in one batch.

        Arguments
        ---------
        wavs : list of torch.Tensor
            Clean waveforms [time].

        Returns
        -------
        list of tuple
            Of each, hidden states [levels, frames, width] and logits [classes].
        """
        padded, lengths = batch_pad_right(wavs)
        lengths = lengths.to(padded.device)
        logits, encoded = self.classifier(padded, lengths, self.levels)
        features = torch.stack(encoded.levels)
        ends = enumerate(encoded.n_frames.tolist())
        return [(features[:, i, :n], logits[i]) for i, n in ends]


def state_sha256(module):
    """Hash of a module's parameters and buffers, names included.

    Arguments
    ---------
    module : torch.nn.Module
        The module.

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(tensor, torch.Tensor):  # of quantised layers some are not
            # As bytes, since NumPy has no bfloat16.
            content = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(content.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
