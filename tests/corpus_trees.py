"""Small trees with the exact layouts of the corpora that are read by name."""

import itertools
import json

import numpy as np
import soundfile

from mlkd_lobes.files import stable_seed

# The four classes' emotions and one that is unlabelled, as each corpus spells them.


def ravdess():
    """Two women and two men, one of them with a song and a video."""
    for actor, code, text in itertools.product(
        range(1, 7), (1, 2, 3, 4, 5, 6), (1, 2)
    ):
        names = dict(enumerate("- neutral calm happy sad angry fear".split()))
        path = f"Actor_{actor:02d}/03-01-{code:02d}-01-{text:02d}-01-{actor:02d}.wav"
        yield path, f"{actor:02d}", names[code], "fm"[actor % 2]


def emodb():
    emotions = {
        "W": "angry",
        "L": "boredom",
        "F": "happy",
        "T": "sad",
        "N": "neutral",
    }
    for speaker, code in itertools.product(
        ("03", "08", "09", "10", "16"), emotions
    ):
        gender = "m" if speaker in ("03", "10") else "f"
        for text in ("a01", "b10"):
            yield (
                f"wav/{speaker}{text}{code}a.wav",
                speaker,
                emotions[code],
                gender,
            )


def cremad():
    emotions = {"ANG": "angry", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
    for speaker, code in itertools.product(
        (1001, 1002, 1048, 1049, 1090), emotions
    ):
        for text, level in (("DFA", "XX"), ("IEO", "HI"), ("IEO", "LO")):
            path = f"AudioWAV/{speaker}_{text}_{code}_{level}.wav"
            yield path, str(speaker), emotions[code], "mf"[speaker % 2]


def tess():
    folders = {"angry": "angry", "Fear": "fear", "neutral": "neutral"}
    folders |= {"Pleasant_surprise": "surprise", "Sad": "sad", "happy": "happy"}
    for speaker, (folder, emotion) in itertools.product(
        ("OAF", "YAF"), folders.items()
    ):
        for word in ("back", "bite"):
            code = "ps" if emotion == "surprise" else emotion
            first = (
                "OA"
                if (speaker, code, word) == ("OAF", "neutral", "bite")
                else speaker
            )
            path = f"{speaker}_{folder}/{first}_{word}_{code}.wav"
            yield path, speaker, emotion, "f"


def savee():
    emotions = {
        "a": "angry",
        "h": "happy",
        "n": "neutral",
        "sa": "sad",
        "su": "surprise",
    }
    for speaker, code in itertools.product(("DC", "JE", "JK", "KL"), emotions):
        for number in (1, 2):
            yield (
                f"{speaker}/{code}{number:02d}.wav",
                speaker,
                emotions[code],
                "m",
            )


def esd():
    for speaker, emotion in itertools.product(
        (1, 2, 11, 20), "Angry Happy Neutral Sad".split()
    ):
        for i, part in enumerate(("", "test/")):
            path = f"{speaker:04d}/{emotion}/{part}{speaker:04d}_{stable_seed(emotion) % 999 + i:06d}.wav"
            yield path, f"{speaker:04d}", emotion.lower(), None


def emovo():
    emotions = {
        "neu": "neutral",
        "gio": "happy",
        "rab": "angry",
        "tri": "sad",
        "sor": "surprise",
    }
    for speaker, code in itertools.product(
        ("f1", "f2", "f3", "m1", "m2", "m3"), emotions
    ):
        for text in ("b1", "n4"):
            path = f"{speaker}/{code}-{speaker}-{text}.wav"
            yield path, speaker.upper(), emotions[code], speaker[0]


def subesco():
    people = ("F_01_OISHI", "F_02_MONIKA", "M_01_NIPUN", "M_02_RASHED")
    for person, emotion in itertools.product(
        people, "ANGRY HAPPY NEUTRAL SAD FEAR".split()
    ):
        for text in (1, 10):
            path = f"{person}_S_{text}_{emotion}_1.wav"
            yield path, person[:4], emotion.lower(), person[0].lower()


def nemo():
    emotions = {"anger": "angry", "happiness": "happy", "neutral": "neutral"}
    emotions |= {"sadness": "sad", "surprised": "surprise"}
    for speaker, code in itertools.product(
        ("EB0", "IC0", "KD0", "WR0"), emotions
    ):
        for number in (1, 2):
            gender = "m" if speaker == "KD0" else "f"
            yield (
                f"samples/{speaker}_{code}_{number}.wav",
                speaker,
                emotions[code],
                gender,
            )


def ased():
    folders = {
        "n": "01Neutral",
        "f": "02Fearful",
        "h": "03Happy",
        "s": "04Sad",
        "a": "05Angry",
    }
    names = dict(zip("nfhsa", "neutral fear happy sad angry".split()))
    for speaker, code in itertools.product((1, 2, 50, 65), folders):
        gender = 1 if speaker % 2 else 2
        for text in (1, 7):
            path = f"{folders[code]}/{code}{'nfhsa'.index(code) + 1}-{text:02d}-01-{gender:02d}-{speaker:02d}.wav"
            yield path, f"{speaker:02d}", names[code], "fm"[gender - 1]


def turev():
    codes = {"Angry": "kz", "Calm": "sk", "Happy": "mt", "Sad": "hl"}
    for speaker, emotion in itertools.product((1157, 1234, 1984, 7895), codes):
        for word in ("acik", "eger"):
            path = (
                f"Sound Source/{emotion}/{speaker}_{codes[emotion]}_{word}.wav"
            )
            yield path, str(speaker), emotion.lower(), None


def urdu():
    names = {"Angry": "A", "Happy": "H", "Neutral": "N", "Sad": "S"}
    for speaker, emotion in itertools.product(
        ("SM1", "SM2", "SF1", "SF9"), names
    ):
        for number in (1, 100):
            path = f"{emotion}/{speaker}_F{number}_{names[emotion]}{number:03d}.wav"
            yield path, speaker, emotion.lower(), speaker[1].lower()


MELD_FOLDERS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}


