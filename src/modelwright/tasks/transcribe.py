"""What was said: loss, word and character error rate, answer.

A model gives scores of letters, and of none, at every place of a recording; a text is what is left
when repeats are joined and nones dropped.
Source: Graves et al. 2006, ICML, "Connectionist Temporal Classification".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from modelwright.core.errors import ConfigError, MissingExtra
from modelwright.core.signature import NEVER, NO_TARGET

METRIC = "wer"
LABEL_SMOOTHING = None  # no place has a label that could be smoothed
OPTIONS = ("beam_width",)  # of `answer`
NONE, FIRST_LETTER = 0, 2  # 1 is a character that train lacks, which no recording shows
LEAST_LIKELY = 1e-4  # letters of less probability at a place are not tried there by the search

Letters = list[tuple[int, int]]  # of a text: the id of each, and the place where it begins
# text -> probability of ending in none, of ending in its last letter; places of its letters
Beam = dict[tuple[int, ...], tuple[float, float, tuple[int, ...]]]


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of each text's negative log-likelihood, in nats a letter.

    logits: (batch, time, num_classes); targets: (batch, letters), NO_TARGET behind a text's end
    Places where no letter can be lie behind a row's end (models/heads.py) and change nothing.

    A text that needs more places than there are teaches nothing: data/transcripts.py leaves it out,
    but an augmentation may shorten a recording.
    """
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    letters = (targets != NO_TARGET).sum(1)
    places = (logits[..., FIRST_LETTER:].amax(-1) > NEVER / 2).sum(1)
    found = F.ctc_loss(
        scores, targets.clamp_min(0), places, letters, NONE, reduction="none", zero_infinity=True
    )
    return (found / letters.clamp_min(1)).mean()


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: words, word errors, characters, character errors; blanks are characters too.

    outputs: logits (rows, time, num_classes); targets: (rows, letters) -> (rows, 4)

    Errors are the fewest words (characters) put in, left out or exchanged that turn the likeliest
    letter of every place into the true text.
    """
    distance = _distance()
    rows = []
    for own, true in zip(outputs["logits"].argmax(-1), targets, strict=True):
        heard = spelled([letter for letter, _ in best_path(own)], labels)
        said = text_of(true, labels)
        words = said.split()
        rows.append((len(words), distance(words, heard.split()), len(said), distance(said, heard)))
    return np.array(rows, np.float64).reshape(-1, 4)


def values(sums: np.ndarray) -> dict[str, float]:
    """Word and character error rate: errors for each true word (character), over the whole set.

    >>> values(np.array([8.0, 2.0, 40.0, 4.0]))
    {'wer': 0.25, 'cer': 0.1}
    """
    words, wrong_words, characters, wrong_characters = sums.tolist()
    return {"wer": wrong_words / max(words, 1), "cer": wrong_characters / max(characters, 1)}


def answer(
    outputs: Mapping[str, np.ndarray],
    labels: Sequence[str],
    tokens: Sequence[str] = (),
    beam_width: int = 1,
) -> dict[str, Any]:
    """What a person reads: the text, and where each word begins and ends, in seconds.

    outputs: of one row, without the batch; tokens: the time at which each place begins

    Args:
        beam_width: texts that the search keeps at each place; 1 takes every place's likeliest
            letter, as the error rates do.

    >>> rows = np.array([[0.1, 0, 0.9, 0], [0.9, 0, 0, 0.1], [0.2, 0, 0, 0.8]])
    >>> answer({"logits": rows, "probabilities": rows}, ["", "?", "n", "o"])
    {'answer': 'no'}
    """
    if beam_width < 1:
        raise ConfigError(f"beam_width is {beam_width}", expected="1 or more")
    if beam_width == 1:
        found = best_path(outputs["logits"].argmax(-1))
    else:
        found = prefix_search(outputs["probabilities"], beam_width)
    text = spelled([letter for letter, _ in found], labels)
    said: dict[str, Any] = {"answer": " ".join(text.split())}
    if len(tokens):
        said["words"] = _words(found, labels, tokens)
    return said


def text_of(target: np.ndarray, labels: Sequence[str]) -> str:
    """What was said. target: (letters,), NO_TARGET behind the text's end"""
    return spelled(target[target != NO_TARGET], labels)


