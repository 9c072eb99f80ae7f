"""The sources that are arrays already: "digits", "idx" (the files of MNIST) and "npz"."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import DataError, MissingExtra, did_you_mean
from modelwright.data.opening import UNREADABLE, open_bytes
from modelwright.data.rows import PARTS, Finding, Images, Loaded, Rows, Targets

# Source: http://yann.lecun.com/exdb/mnist/ (format at the end of the page); all big-endian.
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_IDX_UNSIGNED_BYTE = 0x08
_IDX_PIECE = 2**24  # bytes read at once

# part -> names of its two arrays; the second spelling is MedMNIST's
NPZ_ARRAYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y")),
    "valid": (("x_valid", "y_valid"), ("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
_NPZ_EXPECTED = "x_train, y_train, and if you have them x_valid, y_valid, x_test, y_test, labels"
_NPZ_LABELS = "labels"
_NPZ_CHUNK = 1024


def read_digits(path: Path, section: recipe.Data) -> Loaded:
    """The 1,797 grey 8 × 8 digits that come with scikit-learn, undivided.

    Values 0..16 become round(value · 255 / 16).
    Raises: MissingExtra without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "vision", "the source digits") from error
    values, targets = load_digits(return_X_y=True)
    images = np.rint(values.reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    rows = Rows({"image": images}, targets.astype(np.int64), [""] * len(images))
    return {"train": rows}, [str(digit) for digit in range(10)], []


def read_idx(folder: Path, section: recipe.Data) -> Loaded:
    """The four files of MNIST, plain or .gz; without the t10k files, train alone.

    Raises: DataError naming the file that is missing, cut short, too long or of another kind.
    """
    found = {part: [_idx_path(folder, name) for name in names] for part, names in IDX_FILES.items()}
    if not any(found["test"]):
        del found["test"]
    raw = {}
    for part, paths in found.items():
        for name, path in zip(IDX_FILES[part], paths, strict=True):
            if path is None:
                raise DataError(
                    f"{folder / name} is missing", expected=f"{name} or {name}.gz beside the others"
                )
        images_path, labels_path = (path for path in paths if path is not None)
        images, targets = _read_idx(images_path, 3), _read_idx(labels_path, 1)
        if len(images) != len(targets):
            raise DataError(
                f"{labels_path} has {len(targets)} labels for {len(images)} images",
                expected=f"one label for each image of {images_path.name}",
            )
        raw[part] = (images[:, None], targets.astype(np.int64))
    _same_shape(folder, {part: images.shape[1:] for part, (images, _) in raw.items()})
    return _in_range(raw, None, dict.fromkeys(raw, ""))


def has_idx(folder: Path) -> bool:
    """Whether the folder holds MNIST-named training images."""
    return _idx_path(folder, IDX_FILES["train"][0]) is not None


def _idx_path(folder: Path, name: str) -> Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _read_idx(path: Path, ndim: int) -> Images:
    try:
        with open_bytes(path) as file:
            header = file.read(4 + 4 * ndim)
            if len(header) < 4 or tuple(header[:4]) != (0, 0, _IDX_UNSIGNED_BYTE, ndim):
                raise DataError(
                    f"{path} begins with {header[:4].hex(' ') or 'nothing'}",
                    expected=f"00 00 08 {ndim:02x}: IDX, unsigned bytes, {ndim} dimensions",
                )
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
            size = math.prod(shape)
            content = bytearray()  # in pieces: a broken header can announce more than there is
            while piece := file.read(min(size + 1 - len(content), _IDX_PIECE)):
                content += piece
    except (*UNREADABLE, ValueError) as error:
        raise DataError(
            f"{path} cannot be read to its end: {error}", expected="a whole file", repair=_AGAIN
        ) from error
    if size == 0:
        announced = " × ".join(map(str, shape))
        raise DataError(f"{path} holds nothing: {announced} bytes", expected="at least one row")
    if len(shape) != ndim or len(content) != size:
        raise DataError(
            f"{path} is {'too long' if len(content) > size else 'cut short'}: its header "
            f"announces {' × '.join(map(str, shape))} bytes",
            expected=f"{size} bytes after the header",
            repair=_AGAIN,
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


_AGAIN = "copy or download the file again"


def read_npz(path: Path, section: recipe.Data) -> Loaded:
    """Arrays by name: x_train and y_train, or x and y, and the parts there are besides.

    x: uint8, or floats in [0, 1] that are scaled by 255 and rounded; (rows, height, width),
        (rows, height, width, channels) or (rows, channels, height, width), channels 1 or 3
    y: whole numbers (rows,) from 0
    labels: optional, one text for each class

    Rows with a NaN or an infinity are left out and become a finding nan_values; rows whose label
    is no class become label_out_of_range.

    Raises: DataError naming the array that is missing, unknown or of another kind.
    """
    arrays = _load_npz(path)
    names = {
        part: next((pair for pair in pairs if set(pair) & set(arrays)), None)
        for part, pairs in NPZ_ARRAYS.items()
    }
    known = {name for pair in names.values() if pair for name in pair} | {_NPZ_LABELS}
    if names["train"] is None:
        raise DataError(
            f"{path} holds {', '.join(sorted(arrays)) or 'no arrays'}", expected=_NPZ_EXPECTED
        )
    for name in sorted(set(arrays) - known):
        every = {name for pairs in NPZ_ARRAYS.values() for pair in pairs for name in pair}
        raise DataError(
            f"{path}: the array {name!r} has no meaning here",
            expected=did_you_mean(name, (every | {_NPZ_LABELS}) - set(arrays)),
        )
    raw, nan_rows, prefixes = {}, [], {}
    for part, pair in names.items():
        if pair is None:
            continue
        x_name, y_name = pair
        if missing := set(pair) - set(arrays):
            raise DataError(f"{path} has no array {missing.pop()!r}", expected=f"{pair} together")
        x = _channels_first(path, x_name, arrays[x_name])
        y = _whole_numbers(path, y_name, arrays[y_name])
        if len(x) != len(y):
            raise DataError(
                f"{path}: {x_name} has {len(x)} rows and {y_name} has {len(y)}",
                expected="one label for each image",
            )
        images, bad = _to_uint8(path, x_name, x)
        nan_rows += [f"{x_name} {row}" for row in np.flatnonzero(bad)]
        raw[part] = (images, np.where(bad, _DROPPED, y))
        prefixes[part] = y_name
    _same_shape(path, {part: images.shape[1:] for part, (images, _) in raw.items()})
    parts, labels, findings = _in_range(raw, _label_names(path, arrays), prefixes)
    if nan_rows:
        have = "row has" if len(nan_rows) == 1 else "rows have"
        text = f"{len(nan_rows)} {have} a value that is no number"
        findings.append(Finding.of("nan_values", nan_rows, text))
    return parts, labels, findings


_DROPPED = np.iinfo(np.int64).min


def _load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is one array alone, as numpy.save writes it")
        with loaded as file:
            arrays = {name: file[name] for name in file.files}
        if other := [name for name, held in arrays.items() if not isinstance(held, np.ndarray)]:
            raise ValueError(f"{other[0]} in it is no array")
        return arrays
    # RuntimeError: of an archive that is encrypted, or packed in a way that Python does not know;
    # MemoryError: of an array whose header announces more than there is memory
    except (
        *UNREADABLE, ValueError, zipfile.BadZipFile, AttributeError, RuntimeError, MemoryError
    ) as error:  # fmt: skip
        raise DataError(
            f"{path} cannot be read as NPZ: {error}",
            expected="a whole file of numpy.savez, without object arrays",
        ) from error


def _channels_first(path: Path, name: str, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if x.ndim == 3 and x.size:
        return x[:, None]
    if x.ndim == 4 and x.size:
        first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if first != last:
            return x if first else x.transpose(0, 3, 1, 2)
    raise DataError(
        f"{path}: {name} has the shape {x.shape}",
        expected="(rows, height, width), (rows, height, width, channels) or (rows, channels, "
        "height, width), at least one row, channels 1 or 3 and no side of 1 or 3 to confuse with",
    )


def _whole_numbers(path: Path, name: str, y: npt.NDArray[Any]) -> Targets:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {name} is {y.dtype} {y.shape}",
            expected="whole numbers (rows,): the class of each row, from 0",
        )
    return y.astype(np.int64)


def _to_uint8(path: Path, name: str, x: npt.NDArray[Any]) -> tuple[Images, npt.NDArray[np.bool_]]:
    """Pixels, and which rows hold something that is no number."""
    bad = np.zeros(len(x), np.bool_)
    if x.dtype == np.uint8:
        return x, bad
    if x.dtype.kind != "f":
        raise DataError(
            f"{path}: {name} is {x.dtype}",
            expected="uint8 from 0 to 255, or floats from 0 to 1",
            repair=f'save it as {name}.astype("uint8") if its values are 0 to 255',
        )
    images = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), _NPZ_CHUNK):
        chunk = x[start : start + _NPZ_CHUNK].astype(np.float64)
        finite = np.isfinite(chunk)
        bad[start : start + _NPZ_CHUNK] = ~finite.all(axis=(1, 2, 3))
        chunk = np.where(finite, chunk, 0.0)
        if chunk.min() < 0 or chunk.max() > 1:
            raise DataError(
                f"{path}: {name} has floats from {chunk.min():g} to {chunk.max():g}",
                expected="floats from 0 to 1, or uint8 from 0 to 255",
                repair=f'save it as {name}.astype("uint8") if its values are 0 to 255; data that '
                "is normalised already has to be scaled back",
            )
        images[start : start + _NPZ_CHUNK] = np.rint(chunk * 255)
    return images, bad


