"""Tiny models, speech and noise that the tests make for themselves."""

import math
import pathlib

import torch
import transformers

from mlkd_lobes.files import stable_seed, write_csv
from mlkd_lobes.noise.add_noise import read_noise_csv
from mlkd_lobes.noise.corpora import DEMAND
from speechbrain.dataio import audio_io

RECIPE = pathlib.Path(__file__).parents[1] / "recipes/IEMOCAP/mlkd"
LABELS = ["neu", "hap", "sad", "ang"]
LABEL_MAP = {
    "neutral": "neu",
    "happy": "hap",
    "sad": "sad",
    "angry": "ang",
    "surprised": "unlabelled",
}
SPLITS = ("train", "valid", "test")
EMOTIONS = ["neutral", "happy", "sad", "angry"]
SPEAKERS = {f"s{i}": "fm"[i % 2] for i in range(6)}


def tiny_config(kind="wav2vec2", norm="group", **changes):
    """Configuration of a model with the real shape and thin layers."""
    settings = {
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "conv_bias": norm == "layer",
        "num_buckets": 32,
        **changes,
    }
    if kind != "wavlm":
        settings.pop("num_buckets")
    return transformers.AutoConfig.for_model(kind, **settings)


def save_encoder(folder, config):
    """A Hugging Face folder with random weights."""
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return str(folder)


def seeded(*key):
    """A generator of its own for each purpose."""
    return torch.Generator().manual_seed(stable_seed(*key))


def write_wav(path, wav, rate=16000):
    """Writes a mono file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    audio_io.save(str(path), wav[None], rate)


def write_corpus(folder):
    """Six speakers, four emotions of their own pitch, some unlabelled."""
    rows = []
    for speaker, gender in SPEAKERS.items():
        for n, emotion in enumerate([*EMOTIONS, "surprised"] * 2):
            generator = seeded(speaker, n)
            length = 9000 + 700 * (n % 5)
            pitch = 150 + 90 * (n % 5)
            wave = torch.sin(torch.arange(length) * 6.2832 * pitch / 16000)
            wave += 0.1 * torch.randn(length, generator=generator)
            name = f"audio/{speaker}_{n}.wav"
            write_wav(folder / name, 0.2 * wave)
            rows.append([name, speaker, emotion, gender])
    write_csv(
        folder / "manifest.csv", ["path", "speaker", "emotion", "gender"], rows
    )
    return folder


def write_noise(folder, kinds=("rain", "wind"), files=5):
    """A folder with a sub-folder per type."""
    for kind in kinds:
        for n in range(files):
            wav = 0.1 * torch.randn(12000, generator=seeded(kind, n))
            write_wav(folder / kind / f"{kind}_{n}.wav", wav)
    return folder


def prepare_types(
    folder, out, kinds=("rain", "wind"), corpus="folder", **options
):
    """Prepares noise; gives the types of each split."""
    from noise_prepare import prepare_noise

    kinds = kinds and list(kinds)
    prepare_noise(corpus, str(folder), out, kinds, **options)
    places = {"noise_folder": str(folder)}
    places["unseen_noise"] = options.get("unseen_noise", {})
    return {s: read_noise_csv(str(out / f"{s}.csv"), places) for s in SPLITS}


def beside(folder):
    """A folder for output, which must not lie where noise is searched."""
    return folder.with_name(f"{folder.name}-out")


def recordings(split, kind):
    """Paths of a type's recordings."""
    return set(split.get(kind, ()))


def write_musan(folder, files=5):
    """MUSAN's layout."""
    for place in ("noise/free-sound", "music/fma", "speech/librivox"):
        for n in range(files):
            wav = 0.1 * torch.randn(12000, generator=seeded(place, n))
            kind, source = place.split("/")
            write_wav(folder / place / f"{kind}-{source}-{n:04d}.wav", wav)
        (folder / place / "ANNOTATIONS").write_text("x")
    return folder


def write_demand(folder, rate=48000, channels=(1, 2, 16), archives=False):
    """DEMAND's layout, on request as unpacked archives."""
    for kind, places in DEMAND.items():
        for place in places:
            if rate == 16000 and place == "SCAFE":
                continue
            inner = f"{place}_{rate // 1000}k/{place}" if archives else place
            for channel in channels:
                wav = 0.1 * torch.randn(rate // 2)
                path = folder / inner / f"ch{channel:02d}.wav"
                write_wav(path, wav, rate)
    return folder


def measured_snr(wav, noisy, snr):
    """SNR of a mixture in dB; the requested one gives AddNoise's scale of speech."""
    share = 1 / (10 ** (snr / 20) + 1)
    speech = (1 - share) * wav
    noise = noisy - speech
    power = noise.dot(noise).item()
    if power == 0:
        return math.inf
    return 10 * math.log10(max(speech.dot(speech).item() / power, 1e-30))
