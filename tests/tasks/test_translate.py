"""BLEU of what a model writes: sacreBLEU's own figure, from sums of rows."""

import numpy as np
import pytest

from modelwright.core.signature import NO_TARGET
from modelwright.tasks import translate
from modelwright.tasks.catalog import TASKS

sacrebleu = pytest.importorskip("sacrebleu")
WRITTEN = ["A man runs fast.", "Two dogs play in the snow, happily!", "", "It's 5°."]
GIVEN = ["A man is running fast.", "Two dogs play in the snow.", "A cat.", "It's 5°."]


def spelled(texts):
    """Rows with these translations, a token for each character; the source is a row's number."""
    from modelwright.data.parallel import rows_of

    labels = ["", "?", *sorted(set("".join(texts)) | {"!"}), ""]
    targets = [np.array([labels.index(c) for c in text], np.int64) for text in texts]
    sources = [np.array([row]) for row in range(1, len(texts) + 1)]
    return rows_of(sources, targets, 99, len(labels) - 1, [""] * len(texts)), labels


def table(written=WRITTEN, given=GIVEN):
    rows = np.zeros((len(written), translate.FIELDS))
    for row, pair in zip(rows, zip(written, given, strict=True), strict=True):
        row[2:] = translate.counts(*pair)
    return rows


def test_bleu_of_sums_is_that_of_the_corpus():
    """And so is that of rows drawn again, as the bootstrap draws them."""
    task = TASKS["translation"]
    whole = sacrebleu.corpus_bleu(WRITTEN, [GIVEN]).score
    again = sacrebleu.corpus_bleu([*WRITTEN, WRITTEN[1]], [[*GIVEN, GIVEN[1]]]).score

    assert pytest.approx(whole) == task.values(table())["bleu"]
    assert pytest.approx(again) == task.values(table(), np.array([1, 2, 1, 1]))["bleu"]


def test_the_signature_is_sacrebleus():
    """What the certificate says of how BLEU was taken is what sacreBLEU itself would sign."""
    metric = sacrebleu.metrics.BLEU(tokenize="13a")
    metric.corpus_score(WRITTEN, [GIVEN])

    def protocol(**shipped):
        return TASKS["translation"].protocol(shipped, *spelled(GIVEN))

    assert protocol().startswith(str(metric.get_signature()))
    assert protocol().endswith("; beam 5, length penalty 1")
    assert protocol(beam=2).endswith("; beam 2, length penalty 1")
    assert protocol(temperature=0.7, top_k=9).endswith("; temperature 0.7, top k 9")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["两只狗在雪地里玩。", "一个男人在跑步, 他叫 Tom。"], "zh"),
        (["二匹の犬が雪の中で遊んでいる。"], "char"),
        (["หมาสองตัวเล่นหิมะ"], "char"),
        (["개 두 마리가 눈 속에서 논다."], "13a"),
        (["Haus", "Hund"], "13a"),
        (["3.5", ""], "13a"),
        (["The sign says 出口."], "13a"),
    ],
)
def test_words_are_found_in_every_script(texts, words):
    """A text that differs in its last sign alone is nearly right, also without blanks; the
    certificate says how words were found."""
    rows, labels = spelled(texts)
    signature = translate.protocol({}, rows, labels)
    metric = sacrebleu.metrics.BLEU(tokenize=words)
    written = [text + "!" for text in texts]
    session = Echo({row: np.array([labels.index(c) for c in text], np.int64)
                    for row, text in enumerate(written, 1)})  # fmt: skip
    found = translate.values(translate.run(session, rows, labels).sum(0))
    expected = metric.corpus_score(written, [texts])

    assert signature.startswith(str(metric.get_signature()))
    assert expected.score == pytest.approx(found["bleu"])
    assert words == "13a" or found["bleu"] > 50


def test_without_a_text_there_is_only_the_likelihood():
    """Looks while training have no BLEU, rather than one of 0."""
    logits = np.zeros((1, 3, 4))
    targets = np.array([[2, 3, NO_TARGET]])
    found = TASKS["translation"].values(translate.statistics({"logits": logits}, targets))

    assert {"nats_per_token": pytest.approx(np.log(4))} == found
    assert "nats_per_token" == TASKS["translation"].look


def test_parts_of_characters_are_joined():
    """A letter of two bytes may be two tokens; half a one is shown as such."""
    labels = ["", "?", " sch", "\udcc3", "\udcb6", "n"]

    assert "schön" == translate.text_of([2, 3, 4, 5, NO_TARGET], labels)
    assert "sch\ufffdn" == translate.text_of([2, 3, 5], labels)


class Echo:
    """A session that writes a row's own target."""

    def __init__(self, texts):
        self.texts = texts

    def write(self, batch, **how):
        assert {} == how  # as the model is shipped
        return [self.texts[int(row[0])] for row in batch["source"]]


def test_rows_are_written_and_judged_in_their_places():
    """Rows are written by length; each one's figures stand where the row does."""
    from modelwright.data.parallel import rows_of

    labels = ["", "?", " a", " b", " c", " d", ""]
    texts = [np.array(ids) for ids in ([2, 3, 4, 5], [2], [3, 4, 5])]
    sources = [np.array([10 + row] + [2] * (3 - row)) for row in range(3)]
    rows = rows_of(sources, texts, 6, 6, [""] * 3)
    wrong = {10: texts[0], 11: np.array([3]), 12: texts[2]}
    found = translate.run(Echo(wrong), rows, labels)

    assert [4, 0, 3] == found[:, 4].tolist()  # words right
    assert [4, 1, 3] == found[:, 3].tolist()  # words given
