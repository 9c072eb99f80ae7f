"""What boxes have beyond every other answer: pictures drawn, and faults in where they lie."""

import numpy as np
import pytest

from modelwright import verbs
from modelwright.compress.search import MOST_FLIPPED
from modelwright.core.errors import ConfigError
from modelwright.data import image
from modelwright.export.parity import check_hop
from modelwright.runtime.catalog import open_session

of_boxes = pytest.mark.xdist_group("detection-cnn")  # where the cell is made for test_tasks.py


@pytest.fixture
def cell(cell_of):
    return cell_of("detection", "cnn")


class Faulty:
    """A session whose answers are changed on their way out."""

    def __init__(self, session, change) -> None:
        self.signature, self._session, self._change = session.signature, session, change

    def __call__(self, batch):
        return self._change(self._session(batch))

    def close(self) -> None:
        self._session.close()


FAULTS = {
    "boxes a third aside": lambda found: {**found, "boxes": found["boxes"] + 4},
    "no score is sure": lambda found: {**found, "scores": found["scores"] - 6},
    "classes exchanged": lambda found: {**found, "scores": found["scores"][..., ::-1].copy()},
}


@of_boxes
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_changes_decisions(cell, fault):
    """Numbers unjudged, as of a quantized form: the boxes that both forms name tell."""
    session = open_session(cell.exported)
    rows = cell.taught[0].valid
    found = check_hop(
        "onnx → faulty", session, Faulty(open_session(cell.exported), FAULTS[fault]), rows,
        cell.spec, cell.task, tolerance=None, decision_tolerance=MOST_FLIPPED, metric_tolerance=1.0,
    )  # fmt: skip
    sound = check_hop("onnx → onnx", session, open_session(cell.exported), rows, cell.spec,
                      cell.task)  # fmt: skip

    assert any("decisions change" in text for text in found["failures"])
    assert [] == sound["failures"]
    assert sound["decisions_equal"] == sound["decisions_total"] >= len(rows)


@of_boxes
def test_predict_draws_what_it_found(cell, tmp_path):
    """The picture with its boxes lies in the folder; small ones are enlarged by a whole number."""
    question = cell.source.question
    (said,) = verbs.predict(cell.exported.folder, [question], draw=tmp_path / "found")["answers"]
    drawn = (tmp_path / "found" / question.name).read_bytes()

    assert said["boxes"]
    assert str(tmp_path / "found" / question.name) == said["drawn"]
    (height, width), large = image.size(question.read_bytes()), image.size(drawn)
    assert large[0] // height > 1
    assert (height * (large[0] // height), width * (large[0] // height)) == large


@pytest.mark.xdist_group("tagging-cnn")
def test_other_models_refuse_to_draw(cell_of, tmp_path):
    """A folder for drawings of a model that has none is an error, not an empty folder."""
    other = cell_of("tagging", "cnn")
    with pytest.raises(ConfigError, match="nothing to draw with tagging"):
        verbs.predict(other.exported.folder, ["a day"], draw=tmp_path)


@of_boxes
def test_boxes_come_in_the_pictures_own_pixels(cell, tmp_path):
    """A picture twice as large has boxes twice as large."""
    from PIL import Image

    question = cell.source.question
    wide = tmp_path / "wide.png"
    with Image.open(question) as one:
        one.resize((64, 64), Image.Resampling.NEAREST).save(wide)
    small, large = verbs.predict(cell.exported.folder, [question, wide])["answers"]
    assert len(small["boxes"]) == len(large["boxes"]) > 0
    np.testing.assert_allclose(
        2 * np.array(small["boxes"][0]["box"]), large["boxes"][0]["box"], atol=3
    )
