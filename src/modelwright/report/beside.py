"""What the figures beside a task's first one say."""

from collections.abc import Mapping
from typing import Any

from modelwright.core.goals import Metric

# metric -> what stands beside it in the chapter on quality, and what each figure says
BESIDE = {
    "f1": {
        "f1": "the harmonic mean of precision and recall, over whole spans",
        "precision": "of the spans that the model names, the share that is right",
        "recall": "of the spans that there are, the share that the model names right",
        "places_right": "of all words or characters, the share with the right tag",
    },
    "ap50": {
        "ap50": "average precision: the area under the curve below, the mean over classes; a box "
        "is right if it overlaps a thing of its class by half",
        "ap": "the mean over overlaps of 0.5 to 0.95, as COCO counts",
    },
    "bleu": {
        "bleu": "of 100, how many runs of up to four words the translations share with the true "
        "ones, as sacreBLEU counts",
        "nats_per_token": "how unlikely the true translation is to the model; less is better",
    },
    "wer": {
        "wer": "words put in, left out or exchanged, for each true word; less is better",
        "cer": "the same of characters, blanks among them",
    },
    "mse": {
        "mse": "mean squared error, where each series has variance one on train; less is better",
        "mae": "mean absolute error, on the same scale; less is better",
    },
    "ndcg_at_10": {
        "ndcg_at_10": "gain of the item to find among all unused ones: 1 at the first place, less "
        "at each further one, 0 from the eleventh on",
        "hr_at_10": "of the users, the share whose item is among the first ten",
        "mrr": "one over the rank, on average",
    },
    "rmse": {
        "rmse": "root of the mean squared error, in the units of the ratings; less is better",
        "mae": "mean absolute error, in the same units; less is better",
    },
    "recall_at_10": {
        "recall_at_10": "of pictures and of texts, the share that finds its own among the first "
        "ten of all; the mean of both ways",
        **{
            f"image_to_text_recall_at_{depth}": "of the pictures, the share with one of their own "
            f"texts among the first {depth}"
            for depth in (1, 5, 10)
        },
        **{
            f"text_to_image_recall_at_{depth}": "of the texts, the share with their picture among "
            f"the first {depth}"
            for depth in (1, 5, 10)
        },
    },
    "nats_per_char": {
        "nats_per_char": "surprise at each character, in nats; less is better",
        "bits_per_byte": "in bits for each byte of UTF-8, which no choice of tokens changes",
        "nats_per_token": "the same for each token; comparable only between equal vocabularies",
    },
    "mean_return": {
        "mean_return": "the sum of all rewards of an episode, without discount, on average",
        "mean_length": "steps of an episode, on average",
    },
}


def meanings(metric: Metric, proof: Mapping[str, Any]) -> dict[str, str]:
    """Of a certificate's figures that belong to the metric, what each one is; none where nothing
    is to be said beside it."""
    own = (one for first, one in BESIDE.items() if first in proof and metric.name in one)
    return next(own, {})