def best_path(likeliest: np.ndarray) -> Letters:
    """Repeats joined, nones dropped.

    likeliest: (time,) ids, one of each place

    >>> best_path(np.array([0, 5, 5, 0, 5, 7]))
    [(5, 1), (5, 4), (7, 5)]
    """
    before = np.concatenate([[NONE], likeliest[:-1]])
    begins = np.flatnonzero((likeliest != before) & (likeliest >= FIRST_LETTER))
    return [(int(likeliest[place]), int(place)) for place in begins]


def prefix_search(probabilities: np.ndarray, beam_width: int) -> Letters:
    """The likeliest text, each the sum over all ways to spell it; `beam_width` kept at each place.

    probabilities: (time, num_classes)

    Each letter stands where its likeliest way first has it.
    Source: Hannun et al. 2014, arXiv:1408.2873, algorithm 1, without a language model.
    """
    beam: Beam = {(): (1.0, 0.0, ())}
    for place, shares in enumerate(probabilities.astype(np.float64).tolist()):
        tried = [one for one in range(FIRST_LETTER, len(shares)) if shares[one] >= LEAST_LIKELY]
        grown: Beam = {}
        for text, (in_none, in_letter, places) in beam.items():
            last = shares[text[-1]] if text else 0.0
            _add(grown, text, (in_none + in_letter) * shares[NONE], in_letter * last, places)
            for letter in tried:
                again = bool(text) and letter == text[-1]  # twice the same: a none between them
                share = (in_none if again else in_none + in_letter) * shares[letter]
                _add(grown, (*text, letter), 0.0, share, (*places, place))
        kept = sorted(grown.items(), key=lambda one: -sum(one[1][:2]))[:beam_width]
        total = sum(sum(one[:2]) for _, one in kept)  # divided by, or they would vanish in time
        beam = {text: (a / total, b / total, places) for text, (a, b, places) in kept}
    text, (_, _, places) = next(iter(beam.items()))
    return list(zip(text, places, strict=True))


def _add(
    beam: Beam, text: tuple[int, ...], in_none: float, in_letter: float, places: tuple[int, ...]
) -> None:
    known = beam.get(text, (0.0, 0.0, places))
    if in_none + in_letter > known[0] + known[1]:  # of two ways the likelier tells the places
        known = (*known[:2], places)
    beam[text] = (known[0] + in_none, known[1] + in_letter, known[2])


def spelled(letters: Sequence[int] | np.ndarray, labels: Sequence[str]) -> str:
    """The text of some ids; bytes that are no whole character become a replacement character."""
    parts = [labels[int(letter)].encode("utf-8", "surrogateescape") for letter in letters]
    return b"".join(parts).decode("utf-8", "replace")


def _words(found: Letters, labels: Sequence[str], tokens: Sequence[str]) -> list[dict[str, Any]]:
    words: list[dict[str, Any]] = []
    letters: list[int] = []
    begin, last = 0, len(tokens) - 1
    for letter, place in [*found, (NONE, last)]:
        text = labels[letter]  # of NONE nothing; of a pair of bytes it may begin with the blank
        if letters and (not text.strip() or text[0].isspace()):
            start, end = float(tokens[begin]), float(tokens[min(place, last)])
            words.append({"text": spelled(letters, labels).strip(), "start": start, "end": end})
            letters = []
        if text.strip():
            begin = begin if letters else min(place, last)
            letters.append(letter)
    return words


def _distance() -> Any:
    """Edit distance of two sequences. Source: Levenshtein 1966."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise MissingExtra("rapidfuzz", "speech", "counting errors in transcripts") from error
    return Levenshtein.distance