def _label_names(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> list[str] | None:
    if _NPZ_LABELS not in arrays:
        return None
    names = arrays[_NPZ_LABELS]
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
        raise DataError(
            f"{path}: labels is {names.dtype} {names.shape}",
            expected="texts (classes,), each once; the classes of the rows go into y_train",
        )
    return [str(name) for name in names]


def _same_shape(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        raise DataError(f"{path}: images differ in shape: {found}", expected="one shape everywhere")


def _in_range(
    raw: dict[str, tuple[Images, Targets]], labels: list[str] | None, names: dict[str, str]
) -> Loaded:
    """Rows whose label is a class; the others become one finding.

    Without names of the classes there are as many as the largest training label says, but never
    more than training rows: a label beyond that (255 for "unknown", say) is out of range.
    Targets of _DROPPED are left out without a word; their finding is made elsewhere.
    """
    train = raw["train"][1]
    if labels is None:
        inside = train[(train >= 0) & (train < len(train))]
        labels = [str(label) for label in range(int(inside.max(initial=-1)) + 1)]
    parts, outside = {}, []
    for part in (part for part in PARTS if part in raw):
        images, targets = raw[part]
        good = (targets >= 0) & (targets < len(labels))
        bad = np.flatnonzero(~good & (targets != _DROPPED))
        outside += [f"{names[part] or part} {row}" for row in bad]
        if not good.all():
            images, targets = images[good], targets[good]
        parts[part] = Rows({"image": images}, targets, [""] * len(images))
    findings = []
    if outside:
        have = "row has a label" if len(outside) == 1 else "rows have labels"
        text = f"{len(outside)} {have} outside 0 to {len(labels) - 1}"
        findings.append(Finding.of("label_out_of_range", outside, text))
    return parts, labels, findings
