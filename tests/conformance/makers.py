"""MAKERS: small data for each task, as the files that its source reads. To add one: add a row.

Every rule in the data can be learned in seconds, and rows differ in length where a task lets them.
"""

import json
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.data.image import encode_png


@dataclass(frozen=True)
class Maker:
    """One task's data.

    write: into an empty folder; gives the source, and what a person asks: a file, or a text.
    data: further keys of the recipe's section `data`.
    needs: modules that reading it takes.
    steps: of a whole run.
    by_heart: steps in which every family learns eight rows.
    predict: arguments with which `predict` answers as the page does.
    """

    write: Callable[[Path], tuple[Path, Path | str]]
    data: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    steps: int = 60
    by_heart: int = 120
    predict: dict[str, Any] = field(default_factory=dict)


def _pictures(folder: Path) -> tuple[Path, Path]:
    """Stripes across, stripes down, a spot; 8 x 8 grey pixels with noise."""
    draw = np.random.default_rng(0)
    across = np.tile([[220], [30]], (4, 8))
    spot = np.full((8, 8), 30)
    spot[2:6, 2:6] = 220
    for name, shown in (("across", across), ("down", across.T), ("spot", spot)):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(40):
            pixels = np.clip(shown + draw.normal(0, 20, (8, 8)), 0, 255).astype(np.uint8)
            file = folder / "pictures" / name / f"{number:02}.png"
            file.write_bytes(encode_png(pixels[None]))
    return folder / "pictures", folder / "pictures/down/07.png"


GOOD = ["warm", "bright", "kind", "happy", "gentle", "sunny", "calm", "fresh", "tasty", "lovely"]
BAD = ["cold", "dark", "rude", "sad", "harsh", "rainy", "noisy", "stale", "bitter", "ugly"]
EITHER = ["the", "a", "very", "day", "food", "place", "and", "so", "it", "was"]


