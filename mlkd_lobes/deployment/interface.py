"""Emotions of speech with SpeechBrain's inference interface.

> from speechbrain.inference.interfaces import foreign_class
> recognizer = foreign_class(
>     source=FOLDER, pymodule_file="interface.py",
>     classname="EmotionRecognizer",
> )
> probabilities, score, index, emotion = recognizer.classify_file("speech.wav")

Needs SpeechBrain and transformers alone: an export holds a copy of this file.
"""

import torch

from speechbrain.dataio import audio_io
from speechbrain.inference.interfaces import Pretrained


class EmotionRecognizer(Pretrained):
    """A Hugging Face audio classifier behind SpeechBrain's interface.

    Utterances are classified one by one: in a padded batch, padding would enter
    the statistics of a group norm.

    Arguments
    ---------
    See ``Pretrained``
    """

    MODULES_NEEDED = ["model"]
    HPARAMS_NEEDED = ["labels", "sample_rate", "shortest", "normalize"]

    @torch.no_grad()
    def classify_batch(self, wavs, wav_lens=None):
        """Classifies utterances.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms [batch, time] or [time] at the model's sample rate.
        wav_lens : torch.Tensor
            True lengths [batch] relative to the longest.

        Returns
        -------
        probabilities : torch.Tensor
            [batch, labels].
        score : torch.Tensor
            The largest of them [batch].
        index : torch.Tensor
            Its index [batch].
        labels : list of str
            Its label.

        Raises
        ------
        ValueError
            If a waveform has no samples, or one that is not finite.
        """
        wavs = torch.atleast_2d(wavs).to(self.device, torch.float32)
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs))
        n_samples = torch.round(wav_lens * wavs.shape[1]).long().tolist()
        probabilities = torch.cat(
            [self._classify(wav[:n]) for wav, n in zip(wavs, n_samples)]
        )
        score, index = probabilities.max(-1)
        labels = [self.hparams.labels[i] for i in index.tolist()]
        return probabilities, score, index, labels

    def _classify(self, wav):
        if not len(wav) or not torch.isfinite(wav).all():
            raise ValueError("a waveform is empty, or holds NaN or infinity")
        if self.hparams.normalize:
            # As Hugging Face's feature extractor does.
            variance, mean = torch.var_mean(wav, correction=0)
            wav = (wav - mean) / torch.sqrt(variance + 1e-7)
        missing = max(0, self.hparams.shortest - len(wav))
        wav = torch.nn.functional.pad(wav, (0, missing))
        return self.mods.model(wav[None]).logits.softmax(-1)

    def classify_file(self, path):
        """Classifies a file of any rate and number of channels.

        Arguments
        ---------
        path : str
            An audio file.

        Returns
        -------
        As ``classify_batch``, of one utterance.
        """
        # Not load_audio: that leaves links in the working directory.
        signal, rate = audio_io.load(str(path), channels_first=False)
        return self.classify_batch(self.audio_normalizer(signal, rate))

    def forward(self, wavs, wav_lens=None):
        """Classifies utterances; see ``classify_batch``."""
        return self.classify_batch(wavs, wav_lens)
