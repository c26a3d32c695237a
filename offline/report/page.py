"""The page: sections to one HTML file, figures to files of their own.

Law: the page asks nobody for anything, and what comes from data is escaped. A page that is there is replaced by a whole one only.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from offline.report import people, raster, soundness, worth
from offline.report.drawing import svg
from offline.report.palette import DARK, LIGHT
from offline.report.parts import Section, day
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from offline.report.parts import Figure
    from offline.report.study import Study

NAME = "report.html"
TITLE = "Customer segments"
FIGURES = "figures"


@dataclass(frozen=True, slots=True)
class Written:
    """Where the report is."""

    page: Path
    figures: tuple[Path, ...]
    pictures: bool  # whether there are PNG files too


def sections(study: Study) -> tuple[Section, ...]:
    """Put the page together."""
    return (
        people.summary(study),
        people.segments(study),
        people.sizes(study),
        people.apart(study),
        worth.worth(study),
        worth.loyalty(study),
        people.moved(study),
        soundness.good(study),
        soundness.data(study),
        soundness.gate(study),
        soundness.words(study),
        soundness.made(study),
    )


def html(study: Study, title: str, parts: tuple[Section, ...] | None = None) -> str:
    """Write the page.

    Raises:
        Misconfigured: Jinja is not installed.

    """
    try:
        from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        message = "a report needs Jinja: pip install 'segment-streamer[report]'"
        raise Misconfigured(message) from error
    from markupsafe import Markup  # noqa: PLC0415  # comes with Jinja

    files = resources.files("offline.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["drawn"] = Markup  # SVG of `drawing`, which escapes its texts itself
    template = environment.from_string((files / "page.html").read_text(encoding="utf-8"))
    text: str = template.render(
        title=title,
        when=day(study.as_of) if study.as_of is not None else "",
        sections=parts or sections(study),
        css=Markup(style((files / "report.css").read_text(encoding="utf-8"))),  # noqa: S704  # a file of our own
    )
    return text


def style(css: str) -> str:
    """Put the palettes before a style sheet: colours as variables, and the classes that drawings name."""
    tokens = [f".f-{n}{{fill:var(--{n})}}.s-{n}{{stroke:var(--{n})}}.card.edge-{n}{{border-left-color:var(--{n})}}" for n in LIGHT]
    light, dark = (_variables(palette) for palette in (LIGHT, DARK))
    modes = (
        f":root{{color-scheme:light dark;{light}}}",
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}",
        f"@media print{{:root{{color-scheme:light;{light}}}}}",
    )
    return "\n".join([*modes, "".join(tokens), css])


def _variables(palette: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{color};" for name, color in palette.items())


def write(study: Study, title: str, directory: Path, progress: Callable[[str], None] = lambda _: None) -> Written:
    """Write the report into a directory: `report.html`, and each figure in `figures/` as SVG and, where matplotlib is installed, as PNG.

    Raises:
        Misconfigured: the directory can't be written, or Jinja is not installed.

    """
    parts = sections(study)
    text = html(study, title, parts)
    pictures = raster.available()
    try:
        (directory / FIGURES).mkdir(parents=True, exist_ok=True)
        files = []
        for part in parts:
            for figure in part.figures:
                progress(f"drawing {figure.title.lower()}")
                files += _drawn(figure, directory / FIGURES, pictures=pictures)
        whole = directory / f"{NAME}.part"
        whole.write_text(text, encoding="utf-8")
        whole.replace(directory / NAME)
    except OSError as error:
        message = f"{directory} can't be written ({error.strerror or error}): name another place"
        raise Misconfigured(message) from error
    return Written(directory / NAME, tuple(files), pictures)


def _drawn(figure: Figure, directory: Path, *, pictures: bool) -> list[Path]:
    files = [directory / f"{figure.name}.svg"]
    files[0].write_text(svg(figure.wide, figure.alt, inline=False), encoding="utf-8")
    if pictures:
        files.append(directory / f"{figure.name}.png")
        raster.png(figure.wide, files[1])
    return files
