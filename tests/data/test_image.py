"""Image files to pixels, and folders of them."""

import struct
import sys
import zlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modelwright.core.errors import DataError, MissingExtra
from modelwright.data import image, label_noise, similarity
from modelwright.data.catalog import load

from .conftest import file_of, noise, section, write_folder


def test_png_round_trip():
    """A PNG gives back the very pixels that were written, grey and coloured."""
    for channels in (1, 3):
        pixels = noise(1, (channels, 5, 7))[0]

        assert np.array_equal(pixels, image.decode(image.encode_png(pixels), channels, 5, 7))


@pytest.mark.parametrize("form", ["BMP", "GIF", "WEBP"])
def test_other_formats_are_read_too(form):
    """As PNG is, where nothing is lost; of an animation the first picture."""
    first, second = noise(2, (5, 7))
    more = {} if form == "BMP" else {"save_all": True, "append_images": [Image.fromarray(second)]}
    single, several = (file_of(first, form, lossless=True, **keys) for keys in ({}, more))

    for content in (single, several):
        assert (5, 7) == image.size(content)
        assert np.array_equal(first, image.decode(content, 1, 5, 7)[0])
    with pytest.raises(DataError):
        image.decode(single[: len(single) // 2], 1, 5, 7)


def test_the_whole_image_is_resized():
    """A larger image is shrunk as a whole: left half black, right half white."""
    pixels = np.zeros((40, 20), np.uint8)
    pixels[:, 10:] = 255
    out = image.decode(file_of(pixels), 1, 8, 8)

    assert (1, 8, 8) == out.shape
    assert 0 == out[0, :, :3].max() and 255 == out[0, :, 5:].min()


def test_camera_orientation_is_applied():
    """A photo stored on its side comes out upright, and so does its size."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = noise(1, (4, 6))[0]
    content = file_of(pixels, exif=exif)

    assert (6, 4) == image.size(content)
    assert np.array_equal(np.rot90(pixels, -1), image.decode(content, 1, 6, 4)[0])


def test_wide_grey_is_scaled_not_cut():
    """16 bits of grey keep their range: the half is 128."""
    pixels = np.array([[0, 32896], [65535, 257]], np.uint16)

    assert [[[0, 128], [255, 1]]] == image.decode(file_of(pixels), 1, 2, 2).tolist()


def png_of_size(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\0IEND\xaeB`\x82"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        file_of(noise(1, (9, 9))[0])[:60],
        file_of(noise(1, (90, 90))[0], "JPEG")[:900],
        file_of(noise(1, (9, 9))[0], "TIFF"),
        file_of(noise(1, (9, 9))[0]).replace(b"IDAT", b"IDAX"),
        png_of_size(8000, 8000),
        png_of_size(60000, 60000),
    ],
)
def test_what_cannot_be_decoded_is_a_data_error(content):
    """Empty, cut, foreign, damaged and oversized files are each one typed error."""
    with pytest.raises(DataError):
        image.decode(content, 3, 8, 8)


@pytest.mark.parametrize("content", [b"", b"just words"])
def test_what_is_no_image_is_said_in_plain_words(content):
    """The reason is a sentence, not the library's Python object."""
    with pytest.raises(DataError) as caught:
        image.decode(content, 1, 8, 8)

    assert "the image cannot be read: it is no PNG, JPEG, WebP, BMP or GIF" == caught.value.what


def test_missing_pillow_names_the_extra(images, monkeypatch):
    """Without Pillow, images and folders of them say what to install."""
    monkeypatch.setitem(sys.modules, "PIL", None)

    with pytest.raises(MissingExtra, match=r"modelwright\[vision\]"):
        image.decode(b"", 1, 8, 8)
    with pytest.raises(MissingExtra, match="pillow"):
        load(section(images))


def test_folder_gives_classes_by_name(images):
    """Folder names in order are the labels; each row knows its file; grey stays one channel."""
    data = load(section(images, test=0, valid=0))
    train = data.parts["train"]

    assert ["cats", "dogs"] == data.labels
    assert (1, 6, 6) == data.inputs["shape"]
    assert [f"cats/{n:02}.png" for n in range(10)] == train.origins[:10]
    assert [0] * 10 + [1] * 10 == train.targets.tolist()
    assert np.array_equal(noise(1, (6, 6), 13)[0], train.images[13, 0])


def test_folder_takes_every_format_that_is_read(tmp_path):
    """By its name's end, in small letters or capitals."""
    picture = Image.fromarray(noise(1, (3, 8, 8))[0].transpose(1, 2, 0))
    names = ("a.png", "b.JPG", "c.jpeg", "d.webp", "e.bmp", "f.GIF")
    for folder in ("cats", "dogs"):
        (tmp_path / folder).mkdir()
        for name in names:
            picture.save(tmp_path / folder / name)
    data = load(section(tmp_path, valid=0.2, test=0.2), "image", "classes")

    assert 12 == sum(len(part) for part in data.parts.values())
    assert [] == data.findings


def test_folder_pixels_are_those_of_decode(images):
    """The folder source and decode, which serves requests, give equal pixels."""
    colour = noise(1, (9, 7, 3))[0]
    (images / "dogs" / "photo.JPG").write_bytes(file_of(colour, "JPEG"))
    data = load(section(images, test=0, valid=0, image_size=8))
    train = data.parts["train"]

    assert (3, 8, 8) == data.inputs["shape"]
    for row, origin in enumerate(train.origins):
        content = (images / origin).read_bytes()
        assert np.array_equal(image.decode(content, 3, 8, 8), train.images[row])


def test_coloured_files_without_colour_are_grey(images):
    """An RGB file whose channels are equal needs no three channels."""
    pixels = np.repeat(noise(1, (6, 6, 1)), 3, axis=3)[0]
    (images / "cats" / "z.jpeg").write_bytes(file_of(pixels))

    assert (1, 6, 6) == load(section(images)).inputs["shape"]


def test_equal_sizes_are_kept_and_others_get_the_median(images, tmp_path):
    """Images of one size keep it, square or not; else the median side, in fours, at most 64."""
    write_folder(tmp_path / "wide", ["a/1.png", "b/1.png"], size=(5, 9))
    write_folder(tmp_path / "mixed", ["a/1.png", "b/1.png"], size=(21, 21))
    write_folder(tmp_path / "mixed", ["a/2.png"], size=(30, 30))
    write_folder(tmp_path / "large", ["a/1.png", "b/1.png"], size=(300, 100))
    write_folder(tmp_path / "large", ["a/2.png"], size=(200, 200))

    sizes = {
        name: load(section(tmp_path / name)).inputs["shape"] for name in ("wide", "mixed", "large")
    }
    assert {"wide": (1, 5, 9), "mixed": (1, 20, 20), "large": (1, 64, 64)} == sizes


def test_pictures_beyond_the_memory_are_refused_before_they_are_read(images, monkeypatch):
    """Where all are of one size that would not fit, the key that makes them smaller is named."""
    machine = SimpleNamespace(memory_bytes=2000)  # 20 pictures of 6 x 6 take 4,320 bytes
    monkeypatch.setattr("modelwright.data.folder.this_machine", lambda: machine)

    with pytest.raises(DataError, match="20 pictures of 6 × 6 take") as caught:
        load(section(images))
    assert "set data.image_size" in caught.value.repair
    assert (1, 4, 4) == load(section(images, image_size=4)).inputs["shape"]


def test_folder_parts_are_taken_as_they_are(tmp_path):
    """train, val and test folders become the parts."""
    names = [f"{p}/{c}/{n}.png" for p in ("train", "val", "test") for c in "ab" for n in range(3)]
    write_folder(tmp_path, names)
    data = load(section(tmp_path))

    assert {"train": 6, "valid": 6, "test": 6} == {p: len(r) for p, r in data.parts.items()}
    assert "val/a/0.png" == data.parts["valid"].origins[0]


def test_parts_beside_classes_are_refused(images):
    """A test folder among class folders is a question, not a class."""
    write_folder(images, ["test/cats/1.png"])

    with pytest.raises(DataError, match="cats, dogs, test"):
        load(section(images))


def test_links_out_of_the_folder_are_refused(images, tmp_path):
    """A link out of the folder, or to a folder (it may be a circle), is refused by name."""
    write_folder(tmp_path / "other", ["secret/a.png"])
    secret = tmp_path / "other" / "secret"
    for link, target in (
        ("cats/x.png", secret / "a.png"),
        ("birds", secret),
        ("cats/again", images / "cats"),
    ):
        (images / link).symlink_to(target)

        with pytest.raises(DataError, match=f"{link} is a link"):
            load(section(images))
        (images / link).unlink()


def test_a_link_to_itself_is_a_broken_file(images):
    """It leads nowhere, so it cannot be read; the rest of the folder can."""
    (images / "cats" / "x.png").symlink_to(images / "cats" / "x.png")
    (finding,) = load(section(images)).findings

    assert ("broken_files", (("cats/x.png",),)) == (finding.check, finding.rows)


@pytest.mark.parametrize("names", [[], ["a.png"]])
def test_folder_without_classes_says_what_was_expected(tmp_path, names):
    """An empty folder and one of loose files are told how a source looks."""
    write_folder(tmp_path, names)

    with pytest.raises(DataError, match="no class folders") as caught:
        load(section(tmp_path))
    assert "one folder for each class" in str(caught.value)


def test_pieces_are_of_bytes_not_of_pictures(monkeypatch):
    """Large pictures come a few at a time, one at least; every row comes once, in order."""
    monkeypatch.setattr(image, "PIECE_BYTES", 3 * 64 * 64)
    for side, wanted in ((32, [4, 4, 1]), (64, [1] * 9), (128, [1] * 9)):
        rows = np.zeros((9, 3, side, side), np.uint8)
        cut = [range(9)[piece] for piece in image.pieces(rows, 9)]

        assert wanted == [len(piece) for piece in cut]
        assert [*range(9)] == [row for piece in cut for row in piece]


@pytest.mark.parametrize("look", [
    image.statistics,
    lambda rows: similarity._features(rows, np.arange(len(rows))).tolist(),
    lambda rows: label_noise._shrunken(rows, np.arange(len(rows))).tolist(),
])  # fmt: skip
def test_pictures_become_wider_numbers_piece_by_piece(monkeypatch, look):
    """Never more than a piece at once, and what comes out is the same."""
    rows, sizes = noise(9, (3, 20, 20)), []
    bincount, pool = np.bincount, torch.nn.functional.adaptive_avg_pool2d

    def counted(function, pixels, *rest, **named):
        sizes.append(pixels.size if isinstance(pixels, np.ndarray) else pixels.numel())
        return function(pixels, *rest, **named)

    whole = look(rows)
    monkeypatch.setattr(image, "PIECE_BYTES", 2 * 3 * 20 * 20)
    monkeypatch.setattr(np, "bincount", partial(counted, bincount))
    monkeypatch.setattr(torch.nn.functional, "adaptive_avg_pool2d", partial(counted, pool))

    assert whole == look(rows)
    assert 0 < max(sizes) <= image.PIECE_BYTES
