"""CASES: the rows of quality.py: a recipe on published data, and the floor to reach."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prepare import bccd, cifar10, flickr8k, fsdd, fsdd_words, movielens_ratings, shakespeare

Overrides = dict[str, str]


@dataclass(frozen=True)
class Case:
    """One row: a recipe on a data set, and the floor that its metric has to reach.

    Args:
        title: of its line in docs/numbers.md.
        source: the data set's place in the folder of data sets; None leaves the recipe's own.
        overrides: of the recipe; variants: each on top of them, one run a seed.
        made: what has to be unpacked first, (place of the data set, folder to fill).
        also: other metrics that are told.
        floor: None where a row has no bound and is only recorded.
    """

    title: str
    recipe: str
    source: str | None
    metric: str
    floor: float | None
    aim: float
    minutes: float = 5
    overrides: Overrides = field(default_factory=dict)
    variants: tuple[Overrides, ...] = ({},)
    made: Callable[[Path, Path], Any] | None = None
    also: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> bool:
        """A row without a floor is judged by nothing."""
        return self.floor is not None and self.aim > self.floor

    @property
    def seeds(self) -> int:
        if self.source is None:  # chance plays a larger part where data comes from acting
            return 5
        return 3 if self.minutes <= 5 else 1


def texts(**keys: str) -> Overrides:
    return {f"data.{name}": value for name, value in keys.items()}


HORIZONS = tuple({"data.horizon": str(steps)} for steps in (96, 192, 336, 720))
FOLDS = tuple(
    {"data.files": f"{{train: u{fold}.base, test: u{fold}.test}}"} for fold in range(1, 6)
)
NOVELS = {"data.files": "{train: train.txt.gz, valid: valid.txt.gz, test: test.txt.gz}"}
EXCHANGE = {"data.split_rows": "[5312, 758, 1518]"}  # 7, 1 and 2 tenths, as in the literature
CASES: dict[str, Case] = {
    "fashion_mnist": Case(
        "Fashion-MNIST", "fashion_mnist.yaml", "fashion_mnist", "accuracy", 0.935, 0.945
    ),
    "cifar10": Case(
        "CIFAR-10, JPEG copies",
        "fashion_mnist.yaml",
        "cifar10_jpeg",
        "accuracy",
        0.915,
        0.935,
        minutes=20,
        overrides={
            "train.augment": "[{flip: horizontal}, {crop: 2}]",
            # by its rule a race would take `large`, for which 20 minutes are few passes
            "model": "{family: cnn, size: base}",
            "data.checks": "{waive: [duplicates_across_splits]}",
        },
        made=cifar10,
    ),
    "ag_news": Case("AG News subset", "news.yaml", "ag_news_subset", "accuracy", 0.875, 0.89),
    "sst2": Case(
        "SST-2",
        "news.yaml",
        "sst2",
        "accuracy",
        0.81,
        0.83,
        # the phrases of valid are cut from the sentences of train: no race can be judged by them
        overrides={
            "model": "{family: cnn}",
            **texts(
                files="null",
                columns="{text: sentence, label: label}",
                checks="{waive: [duplicates_across_splits]}",
            ),
        },
    ),
    "zh_titles": Case(
        "THUCNews titles (Chinese)",
        "news.yaml",
        "zh_thucnews_titles",
        "accuracy",
        0.86,
        0.88,
        minutes=2,
        overrides=texts(
            files="{train: dev.txt.gz, test: test.txt.gz}",
            columns="{text: 0, label: 1}",
            checks="{waive: [duplicates_across_splits]}",
        ),
    ),
    "newsgroups": Case(
        "20 newsgroups, no headers",
        "news.yaml",
        "newsgroups20",
        "accuracy",
        0.72,
        0.78,
        overrides=texts(
            files="null",
            columns="{text: text, label: label}",
            clean="[{strip: mail_headers}]",
            checks="{waive: [duplicates_across_splits]}",
        ),
    ),
    "conll2000": Case("CoNLL-2000 chunking", "chunks.yaml", "conll2000_chunking", "f1", 0.91, 0.93),
    "msra": Case(
        "MSRA (Chinese names)",
        "chunks.yaml",
        "zh_ner_msra/dh_msra.txt.gz",
        "f1",
        0.84,
        0.90,
        minutes=10,
    ),
    "shakespeare": Case(
        "tinyshakespeare, characters",
        "shakespeare.yaml",
        "tinyshakespeare/input.txt",
        "nats_per_char",
        1.6,
        1.5,
        also=("bits_per_byte",),
        made=shakespeare,
    ),
    "shakespeare_20": Case(
        "tinyshakespeare, characters, longer",
        "shakespeare.yaml",
        "tinyshakespeare/input.txt",
        "nats_per_char",
        1.5,
        1.46,
        minutes=20,
        # without dropout the text is known by heart
        overrides={
            "model.dropout": "0.2",
            "train.weight_decay": "0.4",
            "data.window": "512",
            "train.batch_size": "8",
            "compress": "none",
        },
        also=("bits_per_byte",),
        made=shakespeare,
    ),
    "novels": Case(
        "English novels, characters",
        "shakespeare.yaml",
        "english_novels",
        "bits_per_byte",
        None,
        2.0,
        minutes=20,
        overrides=NOVELS,
        also=("nats_per_char",),
    ),
    "novels_pairs": Case(
        "English novels, pairs of bytes",
        "shakespeare.yaml",
        "english_novels",
        "bits_per_byte",
        None,
        2.0,
        minutes=20,
        overrides={**NOVELS, "data.tokens": "{unit: bpe}"},
        also=("nats_per_char",),
    ),
    "fsdd": Case(
        "FSDD, spoken digits",
        "spoken_digits.yaml",
        "fsdd/recordings.tar.gz",
        "accuracy",
        0.975,
        0.99,
        made=fsdd,
    ),
    "bccd": Case(
        "BCCD, blood cells",
        "blood_cells.yaml",
        "bccd/BCCD.tar.gz",
        "ap50",
        0.72,
        0.82,
        minutes=20,
        made=bccd,
        also=("ap",),
    ),
    "fsdd_words": Case(
        "FSDD joined, transcription",
        "spoken_words.yaml",
        "fsdd/recordings.tar.gz",
        "wer",
        0.06,
        0.03,
        minutes=10,
        made=fsdd_words,
        also=("cer",),
    ),
    "ett_h1": Case(
        "ETTh1, four horizons",
        "forecast.yaml",
        "ett_h1/ETTh1.csv.gz",
        "mse",
        0.425,
        0.412,
        minutes=2,
        variants=HORIZONS,
        also=("mae",),
    ),
    "ett_h1_rnn": Case(
        "ETTh1, four horizons, recurrent",
        "forecast.yaml",
        "ett_h1/ETTh1.csv.gz",
        "mse",
        0.48,
        0.44,
        minutes=2,
        variants=HORIZONS,
        overrides={"model": "{family: rnn}"},
        also=("mae",),
    ),
    "exchange_rate": Case(
        "Exchange rates, four horizons",
        "forecast.yaml",
        "exchange_rate/exchange_rate.txt.gz",
        "mse",
        None,
        0.35,
        minutes=1,
        variants=HORIZONS,
        overrides=EXCHANGE,
        also=("mae",),
    ),
    "flickr8k": Case(
        "Flickr8k subset",
        "captions.yaml",
        "flickr8k_subset/images.tar.gz",
        "recall_at_10",
        0.25,
        0.40,
        minutes=10,
        made=flickr8k,
        also=("image_to_text_recall_at_10", "text_to_image_recall_at_10"),
    ),
    "multi30k_de_en": Case(
        "Multi30k, German to English",
        "translation.yaml",
        "multi30k",
        "bleu",
        33,
        37,
        minutes=20,
        also=("protocol",),
    ),
    "multi30k_en_de": Case(
        "Multi30k, English to German",
        "translation.yaml",
        "multi30k",
        "bleu",
        30,
        35,
        minutes=20,
        overrides={"data.pair": "[en, de]"},
        also=("protocol",),
    ),
    "multi30k_rnn": Case(
        "Multi30k, German to English, recurrent",
        "translation.yaml",
        "multi30k",
        "bleu",
        27,
        32,
        minutes=20,
        overrides={"model": "{family: rnn, size: base}"},
        also=("protocol",),
    ),
    "movielens": Case(
        "MovieLens 100K, next film",
        "movies.yaml",
        "movielens_100k/u.data.gz",
        "ndcg_at_10",
        0.06,
        0.09,
        minutes=2,
        overrides={"data.interactions.names": "u.item.gz"},
        also=("hr_at_10",),
    ),
    "movielens_ratings": Case(
        "MovieLens 100K, ratings u1 to u5",
        "film_ratings.yaml",
        "movielens_100k",
        "rmse",
        0.925,
        0.910,
        minutes=0.75,
        variants=FOLDS,
        made=movielens_ratings,
        also=("mae",),
    ),
    "cartpole": Case(
        "CartPole-v1, 100 episodes", "cartpole.yaml", None, "mean_return", 475, 500, minutes=1
    ),
    "acrobot": Case("Acrobot-v1, 100 episodes", "acrobot.yaml", None, "mean_return", -100, -85),
    "cartpole_dqn": Case(
        "CartPole-v1, 100 episodes, DQN",
        "cartpole.yaml",
        None,
        "mean_return",
        475,
        500,
        minutes=1,
        overrides={"train.algorithm": "dqn"},
    ),
    "acrobot_dqn": Case(
        "Acrobot-v1, 100 episodes, DQN",
        "acrobot.yaml",
        None,
        "mean_return",
        -100,
        -85,
        overrides={"train.algorithm": "dqn"},
    ),
}
