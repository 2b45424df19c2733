"""Exact SNRs, keyed draws, and noise that cannot be used."""

import math
from unittest import mock

import pytest
import torch
from helpers import measured_snr, seeded, write_noise, write_wav
from hypothesis import (
    given,
    settings,
    strategies as st,
)

from mlkd_lobes.data.batches import torch_threads
from mlkd_lobes.data.leakage import NOISE_KEY, noise_sources, refuse_overlaps
from mlkd_lobes.errors import InputError
from mlkd_lobes.noise import add_noise as noise_module
from mlkd_lobes.noise.add_noise import (
    CLEAN,
    Condition,
    KeyedAddNoise,
    conditions,
    mix,
    noise_fingerprint,
    read_noise_csv,
)
from speechbrain.augment.time_domain import AddNoise

HEADER = "ID,duration,wav,wav_format,wav_opts"
TYPED = HEADER + ",noise_type,noise_type_format,noise_type_opts"


def write_csv(folder, files, name="noise.csv"):
    rows = [TYPED]
    for i, (path, kind) in enumerate(files):
        rows.append(f"{i},0.75,{path},wav,,{kind},string,")
    (folder / name).write_text("\n".join(rows) + "\n")
    return str(folder / name)


@pytest.fixture
def csv(noise_corpus, tmp_path):
    files = sorted(noise_corpus.rglob("*.wav"))
    return write_csv(tmp_path, [(f, f.parent.name) for f in files])


def add_noise(csv, **options):
    settings = {"snr_low": -5, "snr_high": 20, "seed": 3, **options}
    return KeyedAddNoise(csv, **settings)


def rms(wav):
    return wav.double().square().mean().sqrt().item()


