"""A text in another language: loss, likelihood and BLEU, answer.

While training, the likelihood of the given translations is looked at, which one call gives; what is
judged is the text that the model writes itself, as it will once it is shipped.
Source: Papineni et al. 2002 (BLEU); Post 2018, arXiv:1804.08771 (one way to take it, sacreBLEU).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.core.decode import BEAM, LENGTH_PENALTY, READ, settle
from modelwright.core.errors import MissingExtra
from modelwright.core.progress import counted
from modelwright.core.signature import NO_TARGET
from modelwright.tasks import language
from modelwright.tasks.losses import cross_entropy, places

METRIC = "bleu"
LOOK = "nats_per_token"
LABEL_SMOOTHING = 0.1  # Vaswani et al. 2017, arXiv:1706.03762, section 5.4
OPTIONS = READ["anew"]  # what predict takes
ROWS = 64  # written at once
ORDERS = 4  # of n-grams
WORDS = "13a"  # sacreBLEU's tokenizer of scripts that divide words by blanks
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
# Thai, Lao, Tibetan and Burmese; Khmer; kana
_UNDIVIDED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff]")
FIELDS = 2 + 2 + 2 * ORDERS  # of one row's statistics

loss, weight = cross_entropy, places


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: tokens of the given translation and their surprise in nats; what BLEU counts
    stays 0, since nothing was written.

    outputs: logits (rows, time, num_classes); targets: (rows, time) -> (rows, 12)
    """
    found = np.zeros((len(targets), FIELDS))
    found[:, :2] = language.statistics(outputs, targets)[:, 2:]
    return found


def run(session: Any, rows: Any, labels: Sequence[str]) -> np.ndarray:
    """Of each row: what `statistics` gives for what the model writes itself: its words, the given
    translation's, and n-grams that both have and that were written, by length.

    session: with `write`, as those of runtime/ have; rows: a part of the data -> (rows, 12)
    """
    order = np.argsort(rows.lengths, kind="stable")
    found, words = np.zeros((len(rows), FIELDS)), tokenizer(rows, labels)
    starts = range(0, len(order), ROWS)
    for start in counted(starts, "batches translated", len(starts)):
        part = order[start : start + ROWS]
        written = session.write(rows.batch(part))
        for row, ids in zip(part, written, strict=True):
            found[row, 2:] = counts(text_of(ids, labels), text_of(rows.targets[row], labels), words)
    return found


def text_of(ids: Sequence[int] | np.ndarray, labels: Sequence[str]) -> str:
    """The text of ids; parts of characters that are no whole one become a replacement character."""
    spelled = "".join(labels[int(one)] for one in ids if one != NO_TARGET)
    return spelled.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()


def tokenizer(rows: Any, labels: Sequence[str]) -> str:
    """Which of sacreBLEU's tokenizers finds words in the given translations: where most letters
    are of a script without blanks between words, "zh" for Chinese and "char" for others.

    Without it, a whole sentence would be one word, and BLEU 0 but for sentences that are equal.
    """
    text = "".join(text_of(rows.targets[row], labels) for row in range(len(rows)))
    han, others = len(_HAN.findall(text)), len(_UNDIVIDED.findall(text))
    if 2 * (han + others) <= sum(map(str.isalpha, text)):
        return WORDS
    return "zh" if han > 9 * others else "char"


def counts(text: str, reference: str, words: str = WORDS) -> list[float]:
    """What one row adds to BLEU: words of both, n-grams right and written, by their length.

    words: the tokenizer
    Raises: MissingExtra without sacrebleu.
    """
    score = _bleu(words).sentence_score(text, [reference])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def protocol(shipped: Mapping[str, Any], rows: Any, labels: Sequence[str]) -> str:
    """How BLEU is taken on rows, as sacreBLEU signs it, and how texts are written for it.

    shipped: how the model is to write, where that is not the default
    """
    signature = f"nrefs:1|case:mixed|eff:no|tok:{tokenizer(rows, labels)}|smooth:exp"
    how = settle("anew", {}, shipped)
    if not how.get("temperature"):
        how = {"beam": BEAM, "length_penalty": LENGTH_PENALTY, **how}
    words = [
        f"{name.replace('_', ' ')} {value:g}"
        for name, value in how.items() if (name, value) != ("temperature", 0)
    ]  # fmt: skip
    return f"{signature}|version:{_library().__version__}; {', '.join(words)}"


@functools.cache
def _bleu(words: str) -> Any:
    # of a single sentence, an order without a match would be smoothed; here only counts are read
    return _library().metrics.BLEU(tokenize=words, effective_order=True)


def _library() -> Any:
    try:
        import sacrebleu
        import sacrebleu.metrics
    except ImportError as error:
        raise MissingExtra("sacrebleu", "text", "goals on bleu") from error
    return sacrebleu


def values(sums: np.ndarray) -> dict[str, float]:
    """BLEU from 0 to 100 where texts were written, nats a token where translations were given.

    >>> round(values(np.array([4, 2.0, 9, 9, 9, 8, 7, 6, 9, 8, 7, 6]))["bleu"], 6)
    100.0
    """
    tokens, nats = (float(one) for one in sums[:2])
    written, given, *ngrams = (round(float(one)) for one in sums[2:])
    found = {}
    if given:
        right, total = ngrams[:ORDERS], ngrams[ORDERS:]
        bleu = _library().metrics.BLEU
        score = bleu.compute_bleu(right, total, written, given, smooth_method="exp")
        found["bleu"] = float(score.score)
    if tokens:
        found["nats_per_token"] = nats / tokens
    return found


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the translation.

    outputs: of one row: written (tokens,), the ids that the model wrote

    >>> answer({"written": np.array([2, 3])}, ["", "?", " Guten", " Tag"])["answer"]
    'Guten Tag'
    """
    return {"answer": text_of(outputs["written"], labels)}
