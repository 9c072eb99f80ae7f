"""Every family over texts, sounds and series: padding changes nothing, order and heads do."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modelwright.data.rows import Rows, ragged
from modelwright.models.catalog import (
    MODELS,
    ModelSpec,
    WithAnswers,
    build,
    count_params,
    examples,
)
from modelwright.models.embed import MelEmbed
from modelwright.models.rnn import RecurrentBody

from .conftest import LADDER

TEXT = {"kind": "text", "vocab_size": 60, "features": 2, "length": 12, "max_length": 40}
SOUND = {"kind": "audio", "rate": 8000, "num_mels": 20, "length": 4000}
SERIES = {"kind": "series", "length": 24, "patch": 8, "channels": ["a", "b", "c"],
          "std": [1.0, 0.5, 2.0]}  # fmt: skip
CLASSES = {"kind": "classes", "num_classes": 5}
TAGS = {"kind": "tags", "num_classes": 5}
NEXT = {"kind": "next", "num_classes": 60}
HORIZON = {"kind": "horizon", "horizon": 6, "mean": [1.0, 2.0, 3.0], "std": [1.0, 0.5, 2.0]}
ITEMS = {"kind": "items", "vocab_size": 60, "features": 1, "length": 12, "max_length": 40}
RANKING = {"kind": "ranking", "num_classes": 58}
SPEECH = {**SOUND, "stack": 2}
LETTERS = {"kind": "letters", "num_classes": 5, "places": "time // 160 + 1"}
PAIRS = {
    "classes of texts": (TEXT, CLASSES),
    "tags of texts": (TEXT, TAGS),
    "next of texts": (TEXT, NEXT),
    "ranking of items": (ITEMS, RANKING),
    "classes of sounds": (SOUND, CLASSES),
    "letters of speech": (SPEECH, LETTERS),
    "horizon of series": (SERIES, HORIZON),
}
CLOSE = {"rtol": 0, "atol": 2e-5}
SIZES = ("tiny", "small", "base", "large")


def spec(family: str, pair: str, size: str = "tiny") -> ModelSpec:
    return ModelSpec(family, size, *PAIRS[pair])


def shaken(one: ModelSpec) -> torch.nn.Module:
    """A model without zeros: what starts as nothing, such as a block's last layer, counts too."""
    model = build(one).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if one.inputs["kind"] in ("text", "items"):
            model.embed.vectors.weight[0] = 3.0  # whatever stands at padding
    return model


def texts(lengths, features: int = TEXT["features"]) -> Rows:
    random = np.random.default_rng(0)
    rows = [random.integers(1, 60, (length, features)) for length in lengths]
    return Rows({"ids": ragged(rows)}, np.zeros(len(rows), np.int64), [""] * len(rows))


def sounds(lengths, quiet: bool = False) -> Rows:
    random = np.random.default_rng(0)
    top = 3 if quiet else 20000
    rows = [random.integers(-top, top, length).astype(np.int16) for length in lengths]
    return Rows({"samples": ragged(rows)}, np.zeros(len(rows), np.int64), [""] * len(rows))


def answers(model, rows: Rows, indices) -> torch.Tensor:
    with torch.inference_mode():
        return model(*map(torch.from_numpy, rows.batch(np.array(indices)).values()))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("source_ids", [12, 400])