def _texts(folder: Path) -> tuple[Path, str]:
    """Good and bad words among others, 1 to 24 of them."""
    draw, lines = np.random.default_rng(0), ["text,label"]
    for number in range(120):
        own = BAD if number % 2 else GOOD
        words = [str(draw.choice(own)) for _ in range(1 + number // 10)]
        words += [str(draw.choice(EITHER)) for _ in range(number // 10)]
        lines.append(f"{' '.join(draw.permutation(words))},{'bad' if number % 2 else 'good'}")
    (folder / "texts.csv").write_text("\n".join(lines))
    return folder / "texts.csv", "It was a warm and happy day"


def _words(folder: Path) -> tuple[Path, str]:
    """Names of one or two words among others; every kind of word is known by itself."""
    draw, lines = np.random.default_rng(0), []
    for number in range(120):
        for _ in range(1 + number % 8):
            lines += [f"{word} O" for word in draw.choice(EITHER, 1 + draw.integers(2))]
            lines.append(f"{draw.choice(['Anna', 'Ben', 'Carla'])} B-PER")
            lines += ["Smith I-PER"] * int(draw.integers(2))
        lines.append("")
    (folder / "words.txt").write_text("\n".join(lines))
    return folder / "words.txt", "the day Anna Smith was very"


def _sounds(folder: Path) -> tuple[Path, Path]:
    """High and low tones of 0.05 to 0.15 seconds, with noise."""
    draw = np.random.default_rng(0)
    for name, frequency in (("high", 1600), ("low", 400)):
        (folder / "sounds" / name).mkdir(parents=True)
        for number in range(40):
            time = np.arange(400 + 20 * number) / 8000
            tone = 9000 * np.sin(2 * np.pi * frequency * time + number)
            samples = tone + draw.normal(0, 500, len(time))
            write_wav(folder / "sounds" / name / f"{number:02}.wav", samples)
    return folder / "sounds", folder / "sounds/low/17.wav"


def _speech(folder: Path) -> tuple[Path, Path]:
    """One to six tones of two heights; the text has a letter for each."""
    draw, lines = np.random.default_rng(0), ["file,text"]
    for number in range(80):
        spoken = draw.choice(["a", "b"], 1 + number % 6)
        parts = [np.zeros(400)]
        for letter in spoken:
            time = np.arange(480 + 40 * (number % 3)) / 8000
            parts += [9000 * np.sin(2 * np.pi * {"a": 1600, "b": 400}[letter] * time)]
            parts += [np.zeros(400)]
        sound = np.concatenate(parts)
        write_wav(folder / f"{number:02}.wav", sound + draw.normal(0, 300, len(sound)))
        lines.append(f"{number:02}.wav,{' '.join(spoken)}")
    (folder / "said.csv").write_text("\n".join(lines))
    return folder / "said.csv", folder / "17.wav"


def write_wav(file: Path, samples: np.ndarray) -> None:
    """16 bits of one channel, 8,000 samples a second."""
    with wave.open(str(file), "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(8000)
        opened.writeframes(samples.astype("<i2").tobytes())


def _series(folder: Path) -> tuple[Path, Path]:
    """Two waves of twelve hours with a little noise, 20 days long."""
    draw, lines = np.random.default_rng(0), ["date,load,heat"]
    for hour in range(240):
        load, heat = np.sin(np.array([0, 2]) + 2 * np.pi * hour / 12) + draw.normal(0, 0.02, 2)
        lines.append(f"2024-01-{1 + hour // 24:02} {hour % 24:02}:00,{load:.4f},{20 + heat:.4f}")
    (folder / "series.csv").write_text("\n".join(lines))
    return folder / "series.csv", folder / "series.csv"


def _stream(folder: Path) -> tuple[Path, str]:
    """Each letter twice, from a to l: what comes next hangs on the last two characters."""
    (folder / "stream.txt").write_text(100 * "aabbccddeeffgghhiijjkkll ")
    return folder / "stream.txt", "aabbccd"


def _uses(folder: Path) -> tuple[Path, str]:
    """Users who take twenty items in turn, each beginning somewhere else."""
    lines = ["user,item,rating,time"]
    for user in range(60):
        for step in range(4 + user % 14):
            lines.append(f"{user},{100 + (7 * user + step) % 20},5,{1000 + step}")
    (folder / "uses.csv").write_text("\n".join(lines))
    return folder / "uses.csv", "103, 104, 105"


def _ratings(folder: Path) -> tuple[Path, str]:
    """Users who like the even items or the odd ones, and say so."""
    draw, lines = np.random.default_rng(0), ["user,item,rating"]
    for user in range(60):
        for item in draw.permutation(20)[: 4 + user % 14]:
            liked = (item + user) % 2 == 0
            lines.append(f"{user},{100 + item},{5 if liked else 1}")
    (folder / "ratings.csv").write_text("\n".join(lines))
    return folder / "ratings.csv", "100=5, 103=1, 104"


def _boxes(folder: Path) -> tuple[Path, Path]:
    """One to three bright squares or dark ones on grey, 32 x 32 pixels, as Pascal VOC has them."""
    draw, root = np.random.default_rng(0), folder / "squares"
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    for number in range(60):
        pixels = draw.normal(120, 8, (32, 32))
        lines = []
        for corner in draw.permutation(4)[: 1 + number % 3]:
            x, y = draw.integers(0, 6, 2) + 16 * np.array([corner % 2, corner // 2])
            side, kind = int(draw.integers(8, 11)), int(draw.integers(2))
            pixels[y : y + side, x : x + side] = (20, 230)[kind]
            lines.append(
                f"<object><name>{('dark', 'bright')[kind]}</name><bndbox><xmin>{x}</xmin>"
                f"<ymin>{y}</ymin><xmax>{x + side}</xmax><ymax>{y + side}</ymax></bndbox></object>"
            )
        png = encode_png(np.clip(pixels, 0, 255).astype(np.uint8)[None])
        (root / f"JPEGImages/{number:02}.png").write_bytes(png)
        text = f"<annotation>{''.join(lines)}</annotation>"
        (root / f"Annotations/{number:02}.xml").write_text(text)
    return root, root / "JPEGImages/07.png"


def _episodes(folder: Path) -> tuple[Path, str]:
    """A pole on a cart; asked where it falls to the right."""
    return Path("gymnasium:CartPole-v1"), "0.1, 0.2, 0.05, 0.3"


COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220), "white": (250,) * 3}


def _captions(folder: Path) -> tuple[Path, Path]:
    """Stripes and spots in four colours with two captions each, of 2 to 14 words."""
    draw, lines = np.random.default_rng(0), []
    spot = np.zeros((8, 8))
    spot[2:6, 2:6] = 1
    across = np.tile([[1], [0]], (4, 8))
    shapes = {"stripes across": across, "stripes down": across.T, "spot": spot}
    (folder / "images").mkdir()
    for number in range(60):
        colour, shape = list(COLOURS)[number % 4], list(shapes)[number // 4 % 3]
        shown = shapes[shape] * np.array(COLOURS[colour])[:, None, None]
        pixels = np.clip(shown + draw.normal(0, 25, (3, 8, 8)), 0, 255).astype(np.uint8)
        (folder / "images" / f"{number:02}.png").write_bytes(encode_png(pixels))
        longer = " ".join(draw.choice(EITHER, 1 + number % 10))
        texts = [f"{colour} {shape} {number}", f"{longer} {shape} in {colour} {number}"]
        lines.append(json.dumps({"image": f"{number:02}.png", "captions": texts}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder, folder / "images/07.png"


WORDS = {"ein": "a", "Hund": "dog", "Kind": "child", "Mann": "man", "läuft": "runs",
         "schläft": "sleeps", "und": "and", "schnell": "fast", "heute": "today"}  # fmt: skip


def _pairs(folder: Path) -> tuple[Path, str]:
    """One to five words, each of which has one translation."""
    draw = np.random.default_rng(0)
    (folder / "pairs").mkdir()
    sides = {"de": list[str](), "en": list[str]()}
    for number in range(240):
        words = draw.choice(list(WORDS), 1 + number % 5)
        sides["de"].append(" ".join(words) + ".")
        sides["en"].append(" ".join(WORDS[word] for word in words) + ".")
    for language, lines in sides.items():
        (folder / "pairs" / f"train.{language}").write_text("\n".join(lines) + "\n")
    return folder / "pairs", "ein Hund läuft."


MAKERS: dict[str, Maker] = {
    "image-classification": Maker(_pictures, needs=("PIL",)),
    "text-classification": Maker(_texts),
    "audio-classification": Maker(_sounds, needs=("soundfile",)),
    "transcription": Maker(_speech, needs=("soundfile", "rapidfuzz")),
    "tagging": Maker(_words),
    "forecasting": Maker(_series, {"horizon": 4, "window": 16, "valid": 0.2}),
    "language-modeling": Maker(
        _stream,
        {"window": 32, "valid": 0.15},
        predict={"max_new": 12, "temperature": 0.5},
        by_heart=250,
    ),
    "recommendation": Maker(_uses),
    "rating-prediction": Maker(_ratings),
    "detection": Maker(_boxes, {"image_size": 32}, needs=("PIL",)),
    "control": Maker(_episodes, {"episodes": 8}, needs=("gymnasium",)),
    "image-text-matching": Maker(
        _captions, needs=("PIL",), predict={"texts": ["a red spot", "stripes down in white"]}
    ),
    "translation": Maker(
        _pairs,
        {"pair": ["de", "en"], "tokens": {"vocab_size": 400}},
        needs=("tokenizers", "sacrebleu"),
        steps=400,
    ),
}
