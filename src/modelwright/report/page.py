"""One self-contained HTML file that shows the life of a model.

Reads a run's folder through collect; writes report.html into it. The page loads nothing from
anywhere and runs no script: its content policy forbids both.
"""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from modelwright.core.files import write_bytes
from modelwright.core.goals import Metric
from modelwright.core.progress import working
from modelwright.core.run import Run
from modelwright.report import making, sections, words
from modelwright.report.collect import Life, collect

HERE = Path(__file__).parent


def write_report(run: Run) -> Path:
    """Write `<run folder>/report.html`, whole or not at all; any subset of stages will do.

    Raises: ConfigError if the folder is no run; StorageError when the disk refuses.
    """
    path = run.folder / "report.html"
    with working("report"):
        write_bytes(path, render(collect(run)).encode("utf-8", "replace"))
    return path


def render(life: Life) -> str:
    """The whole page as text."""
    return _template().render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        name=life.name,
        metric=_spoken(life.metric),
        look=_spoken(life.look),
        verdict=sections.verdict(life),
        goals=sections.goals(life),
        misses=sections.misses(life),
        predicted=sections.predicted(life),
        gate=making.gate(life),
        candidates=making.candidates(life),
        curves=making.curves(life),
        compression=making.compression(life),
        quality=sections.quality(life),
        latency=sections.latency(life),
        parity=sections.parity(life),
        reproduce=making.reproduce(life),
    )


def _spoken(metric: Metric) -> dict[str, str]:
    """The task's metric in the words of headings and captions."""
    up = metric.higher_is_better
    return {
        "name": words.label(metric.name),
        "title": words.title(metric),
        "lost": words.lost(metric),
        "better": "up" if up else "down",
        "flattered": "high" if up else "low",  # what an early forecast is as a rule too much
    }


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.j2")
