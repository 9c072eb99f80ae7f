"""Recordings with what is said in them: tables of files and texts, and LibriSpeech's folders.

root/train.tsv, valid.tsv, test.tsv     a column `file`, from the table's folder on, and `text`
root/train-clean-100/.../*.trans.txt    a file's name without .flac and its text on each line

Letters are learned from train alone; audio.py has what is done to the sound.
Source of the second: Panayotov et al. 2015, ICASSP, "Librispeech".
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError, MissingExtra
from modelwright.core.signature import FRAMES_PER_S
from modelwright.data import audio, folder, language, tables, text
from modelwright.data.clean import Record, cleaned, findings
from modelwright.data.opening import inside
from modelwright.data.rows import Finding, Indices, Loaded, Prepared, Ragged, Rows, ragged

STACK = 2  # frames of 10 ms at each place of an answer; docs/experiments.md
LISTED = "*.trans.txt"
_LOOKED_AT = 2  # lines of a table: names, if there are any, and a row


def is_here(path: Path) -> bool:
    """Whether a path is a table of recordings and texts, or a folder with some."""
    if path.is_dir() and next(path.rglob(LISTED), None) is not None:
        return True
    try:
        table = text.part_files(path, recipe.Data(source=str(path)))["train"]
        first = islice(tables.rows_of(table, named=False), _LOOKED_AT)
        fields = [str(field).lower() for _, row in first for field in row.values()]
    except (DataError, OSError):
        return False
    return any(field.endswith(audio.SUFFIXES) for field in fields)


def read(path: Path, section: recipe.Data) -> Loaded:
    """Every readable recording with its text, blanks in a row as one.

    Rows are raw: mono samples at each file's own rate, that rate, and the text's characters. Parts
    are those of the tables' names, or of LibriSpeech's folders: train-…, dev-…, test-….
    A recording that cannot be read becomes a finding broken_files, one without a text empty_texts.

    Raises: DataError for a table that cannot be read, a file outside its folder, or no readable
        recording; MissingExtra without the libraries for sound and for counting errors.
    """
    _require_rapidfuzz()
    counts: dict[str, int] = {}
    parts: dict[str, Rows] = {}
    broken: dict[str, str] = {}
    empty: list[str] = []
    for part, (records, base) in _parts(path, section).items():
        said: dict[Path, tuple[str, str]] = {}
        for where, words, name in cleaned(records, section.clean, counts):
            file = _inside(base, name, where)
            if file in said:
                raise DataError(
                    f"{where} names {name!r}, which an earlier line does too",
                    expected="one text for each recording",
                )
            if words.strip():
                said[file] = name, " ".join(words.split())
            else:
                empty.append(where)
        found, faults = folder.read_each(list(said), audio.decode)
        broken |= {said[file][0]: reason for file, reason in faults.items()}
        inputs = audio.RECORDINGS.join(found, list(found))
        texts = text.code_points([said[file][1] for file in found])
        parts[part] = Rows(inputs, texts, [said[file][0] for file in found])
    found_out = findings(counts)
    if broken:
        first = min(broken)
        found_out.append(_finding(
            "broken_files", sorted(broken),
            f"cannot be read as WAV or FLAC; {first}: {broken[first]}",
        ))  # fmt: skip
    if empty:
        found_out.append(_finding("empty_texts", empty, "left out, without a text"))
    return parts, [], found_out


def letters(made: Prepared, section: recipe.Data) -> Prepared:
    """Texts to ids: 0 is no letter, 1 one that train does not hold.

    Rows of train whose text needs more places than the recording has cannot be learned from; they
    are left out and become a finding short_recordings.

    Raises: DataError if that leaves none.
    """
    unit = "characters" if section.tokens.unit == "auto" else section.tokens.unit
    texts = {part: _texts(rows) for part, rows in made.parts.items()}
    known = language.learn(
        "\n".join(texts["train"]), unit, section.tokens.vocab_size or language.VOCAB_SIZE
    )
    if unit == "characters":  # what parts the texts above is in none of them
        known = language.Tokens(unit, [one for one in known.labels if one != "\n"])
    stretch = made.inputs["rate"] // FRAMES_PER_S * STACK
    parts, found = {}, list(made.findings)
    for part, rows in made.parts.items():
        ids = [known.encode(one).astype(np.int64) for one in texts[part]]
        own = Rows(rows.inputs, ragged(ids, np.zeros(0, np.int64)), rows.origins)
        lengths = own.lengths
        assert lengths is not None
        needed = np.array([places_needed(one) for one in ids], np.int64)
        short = np.flatnonzero(needed > lengths // stretch + 1)
        if part == "train" and len(short):
            names = [own.name(part, int(row)) for row in short]
            found.append(_finding(
                "short_recordings", names, "left out, too short for the text"
            ))  # fmt: skip
            own = own.take(np.setdiff1d(np.arange(len(own)), short))
        if len(rows) and not len(own):
            raise DataError(
                f"data.source: every recording of {part} is too short for its text",
                expected=f"at least {1000 * STACK // FRAMES_PER_S} ms for each letter",
                repair="look whether texts and recordings belong together",
            )
        parts[part] = own
    inputs = {**made.inputs, "stack": STACK, "unit": unit}
    answers = {
        "num_classes": len(known), "labels": known.labels, "places": f"time // {stretch} + 1",
    }  # fmt: skip
    return replace(
        made, parts=parts, inputs=inputs, answers={**made.answers, **answers}, findings=tuple(found)
    )


def places_needed(ids: Indices) -> int:
    """Places that a text takes at least: one for each letter, one between two of the same.

    >>> places_needed(np.array([3, 4, 4, 5]))
    5
    """
    return len(ids) + int((ids[1:] == ids[:-1]).sum())


def _parts(path: Path, section: recipe.Data) -> dict[str, tuple[Iterator[Record], Path]]:
    """Of each part: place, text and file of each row, and the folder that files are named from."""
    listed = sorted(path.rglob(LISTED)) if path.is_dir() and section.files is None else []
    if not listed:
        files = text.part_files(path, section)
        columns = _columns(section)
        return {part: (text.labelled(file, columns), file.parent) for part, file in files.items()}
    for key in ("file", "text"):
        if section.sets(f"columns.{key}"):
            raise ConfigError(
                f"data.columns.{key}: {section.source!r} holds {LISTED}, which have no columns",
                expected="columns for a table only",
                repair=f"leave data.columns.{key} out, or name the tables with data.files",
            )
    by_part: dict[str, list[Path]] = {}
    for file in listed:
        part = text.part_of(file.relative_to(path).parts[0]) or "train"
        by_part.setdefault(part, []).append(file)
    if "train" not in by_part:
        raise DataError(f"{path} has no recordings to train on", expected="a folder train…")
    return {part: (_listed(files, path), path) for part, files in by_part.items()}


def _listed(files: list[Path], root: Path) -> Iterator[Record]:
    for file in files:
        beside = {one.stem: one for one in file.parent.iterdir() if one.suffix in audio.SUFFIXES}
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}", expected="UTF-8 text") from error
        for number, line in enumerate(lines, 1):
            name, _, words = line.partition(" ")
            if line.strip():
                recording = beside.get(name, file.parent / f"{name}.flac")
                yield f"{file.name} line {number}", words, str(recording.relative_to(root))


def _columns(section: recipe.Data) -> recipe.Columns:
    return recipe.Columns(text=section.columns.text, label=section.columns.file)


def _inside(base: Path, name: str, where: str) -> Path:
    file = base / name
    if not inside(file, base):
        raise DataError(
            f"{where} names {name!r}",
            expected=f"a file in {base}, named from there on",
            repair="put the recordings beside or below the table",
        )
    return file


def _texts(rows: Rows) -> list[str]:
    targets = rows.targets
    assert isinstance(targets, Ragged)
    return [targets[row].tobytes().decode("utf-32-le") for row in range(len(rows))]


def _finding(check: str, names: list[str], text: str) -> Finding:
    what = f"{len(names)} {'recording' if len(names) == 1 else 'recordings'} {text}"
    return Finding.of(check, names, what)


def _require_rapidfuzz() -> None:
    try:
        import rapidfuzz  # noqa: F401
    except ImportError as error:
        raise MissingExtra("rapidfuzz", "speech", "counting errors in transcripts") from error