def meld():
    emotions = {"joy": "happy", "neutral": "neutral", "sadness": "sad"}
    emotions |= {"anger": "angry", "surprise": "surprise"}
    people = ("Rachel", "Ross", "Mr. Geller")
    for split, (i, code) in itertools.product(
        MELD_FOLDERS, enumerate(emotions)
    ):
        for utterance in (0, 1):
            path = f"{MELD_FOLDERS[split]}/dia{i}_utt{utterance}.wav"
            place = list(MELD_FOLDERS).index(split)
            yield path, people[(place + utterance) % 3], emotions[code], None


def msp_podcast():
    for i in range(60):
        emotion = ("neutral", "happy", "sad", "angry", "disagreement")[i % 5]
        speaker = None if i % 12 == 11 else str(i // 5)
        yield (
            f"Audios/MSP-PODCAST_{i:04d}_0001.wav",
            speaker,
            emotion,
            "mf"[i // 5 % 2],
        )


TREES = {
    f.__name__: f
    for f in (
        ravdess,
        emodb,
        cremad,
        tess,
        savee,
        esd,
        meld,
        msp_podcast,
        emovo,
    )
    + (subesco, nemo, ased, turev, urdu)
}


def write_tables(name, folder, entries):
    """The tables of a corpus that hold what its file names do not."""
    if name == "cremad":
        lines = ['"ActorID","Age","Sex","Race","Ethnicity"']
        for speaker, gender in sorted({(s, g) for _, s, _, g in entries}):
            sex = {"m": "Male", "f": "Female"}[gender]
            lines.append(f'{speaker},33,"{sex}","Asian","Not Hispanic"')
        (folder / "VideoDemographics.csv").write_text("\n".join(lines))
    if name == "nemo":
        lines = ["file_id\temotion\traw_text\tspeaker_id\tgender\tage"]
        for path, speaker, emotion, gender in entries:
            sex = {"m": "male", "f": "female"}[gender]
            file = path.rpartition("/")[2]
            lines.append(
                f'{file}\t{emotion}\tNie "tak\t        {speaker}\t{sex}\t30'
            )
        (folder / "data.tsv").write_text("\n".join(lines), encoding="utf-8")
    if name == "meld":
        _write_meld(folder, entries)
    if name == "msp_podcast":
        _write_msp(folder, entries)


def _write_meld(folder, entries):
    back = {"happy": "joy", "sad": "sadness", "angry": "anger"}
    for split, place in MELD_FOLDERS.items():
        lines = [
            "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"
        ]
        for path, speaker, emotion, _ in entries:
            if path.startswith(f"{place}/"):
                stem = path.rpartition("/dia")[2].removesuffix(".wav")
                ids = stem.replace("_utt", ",")
                word = back.get(emotion, emotion)
                lines.append(f'1,"Oh, no\u0092!",{speaker},{word},x,{ids}')
        text = "\n".join(lines)
        (folder / f"{split}_sent_emo.csv").write_text(text, encoding="utf-8")


def _write_msp(folder, entries):
    codes = {
        "neutral": "N",
        "happy": "H",
        "sad": "S",
        "angry": "A",
        "disagreement": "X",
    }
    splits = ("Train", "Train", "Train", "Development", "Test1", "Test2")
    table = {
        path.rpartition("/")[2]: {
            "EmoClass": codes[emotion],
            "EmoAct": 2.5,
            "SpkrID": speaker or "Unknown",
            "Gender": {"m": "Male", "f": "Female"}[gender],
            "Split_Set": splits[i // 10],
        }
        for i, (path, speaker, emotion, gender) in enumerate(entries)
    }
    (folder / "Labels").mkdir()
    (folder / "Labels/labels_consensus.json").write_text(json.dumps(table))


def write_tree(name, folder, sound=True):
    """Writes a corpus; returns its files with speaker, emotion and gender.

    sound: 0.2 s of noise of their own each; otherwise the files are empty.
    """
    entries = list(TREES[name]())
    for path, *_ in entries:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not sound:
            place.touch()
            continue
        generator = np.random.default_rng(stable_seed(path))
        soundfile.write(place, 0.1 * generator.standard_normal(3200), 16000)
    write_tables(name, folder, entries)
    return entries