@settings(max_examples=60)
@given(
    st.integers(40, 30000),
    st.floats(-20, 40),
    st.floats(-60, 0),
    st.booleans(),
)
def test_snr_is_exact_over_the_true_length(n, snr, level_db, bursty):
    generator = seeded(n, snr)
    speech = 10 ** (level_db / 20) * torch.randn(n, generator=generator)
    noise = torch.randn(n, generator=generator)
    if bursty:
        noise[n // 3 :] *= 1e-3
    noisy = mix(speech, noise, [snr])[0]
    # AddNoise scales speech and noise to a convex sum; undo that by hand.
    share = 1 / (10 ** (snr / 20) + 1)
    added = noisy - (1 - share) * speech
    found = 20 * math.log10(rms((1 - share) * speech) / rms(added))
    assert found == pytest.approx(snr, abs=0.1)
    assert measured_snr(speech, noisy, snr) == pytest.approx(snr, abs=0.1)


@settings(max_examples=60)
@given(
    st.integers(1, 60000),
    st.lists(st.floats(-20, 40), min_size=1, max_size=7),
    st.sampled_from([0.0, 1e-4, 0.1, 3.0]),
    st.sampled_from([1e-4, 0.1, 3.0]),
)
def test_a_mixture_is_that_of_add_noise_to_the_bit(n, snrs, loud, quiet):
    generator = seeded(n, str(snrs))
    speech = loud * torch.randn(n, generator=generator)
    noise = quiet * torch.randn(n, generator=generator)
    levels = torch.tensor(snrs)[:, None]
    stock = AddNoise(
        snr_low=levels,
        snr_high=levels,
        noise_funct=lambda wavs: noise.expand_as(wavs).clone(),
    )
    with torch_threads(1):
        expected = stock(speech.expand(len(snrs), -1), torch.ones(len(snrs)))
        assert torch.equal(mix(speech, noise, snrs), expected)


def test_it_is_an_add_noise(csv):
    noise = add_noise(csv, clean_share=0.0)
    assert isinstance(noise, AddNoise)
    wavs = torch.randn(2, 9000)
    wavs[1, 4500:] = 0.0
    torch.manual_seed(0)
    noisy = noise(wavs, torch.tensor([1.0, 0.5]))
    assert not noisy[1, 4500:].any()
    assert not torch.equal(noisy[0], wavs[0])
    torch.manual_seed(0)
    assert torch.equal(noisy, noise(wavs, torch.tensor([1.0, 0.5])))


def test_training_draws_follow_seed_epoch_and_utterance(csv):
    wav = torch.randn(8000, generator=seeded("speech"))

    def received(seed=3, epoch=1, utterance="u"):
        noise = add_noise(csv, seed=seed)
        noise.set_epoch(epoch)
        torch.manual_seed(torch.seed() % 2**31)  # must not matter
        return noise.corrupt(wav, utterance)[0]

    assert torch.equal(received(), received())
    for other in ({"seed": 4}, {"epoch": 2}, {"utterance": "v"}):
        assert not torch.equal(received(), received(**other))


def test_order_of_calls_does_not_matter(csv):
    wavs = {str(i): torch.randn(5000 + i) for i in range(8)}
    one, two = add_noise(csv), add_noise(csv)
    first = {u: one.corrupt(wavs[u], u)[0] for u in wavs}
    second = {u: two.corrupt(wavs[u], u)[0] for u in reversed(list(wavs))}
    assert all(torch.equal(first[u], second[u]) for u in wavs)


def test_training_snrs_are_uniform_and_some_speech_stays_clean(csv):
    noise = add_noise(csv, clean_share=0.1)
    wav = torch.randn(800)
    snrs = torch.tensor([noise.corrupt(wav, str(i))[1] for i in range(600)])
    noisy = snrs[torch.isfinite(snrs)]
    assert 0.06 < 1 - len(noisy) / len(snrs) < 0.14
    assert -5.1 <= noisy.min() < -4 and 19 < noisy.max() <= 20.1
    assert abs(noisy.mean() - 7.5) < 1.0
    untouched, snr = next(
        pair
        for pair in (noise.corrupt(wav, str(i)) for i in range(600))
        if math.isinf(pair[1])
    )
    assert torch.equal(untouched, wav)


def test_types_are_equally_likely(noise_corpus, tmp_path):
    files = sorted(noise_corpus.rglob("*.wav"))
    rain = [f for f in files if f.parent.name == "rain"]
    wind = [f for f in files if f.parent.name == "wind"][:1]
    csv = write_csv(
        tmp_path, [(f, "rain") for f in rain] + [(f, "wind") for f in wind]
    )
    noise = add_noise(csv, clean_share=0.0)
    waves = {f: torch.from_numpy(_read(f)) for f in rain + wind}
    counts = {"rain": 0, "wind": 0}
    for i in range(200):
        drawn = noise.draw(str(i), 12000)[0]
        for path, wave in waves.items():
            if torch.allclose(drawn, wave, atol=1e-6):
                counts[path.parent.name] += 1
    assert sum(counts.values()) == 200
    assert 70 < counts["wind"] < 130


def _read(path):
    import soundfile

    return soundfile.read(path, dtype="float32")[0]


def test_grid_mixes_one_noise_at_all_snrs(csv):
    wav = torch.randn(8000, generator=seeded("speech"))
    grid = conditions(["rain", "wind"], [-5, 0, 20])
    assert grid[0] == CLEAN and len(grid) == 7
    received = add_noise(csv).apply_conditions(wav, "u", grid)
    assert torch.equal(received[0], wav)
    noises = {}
    for condition, noisy in zip(grid[1:], received[1:]):
        snr = condition.snr_db
        assert measured_snr(wav, noisy, snr) == pytest.approx(snr, abs=0.1)
        added = noisy - (1 - 1 / (10 ** (snr / 20) + 1)) * wav
        noises.setdefault(condition.noise, []).append(added / rms(added))
    for same in noises.values():
        for other in same[1:]:
            assert torch.allclose(same[0], other, atol=1e-3)
    assert not torch.allclose(noises["rain"][0], noises["wind"][0], atol=0.1)


def test_grid_depends_on_nothing_but_type_and_utterance(csv):
    wav = torch.randn(8000)
    grid = conditions(["rain", "wind"], [0, 10])
    one = add_noise(csv, seed=1)
    two = add_noise(csv, seed=2, snr_low=0, clean_share=0.5)
    two.set_epoch(9)
    reference = one.apply_conditions(wav, "u", grid)
    assert torch.equal(reference, two.apply_conditions(wav, "u", grid))
    few = two.apply_conditions(wav, "u", [Condition("wind", 10)])
    assert torch.equal(few[0], reference[4])
    assert not torch.equal(
        one.apply_conditions(wav, "v", grid)[1:], reference[1:]
    )


def test_silent_speech_gives_no_nan(csv):
    noise = add_noise(csv, clean_share=0.0)
    silence = torch.zeros(4000)
    assert torch.isfinite(noise.corrupt(silence, "u")[0]).all()
    grid = noise.apply_conditions(silence, "u", conditions(["rain"], [0]))
    assert torch.isfinite(grid).all()


def test_noise_is_resampled_mixed_down_and_repeated(tmp_path):
    seconds = torch.arange(4800) / 48000
    tone = 0.3 * torch.sin(2 * math.pi * 1000 * seconds)
    write_wav(tmp_path / "a.wav", tone, 48000)
    csv = write_csv(tmp_path, [(tmp_path / "a.wav", "tone")])
    drawn = add_noise(csv, clean_share=0.0).draw("u", 16000)[0]
    spectrum = torch.fft.rfft(drawn[:1600]).abs()
    assert spectrum.argmax() == 100  # 1000 Hz in bins of 10 Hz
    assert len(drawn) == 16000 and drawn[-800:].abs().max() > 0.1


@pytest.mark.parametrize("rate", [16000, 11025, 44100])
def test_noise_that_is_kept_decoded_is_what_is_read_otherwise(
    tmp_path, monkeypatch, rate
):
    wave = 0.1 * torch.randn(3 * rate, generator=seeded("kept"))
    write_wav(tmp_path / "a.wav", wave, rate)
    row = f"0,3,{tmp_path}/a.wav,wav,start:{rate // 2} stop:{2 * rate}"
    (tmp_path / "n.csv").write_text(f"{HEADER}\n{row}\n")
    lengths = 1, 400, 9000, 23990, 24000, 40000
    kept, anew = (add_noise(str(tmp_path / "n.csv")) for _ in range(2))
    kept = [kept.draw(str(n), n)[0] for n in lengths]
    monkeypatch.setattr(noise_module, "MAX_KEPT", 1)
    for n, noise in zip(lengths, kept):
        assert len(noise) == n
        assert torch.equal(noise, anew.draw(str(n), n)[0])
    assert not anew.kept


def test_kept_noise_is_decoded_once_and_stays_as_it_is(csv, monkeypatch):
    read = mock.Mock(side_effect=noise_module.read_frames)
    monkeypatch.setattr(noise_module, "read_frames", read)
    noise, wav = add_noise(csv, clean_share=0.0), torch.randn(8000)
    first = noise.corrupt(wav, "u")[0]
    for i in range(50):
        noise.corrupt(wav, str(i))
    segments = {
        s for r in noise.types.values() for own in r.values() for s in own
    }
    assert read.call_count == len(noise.kept) <= len(segments)
    assert torch.equal(first, noise.corrupt(wav, "u")[0])


def test_segments_bound_what_is_read(tmp_path):
    wave = torch.cat([0.1 * torch.ones(8000), -0.5 * torch.ones(8000)])
    write_wav(tmp_path / "a.wav", wave)
    row = f"0,0.5,{tmp_path}/a.wav,wav,start:8000 stop:16000"
    (tmp_path / "n.csv").write_text(f"{HEADER}\n{row}\n")
    noise = KeyedAddNoise(str(tmp_path / "n.csv"))
    for i in range(20):
        drawn = noise.draw(str(i), 3000)[0]
        assert (drawn < -0.4).all()


def test_plain_speechbrain_csvs_work(tmp_path, noise_corpus):
    lines = ["ID, duration, wav, wav_format, wav_opts", ""]
    path = sorted(noise_corpus.rglob("*.wav"))[0]
    lines.append(f"a, 0.75, $noise_folder/{path.name}, wav, ")
    csv = tmp_path / "n.csv"
    csv.write_text("\n".join(lines) + "\n")
    types = read_noise_csv(str(csv), {"noise_folder": str(path.parent)})
    assert list(types) == ["noise"]
    with pytest.raises(ValueError, match="none of the folders given"):
        read_noise_csv(str(csv))


@pytest.mark.parametrize(
    "content,message",
    [
        ("", "column ID, wav is missing"),
        (HEADER + "\n", "has no rows"),
        ("a,b\n1,2\n", "column ID, wav is missing"),
        (f"{HEADER}\n0,1,nowhere.wav,wav,\n", "row 0: nowhere.wav: No such"),
        (f"{HEADER}\n0,1,WAV,wav,start:9 stop:5\n", "not within"),
        (f"{HEADER}\n0,1,WAV,wav,start:0 stop:999999\n", "not within"),
        (f"{HEADER}\n0,1,WAV,wav,start:zero\n", "row 0"),
        (f"{HEADER}\n0,1,WAV,wav\n", "line 2: expected 5 fields"),
        (f"{HEADER},noise_type\n0,1,WAV,wav,,clean\n", "row 0: 'clean' cannot"),
    ],
)
def test_bad_csvs_are_named(tmp_path, content, message):
    write_wav(tmp_path / "a.wav", torch.randn(4000))
    csv = tmp_path / "n.csv"
    csv.write_text(content.replace("WAV", str(tmp_path / "a.wav")))
    with pytest.raises((ValueError, InputError), match=message):
        read_noise_csv(str(csv))


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        KeyedAddNoise(str(tmp_path / "nowhere.csv")).draw("u", 100)


def test_silent_noise_is_an_error_that_names_it(tmp_path):
    write_wav(tmp_path / "silent.wav", torch.zeros(8000))
    csv = write_csv(tmp_path, [(tmp_path / "silent.wav", "none")])
    with pytest.raises(InputError, match="silent.wav"):
        KeyedAddNoise(csv).draw("u", 4000)


def test_a_segment_of_one_frame_is_an_error_that_names_it(tmp_path):
    write_wav(tmp_path / "a.wav", torch.ones(8000), 48000)
    row = f"a,1.0,{tmp_path}/a.wav,wav,start:100 stop:101"
    (tmp_path / "n.csv").write_text(f"{HEADER}\n{row}\n")
    noise = KeyedAddNoise(str(tmp_path / "n.csv"))
    with pytest.raises(InputError, match="a.wav: silent in"):
        noise.draw("u", 4000)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="snr_low"):
        KeyedAddNoise("x.csv", snr_low=5, snr_high=0)