def test_made_up_sources_have_ids_of_their_own(family, source_ids):
    """Of a translation whose two sides have tokens of their own, the fewer or the more."""
    inputs = {"kind": "pairs", "vocab_size": 60, "source_vocab_size": source_ids,
              "length": 12, "max_length": 40, "end": source_ids - 1}  # fmt: skip
    one = ModelSpec(family, "tiny", inputs, {"kind": "sequence", "num_classes": 60, "end": 59})
    made = examples(one, 8, 40)
    found = build(one)(*made.values())

    assert (8, 41, 60) == found.shape
    assert source_ids // 2 < made["source"].max() < source_ids
    assert 30 < made["target"].max() < 60


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("head", ["classes", "tags", "next"])
@pytest.mark.parametrize("family", MODELS)
def test_padding_of_texts_changes_nothing(family, head, layers):
    """A text is answered alone as beside ones of any length, at each of its places."""
    size = "tiny" if layers == 1 else "large" if family == "rnn" else "small"
    model = shaken(spec(family, f"{head} of texts", size))
    lengths = (5, 1, 40, 17, 8)
    rows = texts(lengths)
    together = answers(model, rows, range(5))
    scale = together[:, 0].abs().max()
    for row, length in enumerate(lengths):
        alone = answers(model, rows, [row])[0]
        beside = together[row]
        if head != "classes":
            alone, beside = alone[:length], beside[:length]

        torch.testing.assert_close(alone / scale, beside / scale, **CLOSE)


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050])
@pytest.mark.parametrize("family", MODELS)
def test_padding_of_sounds_changes_nothing(family, rate, quiet):
    """A recording is answered alone as beside longer ones, at whatever rate and loudness."""
    one = ModelSpec(family, "tiny", {**SOUND, "rate": rate}, CLASSES)
    model, hop = shaken(one), rate // 100
    # whole numbers of frames, one sample more and less, and recordings shorter than a window
    lengths = (8 * hop, 8 * hop + 1, 16 * hop - 1, 40 * hop, 100, 16 * hop)
    rows = sounds(lengths, quiet)
    together = answers(model, rows, range(6))
    alone = torch.cat([answers(model, rows, [row]) for row in range(6)])
    scale = together.abs().max()

    torch.testing.assert_close(alone / scale, together / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", MODELS)
def test_letters_stand_at_real_places_alone(family):
    """A recording has its letters alone as beside longer ones; behind its end there is none."""
    one = spec(family, "letters of speech")
    model, (judged, *_) = shaken(one), one.signature.outputs
    lengths = (640, 641, 1279, 3200, 100, 1280)
    rows = sounds(lengths)
    together = answers(model, rows, range(6))
    scale = together.clamp_min(-100).abs().max()
    for row, length in enumerate(lengths):
        alone, end = answers(model, rows, [row])[0], judged.places(length)
        none = together[row, end:].softmax(-1)[:, 0]

        torch.testing.assert_close(
            alone[:end] / scale, together[row, :end] / scale, rtol=0, atol=1e-4
        )
        assert (1 == none).all()


@pytest.mark.parametrize("rate", [8000, 11025, 16000])
@pytest.mark.parametrize("stack", [2, 3])
def test_stacked_frames_are_the_frames_side_by_side(rate, stack):
    """Each place sees `stack` frames in a row, and the mask is as long as the signature says."""
    torch.manual_seed(0)
    plain, stacked = (MelEmbed(rate, 20, 7, stack=each).eval() for each in (1, stack))
    plain.project = torch.nn.Identity()
    stacked.project = torch.nn.Identity()
    stacked.project.in_features = 20 * stack
    for length in (1, 400, 2048, 4000):
        samples, lengths = torch.randn(2, length) / 9, torch.tensor([length, length // 2])
        (frames, _), (places, mask) = (one(samples, lengths) for one in (plain, stacked))
        wanted = torch.nn.functional.pad(frames, (0, 0, 0, stack - 1))
        number = length // (rate // 100 * stack) + 1

        assert (2, number, 20 * stack) == places.shape
        assert torch.equal(wanted[:, : number * stack].reshape(places.shape), places)
        assert [number, length // 2 // (rate // 100 * stack) + 1] == mask.sum(1).tolist()


@pytest.mark.parametrize("family", MODELS)
def test_items_are_ranked_after_the_last_real_place(family):
    """The scores of a history are those of its last place while training, padded or not."""
    model = shaken(spec(family, "ranking of items", "small"))
    rows = texts((5, 1, 40, 17), features=1)
    together = answers(model, rows, range(4))
    for row, length in enumerate((5, 1, 40, 17)):
        ids = torch.from_numpy(rows.batch(np.array([row]))["ids"])[:, :length]
        model.head.train()
        model.head.dropout.eval()
        with torch.inference_mode():
            places = model(ids)
        model.eval()

        assert (1, length, 58) == places.shape
        torch.testing.assert_close(together[row], places[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", MODELS)
def test_what_comes_next_is_not_seen(family):
    """Where the next token is asked for, a place's answer hangs on what came before alone."""
    model = shaken(spec(family, "next of texts", "small"))
    rows = texts((20, 20))
    ids = torch.from_numpy(rows.batch(np.array([0, 1]))["ids"])[:, :20]
    other = torch.cat([ids[:1, :12], ids[1:, 12:]], 1)
    with torch.inference_mode():
        one, two = model(ids[:1]), model(other)

    torch.testing.assert_close(one[:, :12], two[:, :12], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(one[:, 12:], two[:, 12:], atol=1e-3)


@pytest.mark.parametrize("pair", ["classes of texts", "tags of texts"])
@pytest.mark.parametrize("family", MODELS)
def test_order_matters(family, pair):
    """The same tokens in another order are another text; larger nets of texts may be bags."""
    model = shaken(spec(family, pair, "small"))
    ids = torch.from_numpy(texts((16,)).batch(np.array([0]))["ids"])
    with torch.inference_mode():
        one, turned = model(ids), model(ids.flip(1))
    if pair.startswith("tags"):
        turned = turned.flip(1)

    assert not torch.allclose(one, turned, atol=1e-3)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_masked_rows_are_pytorchs_packed_ones(cell):
    """With a mask, both directions give what packed sequences give."""
    body = RecurrentBody(4, hidden_dim=5, num_layers=2, cell=cell).eval()
    lengths = torch.tensor([3, 7, 1, 5])
    sequence = torch.randn(4, 7, 4)
    mask = torch.arange(7) < lengths[:, None]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        sequence, lengths, batch_first=True, enforce_sorted=False
    )
    wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(
        body.layers(packed)[0], batch_first=True, total_length=7
    )

    torch.testing.assert_close(wanted[mask], body(sequence, mask)[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("family", "size"), LADDER)
def test_outputs_are_those_of_the_signature(family, size, pair):
    """Names, types and shapes of what goes in and comes out are what the spec says."""
    one = spec(family, pair, size)
    made = examples(one, 3, None if pair.endswith("series") else 16)
    with torch.device("meta"):
        model = WithAnswers(build(one), one.outputs).eval()
        found = model(*(value.to("meta") for value in made.values()))

    assert [tensor.name for tensor in one.signature.inputs] == list(made)
    for tensor, value in zip(one.signature.outputs, found, strict=True):
        assert tensor.sizes(3, 16) == value.shape
        assert tensor.dtype == str(value.dtype).removeprefix("torch.")


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("family", MODELS)
def test_each_size_is_larger_than_the_last(family, pair):
    """The ladder over sequences goes up as well, with as many words as texts have."""
    inputs, outputs = PAIRS[pair]
    if inputs["kind"] == "text":
        inputs = {**inputs, "vocab_size": 3000}
    with torch.device("meta"):
        sizes = [count_params(build(ModelSpec(family, size, inputs, outputs))) for size in SIZES]

    assert sorted(set(sizes)) == sizes


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("family", "size"), LADDER)
def test_the_gradient_reaches_every_parameter(family, size, pair):
    """No parameter stands unused; what starts at zero still learns."""
    one = spec(family, pair, size)
    model = build(one)
    made = examples(one, 4, {"text": 16, "audio": 1600}.get(one.inputs["kind"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.step()
        model.zero_grad()
        raw = model(*made.values())
        (raw - torch.linspace(-1, 1, raw.numel()).view(raw.shape)).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]

    assert [] == silent
    assert [] == [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("family", MODELS)
def test_eight_texts_are_learned_by_heart(family):
    """A model that cannot overfit eight texts has a fault, whatever else is right."""
    one = ModelSpec(family, "tiny", TEXT, {"kind": "classes", "num_classes": 8})
    model, rows = build(one), texts((5, 1, 40, 17, 8, 3, 9, 30))
    ids, targets = torch.from_numpy(rows.batch(np.arange(8))["ids"]), torch.arange(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids), targets)
        loss.backward()
        optimizer.step()

    assert 0.1 > loss.item()
    assert list(range(8)) == model.eval()(ids).argmax(1).tolist()


@pytest.mark.parametrize("family", MODELS)
def test_a_forecast_moves_with_its_window(family):
    """Values a thousand higher and ten times as far apart are forecast that much so; each series
    is read on its own."""
    one = spec(family, "horizon of series")
    model = WithAnswers(shaken(one), one.outputs).eval()
    window = examples(one, 4)["window"]
    moved = window * torch.tensor([10.0, 1.0, 1.0]) + torch.tensor([1000.0, 0.0, 0.0])
    with torch.inference_mode():
        plain, (scaled, found) = model(window)[1], model(moved)

    torch.testing.assert_close(10 * plain[..., 0] + 1000, found[..., 0], rtol=1e-4, atol=0.05)
    torch.testing.assert_close(plain[..., 1:], found[..., 1:], rtol=1e-4, atol=1e-4)
    mean, std = torch.tensor(HORIZON["mean"]), torch.tensor(HORIZON["std"])
    torch.testing.assert_close((found - mean) / std, scaled, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", MODELS)
def test_the_unit_of_a_series_changes_no_forecast(family):
    """Tonnes in place of grams: what is forecast is the same, in units of the spread."""
    one = spec(family, "horizon of series")
    small = dataclasses.replace(
        one,
        inputs={**one.inputs, "std": [1e-6 * value for value in one.inputs["std"]]},
        outputs={**one.outputs, **{key: [1e-6 * value for value in one.outputs[key]]
                                   for key in ("mean", "std")}},
    )  # fmt: skip
    models = [shaken(one).eval(), build(small).eval()]
    with torch.no_grad():
        for to, of in zip(models[1].parameters(), models[0].parameters(), strict=True):
            to.copy_(of)
    window = examples(one, 4)["window"]
    window[0] = window[0, :1]  # constant in every channel
    with torch.inference_mode():
        found = models[0](window), models[1](1e-6 * window)

    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_sound_is_measured_in_float32(precision):
    """Under autocast too: a loud tone's power is beyond what float16 holds."""
    torch.manual_seed(0)
    embed = MelEmbed(8000, 20, 16)
    samples, lengths = torch.randn(2, 4000).clamp(-1, 1), torch.tensor([4000, 3000])
    with torch.inference_mode():
        wanted, _ = embed(samples, lengths)
        with torch.autocast("cpu", dtype=precision):
            found, _ = embed(samples, lengths)
            embed.project.to(precision)  # as bf16-true has it
            lowered, _ = embed(samples, lengths)

    assert wanted.isfinite().all() and precision == found.dtype == lowered.dtype
    torch.testing.assert_close(wanted, found.float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("family", MODELS)
def test_a_spec_goes_through_json(family, pair):
    """What a manifest keeps builds the same model, and has the same signature."""
    one = spec(family, pair)
    again = ModelSpec.from_json(json.loads(json.dumps(one.to_json())))

    assert one == again
    assert one.signature == again.signature
    assert count_params(build(one)) == count_params(build(again))
