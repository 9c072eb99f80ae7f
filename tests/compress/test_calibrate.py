"""Ranges of activations: what each rule keeps, on histograms whose answer is known."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelwright.compress import calibrate
from modelwright.compress.calibrate import CALIBRATIONS, Histogram, observe
from modelwright.data.rows import Rows

BINS = calibrate.BINS


def histogram_of(values, bins=BINS):
    counts, edges = np.histogram(values, bins)
    return Histogram(float(edges[0]), float(edges[-1]), counts)


def error_of(values, ends, levels=256):
    """Mean squared error of eight bits over a range, on the values themselves."""
    low, high = ends
    step = (high - low) / (levels - 1)
    return float(
        np.mean((low + np.round((values.clip(low, high) - low) / step) * step - values) ** 2)
    )


NORMAL = np.random.default_rng(0).normal(size=200_000)
HEAVY = np.random.default_rng(1).standard_t(2, size=200_000)
OUTLIER = np.append(np.random.default_rng(2).uniform(-1, 1, 200_000), 50.0)
TAILS = np.random.default_rng(1).laplace(size=200_000)
HALF = np.abs(NORMAL)  # as after a ReLU


@pytest.mark.parametrize("values", [NORMAL, HEAVY, OUTLIER, HALF])
@pytest.mark.parametrize("name", CALIBRATIONS)
def test_every_rule_stays_within_what_was_seen(name, values):
    """No rule goes beyond the values and zero, and none turns the range around."""
    low, high = CALIBRATIONS[name](histogram_of(values))

    assert min(values.min(), 0) - 1e-9 <= low < high <= values.max() + 1e-9


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["mse", "entropy"])
def test_values_of_one_sign_are_rounded_from_zero(name, sign):
    """Eight bits hold zero: ends are looked for on the values' side of it, and never meet."""
    values = sign * np.random.default_rng(3).uniform(1, 4, 100_000)
    with np.errstate(all="raise"):
        low, high = CALIBRATIONS[name](histogram_of(values))

    assert 0 in (low, high)
    assert pytest.approx(4.0, abs=0.05) == high - low


def test_minmax_covers_everything():
    """The range is exactly from the smallest to the largest value."""
    assert (HEAVY.min(), HEAVY.max()) == calibrate.minmax(histogram_of(HEAVY))


def test_percentile_cuts_an_outlier():
    """One value in 200,000 far out is left out; what lies inside is kept to a bin or two."""
    found = calibrate.percentile(histogram_of(OUTLIER))

    assert pytest.approx((-1.0, 1.0), abs=0.06) == found


def test_percentile_keeps_all_but_its_share():
    """Of a million values at most 100 lie outside."""
    low, high = calibrate.percentile(histogram_of(HEAVY))

    assert 20 >= ((low > HEAVY) | (high < HEAVY)).sum()


def test_percentile_of_one_value_keeps_it():
    """A tensor that is nearly always zero keeps zero inside."""
    values = np.append(np.zeros(100_000), [1.0, 2.0])
    low, high = calibrate.percentile(histogram_of(values))

    assert low <= 0 < high


@pytest.mark.parametrize("values", [NORMAL, HEAVY, OUTLIER])
def test_mse_is_no_worse_than_minmax(values):
    """The range it chooses has at most the error of the full range, on the values themselves."""
    histogram = histogram_of(values)

    assert error_of(values, calibrate.mse(histogram)) <= 1.001 * error_of(
        values, calibrate.minmax(histogram)
    )


def test_mse_beats_minmax_on_heavy_tails():
    """Where few values lie far out, cutting them takes a fifth off the error and more."""
    histogram = histogram_of(TAILS)

    assert error_of(TAILS, calibrate.mse(histogram)) <= 0.8 * error_of(
        TAILS, calibrate.minmax(histogram)
    )


def test_mse_keeps_a_uniform_range():
    """Nothing is cut where every value is as likely."""
    histogram = histogram_of(np.linspace(-1, 1, 100_001))

    assert pytest.approx((-1.0, 1.0), abs=0.02) == calibrate.mse(histogram)


def test_entropy_cuts_a_long_thin_tail():
    """Where all but one of 200,000 values lie in a fifth of the range, that fifth is kept."""
    values = np.append(np.random.default_rng(2).uniform(0, 1, 200_000), 5.0)

    assert pytest.approx((0.0, 1.0), abs=0.1) == calibrate.entropy(histogram_of(values))


def test_entropy_keeps_a_uniform_range():
    """A flat distribution loses nothing of it."""
    assert pytest.approx((-1.0, 1.0), abs=0.02) == calibrate.entropy(
        histogram_of(np.linspace(-1, 1, 100_001))
    )


def graph_of(*nodes, last):
    """A graph over images (batch, 1, 2, 2) that casts, then does the nodes."""
    cast = helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT)
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 2, 2])
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", 1, 2, 2])
    graph = helper.make_graph([cast, *nodes], "made", [image], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


ROOT = graph_of(
    helper.make_node("Sqrt", ["numbers"], ["root"]), helper.make_node("Neg", ["root"], ["minus"]),
    last="minus",
)  # fmt: skip


def rows_of(images):
    return Rows({"image": images}, np.zeros(len(images), np.int64), [""] * len(images))


def images_of(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, 1, 2, 2), np.uint8)