def test_fingerprint_is_that_of_the_content(tmp_path):
    one, two = write_noise(tmp_path / "one"), write_noise(tmp_path / "two")
    csvs = [
        write_csv(
            tmp_path,
            [(f, f.parent.name) for f in sorted(folder.rglob("*.wav"))],
            f"{folder.name}.csv",
        )
        for folder in (one, two)
    ]
    prints = [noise_fingerprint(read_noise_csv(csv)) for csv in csvs]
    assert prints[0] == prints[1]
    shorter = write_csv(
        tmp_path, [(f, "rain") for f in sorted((one / "rain").glob("*"))]
    )
    assert noise_fingerprint(read_noise_csv(shorter)) != prints[0]


def short_event(name):
    """A clip of 5 s as in ESC-50: 0.4 s of sound, then digital zeros."""
    wav = torch.zeros(5 * 16000)
    wav[:6400] = 0.1 * torch.randn(6400, generator=seeded(name))
    return wav


def given_csv(folder, wavs):
    """A CSV without start and stop, as users bring it."""
    rows = [HEADER]
    for name, wav in wavs.items():
        write_wav(folder / f"{name}.wav", wav)
        rows.append(f"{name},1.0,{folder}/{name}.wav,wav,")
    (folder / "own.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "own.csv")


def test_silence_of_a_given_csv_is_never_drawn(tmp_path):
    csv = given_csv(tmp_path, {str(n): short_event(n) for n in range(3)})
    noise = KeyedAddNoise(csv)
    assert {len(s) for s in noise.types["noise"].values()} == {1}
    for utterance in range(200):
        assert noise.draw(str(utterance), 16000)[0].abs().max() > 0


def test_a_silent_file_of_a_given_csv_is_named(tmp_path):
    csv = given_csv(tmp_path, {"quiet": torch.zeros(16000)})
    with pytest.raises(InputError, match="own.csv, row quiet: .*wav is silent"):
        read_noise_csv(csv)


def test_copies_of_a_recording_are_found(tmp_path):
    types = {}
    for split, seed in (("train", 1), ("valid", 2), ("test", 1)):
        csv = given_csv(tmp_path / split, {"a": short_event(seed)})
        types[split] = read_noise_csv(csv)
    with pytest.raises(InputError) as error:
        refuse_overlaps(noise_sources(types), [NOISE_KEY])
    first = f"{tmp_path}/train/a.wav"
    assert f"same content(s): {first}" in str(error.value)
