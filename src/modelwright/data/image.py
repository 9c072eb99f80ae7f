"""PNG, JPEG, WebP, BMP and GIF bytes to pixels, and PNG back.

`decode` is the one preprocessing of the product: the folder source, predict and the server all
call it, so that a model is asked what it was trained on.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import DataError, MissingExtra
from modelwright.data.rows import Images, Prepared, Rows

if TYPE_CHECKING:
    from PIL.Image import Image

# Refused before any pixel is decoded: a small file can announce an image that fills the memory.
MAX_PIXELS = 50_000_000
# Of an animation the first picture. No TIFF: its numbers have many widths, and no plain range.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
KNOWN = "PNG, JPEG, WebP, BMP or GIF"  # the same for people; of those that move, the first picture
# EXIF tag of the orientation, and its values that swap height and width.
# Source: EXIF 2.32, JEITA CP-3451, table 4.
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Images are taken as they are; mean and spread of each channel come from train."""
    mean, std = statistics(parts["train"].images)
    shape = parts["train"].images.shape[1:]
    inputs = {"kind": "image", "shape": shape, "mean": mean, "std": std}
    return Prepared(parts, inputs, grid(shape) if answer == "boxes" else {}, {})


# Pixels between the cells of a grid, by the longer side below which they fit, and beyond.
STRIDES, COARSEST = ((160, 4), (512, 8)), 16


def stride(height: int, width: int) -> int:
    """Pixels between the cells of a grid over pictures of that size."""
    return next((step for limit, step in STRIDES if max(height, width) < limit), COARSEST)


def grid(shape: Sequence[int]) -> dict[str, Any]:
    """Where answers lie that each place of a picture has: cells down and across, and their step.

    shape: (channels, height, width), both sides multiples of the step
    """
    step = stride(*shape[1:])
    return {"grid": [side // step for side in shape[1:]], "stride": step}


def tokens(content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]) -> list[str]:
    """Pixels of a picture for each one of the model's input, across and down.

    Answers about places, such as boxes, are told in the picture's own pixels by it.
    """
    height, width = size(content)
    return [repr(width / inputs["shape"][2]), repr(height / inputs["shape"][1])]


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to a picture before and inside the graph, for the manifest."""
    channels, height, width = inputs["shape"]
    return {
        "channels": channels, "height": height, "width": width, "resize": "bilinear",
        "in_graph": "subtract mean, divide by std, per channel, on the 0–255 scale",
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """One picture as a batch of one.

    Raises: DataError if the bytes are no picture.
    """
    return {"image": decode(content, *inputs["shape"])[None]}


PIECE_BYTES = 2**23  # of pixels; as wider numbers, a piece takes up to eight times as much


def pieces(images: Images, rows: int) -> Iterator[slice]:
    """Runs of so many of the rows, in order, that each holds PIECE_BYTES at most, or one row."""
    step = max(1, PIECE_BYTES // max(1, math.prod(images.shape[1:])))
    return (slice(start, start + step) for start in range(0, rows, step))


# Of 255: keeps a channel that never changes from being divided by zero and amplified to noise.
SMALLEST_STD = 1.0


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, on the 0–255 scale, exact for any number of rows.

    images: uint8 (rows, channels, height, width)

    The standard deviation is at least SMALLEST_STD; no rows give 0 and 1.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for piece in pieces(images, len(images)):
        for channel in range(channels):
            pixels = images[piece, channel].reshape(-1)
            counts[channel] += np.bincount(pixels, minlength=256)
    values = np.arange(256, dtype=np.float64)
    number = np.maximum(counts.sum(axis=1), 1)
    mean = counts @ values / number
    variance = np.maximum(counts @ values**2 / number - mean**2, 0)
    std = np.maximum(np.sqrt(variance), SMALLEST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())


def decode(content: bytes, channels: int, height: int, width: int) -> Images:
    """The pixels of a picture of FORMATS, uint8 (channels, height, width), 0 is black.

    Turned upright by its EXIF orientation; 16-bit grey is scaled to 8 bits; an alpha channel is
    left out; the whole image is resized (bilinear over the pixels covered) where its size differs.

    Args:
        channels: 1 for grey (ITU-R 601 luma of a coloured image) or 3 for red, green, blue.
    Raises: DataError if the bytes are no whole picture or announce more than MAX_PIXELS;
        MissingExtra without Pillow.
    """
    _require_pillow()
    from PIL import Image

    try:
        _open(content).verify()  # checksums; the file has to be opened again after it
        image = _open(content)
        image.load()
        image = _plain(image).convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, zlib …
        raise _unreadable(error) from error
    pixels = np.array(image, dtype=np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def upright(content: bytes) -> "Image":
    """A picture in its own size and in colour, turned by its EXIF orientation.

    Raises: as `decode`.
    """
    _require_pillow()
    try:
        image = _open(content)
        image.load()
        return _plain(image).convert("RGB")
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(error) from error


def size(content: bytes) -> tuple[int, int]:
    """Height and width of a picture once upright, from its header alone.

    Raises: DataError if there is no such header or it announces more than MAX_PIXELS.
    """
    _require_pillow()
    try:
        image = _open(content)
        sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(error) from error
    return (image.width, image.height) if sideways else (image.height, image.width)


def encode_png(image: Images) -> bytes:
    """A PNG file of uint8 (channels, height, width) pixels, channels 1 or 3.

    Raises: DataError for another shape or dtype; MissingExtra without Pillow.
    """
    _require_pillow()
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
        raise DataError(
            f"cannot write {image.dtype} {image.shape} as PNG",
            expected="uint8 (channels, height, width) with 1 or 3 channels",
        )
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def _open(content: bytes) -> "Image":
    from PIL import Image

    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"the image announces {image.width} × {image.height} pixels",
            expected=f"at most {MAX_PIXELS:,} pixels",
            repair="shrink it first",
        )
    return image


def _plain(image: "Image") -> "Image":
    """Upright, and in a mode that Pillow converts to L or RGB without clipping."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits; convert("L") would cut at 255
        wide = np.clip(np.asarray(image).astype(np.float64), 0, 65535)
        return Image.fromarray(np.rint(wide / 257).astype(np.uint8))
    if image.mode == "P":
        return image.convert("RGBA")
    return image


def _unreadable(error: Exception) -> DataError:
    from PIL import UnidentifiedImageError

    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its text shows a Python object
        reason = f"it is no {KNOWN}"
    return DataError(
        f"the image cannot be read: {reason}",
        expected=f"a whole {KNOWN} file",
    )


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise MissingExtra("pillow", "vision", "reading and writing images") from error