def test_every_value_is_observed():
    """Histograms hold every value between nodes and the output, each row counted once."""
    images = images_of(70)
    found = observe(ROOT, rows_of(images))

    assert {"numbers", "root", "minus"} == set(found)
    assert {4 * 70} == {int(one.counts.sum()) for one in found.values()}
    assert (float(images.min()), float(images.max())) == (
        found["numbers"].low,
        found["numbers"].high,
    )
    roots = np.sqrt(images.astype(np.float32))
    assert (float(-roots.max()), float(-roots.min())) == (found["minus"].low, found["minus"].high)
    assert [] == [value.name for value in ROOT.graph.value_info]


def test_two_batches_equal_one(monkeypatch):
    """Streaming changes nothing: any batch size gives the same histograms."""
    images = images_of(130)
    streamed = observe(ROOT, rows_of(images))
    monkeypatch.setattr(calibrate, "BATCH_ROWS", 1000)
    whole = observe(ROOT, rows_of(images))

    for name, histogram in whole.items():
        assert (histogram.low, histogram.high) == (streamed[name].low, streamed[name].high)
        np.testing.assert_array_equal(histogram.counts, streamed[name].counts)


def test_rows_stream(monkeypatch):
    """No more than one batch of rows is in the runtime at once, so memory does not grow."""
    sizes = []
    real = calibrate.inference_session

    class Watching:
        def __init__(self, *arguments, **keys):
            self.session = real(*arguments, **keys)
            self.get_inputs = self.session.get_inputs

        def run(self, names, batch):
            sizes.append(len(batch["image"]))
            return self.session.run(names, batch)

    monkeypatch.setattr(calibrate, "inference_session", Watching)
    observe(ROOT, rows_of(images_of(1000)))

    assert calibrate.BATCH_ROWS == max(sizes)


def test_what_is_seen_at_once_is_bounded(monkeypatch):
    """Where a row has many values, fewer rows are in the runtime at once; never less than one."""
    sizes, real = [], calibrate.run

    def watched(session, batch, names):
        sizes.append(len(batch["image"]))
        return real(session, batch, names)

    monkeypatch.setattr(calibrate, "run", watched)
    for most, rows in ((3 * 48, 3), (1, 1)):  # three values of 2 x 2 in float32 a row
        monkeypatch.setattr(calibrate, "MOST_BYTES", most)
        sizes.clear()
        found = observe(ROOT, rows_of(images_of(10)))

        assert rows == max(sizes)
        assert {40} == {int(one.counts.sum()) for one in found.values()}


@pytest.mark.parametrize("value", [0, 1, 7, 255])
@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_constant_value_keeps_a_range(name, value):
    """A tensor that never changes has a range that holds its value, and is no crash."""
    images = np.full((8, 1, 2, 2), value, np.uint8)
    low, high = CALIBRATIONS[name](observe(ROOT, rows_of(images))["numbers"])

    assert min(low, 0.0) <= value <= max(high, 0.0) + 1e-3


@pytest.mark.xdist_group("trained")  # with test_quantize.py
def test_the_trained_graph_is_observed(trained):
    """On the exported net, every product's input and output has a histogram."""
    found = observe(trained.graph, trained.unseen.take(np.arange(100)))
    products = [n for n in trained.graph.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]

    assert 5 <= len(products)
    assert all(node.output[0] in found for node in products)


def test_only_what_is_asked_for_is_observed():
    """Of two values between nodes and an output, the one that is named."""
    assert ["root"] == list(observe(ROOT, rows_of(images_of(4)), {"root", "image", "nowhere"}))


def test_large_values_are_counted_in_part(monkeypatch):
    """Where a batch has more numbers than are counted, the ends are of all of them and the counts
    of as many as are allowed, drawn alike each time, in the shares of the whole."""
    images = images_of(1000)
    images[:, :, 1, 1] = 0  # a quarter, at one and the same place of each picture
    images[777, 0, 0, 0] = 255
    monkeypatch.setattr(calibrate, "BATCH_ROWS", 1000)
    whole = observe(ROOT, rows_of(images))["numbers"]
    monkeypatch.setattr(calibrate, "MOST_COUNTED", 1000)
    part, again = (observe(ROOT, rows_of(images))["numbers"] for _ in range(2))

    assert (0.0, 255.0) == (part.low, part.high) == (whole.low, whole.high)
    assert 1000 == part.counts.sum()
    assert pytest.approx(whole.counts[0] / 4000, abs=0.05) == part.counts[0] / 1000
    np.testing.assert_array_equal(part.counts, again.counts)


def test_ints_are_not_observed():
    """Only float values are quantized, so only they are looked at."""
    graph = graph_of(helper.make_node("Sqrt", ["numbers"], ["root"]), last="root")
    graph.graph.node.append(onnx.helper.make_node("Shape", ["numbers"], ["shape"]))

    assert {"numbers", "root"} == set(observe(graph, rows_of(images_of(4))))
