"""What was answered, drawn for people: boxes and their labels on a picture, and where it goes."""

import functools
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.core.errors import ConfigError
from modelwright.core.files import write_bytes
from modelwright.core.progress import say
from modelwright.data import image

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

# Source: Okabe, Ito 2008, "Color Universal Design": told apart with any kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

# After Pillow's own, which knows Latin letters alone; looked for where the system keeps its fonts.
FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc",
    "Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc",
)  # fmt: skip
LEAST = 640  # pixels that the longer side of a drawing may have where a smaller picture is enlarged
PAD = 2  # pixels around a label
Box = tuple[float, float, float, float]  # x1, y1, x2, y2
_UNASSIGNED = "\U0010ffff"  # drawn as fonts draw what they do not have


def color(kind: str, kinds: Sequence[str], palette: Sequence[str] = COLORS) -> str:
    """Of a kind among those that a model knows: the same wherever it is shown, and its own as long
    as there are no more kinds than colours.

    >>> [color(kind, ["LOC", "ORG", "PER"], ["red", "blue"]) for kind in ("ORG", "PER")]
    ['blue', 'red']
    """
    return palette[kinds.index(kind) % len(palette)]


DRAWN = ("boxes", "horizon")  # kinds of answers


def require(task: str, able: Sequence[str], folder: Path) -> None:
    """Whether there is something to draw, and a place for it.

    Args:
        able: the tasks whose answers are in DRAWN.
    Raises: ConfigError where the task is none of them, or the folder is a file.
    """
    if task not in able:
        raise ConfigError(
            f"predict: there is nothing to draw with {task}",
            expected=f"a model for {' or '.join(able)}",
            repair="leave draw out",
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"predict: {folder} is a file, and drawings go into a folder",
            expected="a folder, there or not",
            repair="name another with draw",
        )


def write(folder: Path, name: str, suffix: str, content: bytes) -> Path:
    """Where in the folder a drawing of that name was put; a name that is taken gets a number.

    Raises: StorageError when the disk refuses.
    """
    stem = Path(name).stem
    names = (f"{stem}{f'-{turn}' if turn else ''}{suffix}" for turn in itertools.count())
    path = next(folder / own for own in names if not (folder / own).exists())
    write_bytes(path, content)
    return path


def boxes(content: bytes, found: Sequence[Mapping[str, Any]], kinds: Sequence[str] = ()) -> bytes:
    """A picture as PNG with a frame around each thing, and its label and score.

    A small picture is enlarged by a whole number, and labels keep off each other, so that none
    covers what it is about.

    Args:
        found: each with label, score and box: x1, y1, x2, y2 in the upright picture's pixels.
        kinds: that the model knows, in whose order colours go; if none, those that were found.
    Raises: DataError if the bytes are no picture.
    """
    shown = image.upright(content)
    from PIL import Image, ImageDraw

    scale = max(1, LEAST // max(shown.size))
    shown = shown.resize((scale * shown.width, scale * shown.height), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(shown)
    size = max(12.0, max(shown.size) / 50)
    width = max(1, round(max(shown.size) / 300))
    kinds = kinds or sorted({str(one["label"]) for one in found})
    surest = sorted(found, key=lambda one: -float(one["score"]))
    for one in reversed(surest):  # those on top, and labels above all frames
        pen.rectangle(
            _within(one["box"], scale, shown.size), None, color(one["label"], kinds), width
        )
    taken: list[Box] = []
    for one in surest:
        label, name = _written(str(one["label"]))
        text, font = f"{label} {one['score']:.0%}", _font(name, size)
        x1, y1, _, _ = _within(one["box"], scale, shown.size)
        _, _, wide, high = pen.textbbox((0, 0), text, font, anchor="lt")
        behind = _free(x1, y1, (wide + 2 * PAD, high + 2 * PAD), taken, shown.size)
        taken.append(behind)
        pen.rectangle(behind, fill=color(one["label"], kinds))
        pen.text((behind[0] + PAD, behind[1] + PAD), text, fill="white", font=font, anchor="lt")
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


def _within(box: Sequence[float], scale: int, size: tuple[int, int]) -> Box:
    """A box as its frame is drawn: with its last pixels inside the picture."""
    x1, y1, x2, y2 = (
        min(max(scale * side, 0.0), most - 1.0) for side, most in zip(box, size * 2, strict=True)
    )
    return x1, y1, x2, y2


def _free(
    x1: float, y1: float, own: tuple[float, float], taken: Sequence[Box], size: tuple[int, int]
) -> Box:
    """Where a label stands: above its frame's corner, inside where that is beyond the picture, or
    as near to it, up or down, as there is room between the labels that stand already."""
    wide, high = own
    left, lowest = max(min(x1, size[0] - wide), 0.0), max(size[1] - high, 0.0)
    start = min(y1 - high if y1 >= high else y1, lowest)
    tops = (start + step * high for step in range(-int(start // high), int(size[1] // high)))
    places = [(left, top, left + wide, top + high) for top in tops if 0 <= top <= lowest]
    places.sort(key=lambda place: abs(place[1] - start))
    free = (
        (a1, b1, a2, b2)
        for a1, b1, a2, b2 in places
        if not any(a1 < c2 and c1 < a2 and b1 < d2 and d1 < b2 for c1, d1, c2, d2 in taken)
    )
    return next(free, (left, start, left + wide, start + high))


_numbers = itertools.count(1)


@functools.cache  # so that a label has one number in every picture, and is told of once
def _written(label: str) -> tuple[str, str]:
    """What is written for a label, and the name of the font that has its letters; "" is Pillow's
    own. Where no font has them, a number is written."""
    for name in ("", *FONTS):
        try:
            font = _font(name, 20)
        except OSError:  # not on this machine
            continue
        missing = _drawn(font, _UNASSIGNED)
        if all(_drawn(font, letter) != missing for letter in label if not letter.isspace()):
            return label, name
    number = next(_numbers)
    say(f"no font on this machine has the letters of {label!r}: it is drawn as #{number}")
    return f"#{number}", ""


def _font(name: str, size: float) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def _drawn(font: "FreeTypeFont | ImageFont", letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
