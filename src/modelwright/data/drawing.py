"""What was answered, drawn for people: boxes and their labels on a picture, and where it goes."""

import functools
import io
import itertools
import zlib
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
_UNASSIGNED = "\U0010ffff"  # drawn as fonts draw what they do not have


def color(label: str) -> str:
    """The same for a label in every picture."""
    return COLORS[zlib.crc32(label.encode()) % len(COLORS)]


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


def boxes(content: bytes, found: Sequence[Mapping[str, Any]]) -> bytes:
    """A picture as PNG with a frame around each thing, and its label and score.

    Args:
        found: each with label, score and box: x1, y1, x2, y2 in the upright picture's pixels.
    Raises: DataError if the bytes are no picture.
    """
    shown = image.upright(content)
    from PIL import ImageDraw

    pen = ImageDraw.Draw(shown)
    size = max(10.0, max(shown.size) / 50)
    width = max(1, round(max(shown.size) / 300))
    for one in sorted(found, key=lambda one: float(one["score"])):  # the surest on top
        own, (x1, y1, x2, y2) = color(str(one["label"])), one["box"]
        pen.rectangle((x1, y1, x2, y2), outline=own, width=width)
        label, name = _written(str(one["label"]))
        text, font = f"{label} {one['score']:.0%}", _font(name, size)
        behind = pen.textbbox((x1, y1), text, font, anchor="lb" if y1 > size else "lt")
        pen.rectangle(behind, fill=own)
        pen.text(behind[:2], text, fill="white", font=font, anchor="lt")
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


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
