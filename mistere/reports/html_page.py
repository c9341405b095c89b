"""Reports as self-contained HTML files, without scripts or network access, for light and dark themes, wide and narrow screens.

A stage keeps its template beside its code and extends ``base.html``; Jinja escapes values, and plots are inline SVG.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

BASE_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: Path, *shared: Path, **values: Any) -> str:
    """Render a template that extends ``base.html``.

    Args:
        template: the template's file.
        shared: templates of other folders that it imports by name.
        values: the template's variables; escaped unless they are Markup.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, *(one.parent for one in shared), BASE_TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return unbroken(environment.get_template(template.name).render(**values))


def unbroken(html: str) -> str:
    """The text with no-break spaces between a number and its per cent sign, so that no line begins with the sign."""
    return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", html)


def new_figure(width: float = 6.4, height: float = 3.2) -> Figure:
    """A matplotlib figure, sized in inches, with a transparent background and text in the page's colour."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "svg.hashsalt": "mistere"}
    )
    matplotlib.rcParams["text.parse_math"] = False  # show dollar signs in labels as they are
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def figure_svg(figure: Figure, label: str) -> Markup:
    """The figure as inline SVG that scales with the page; ``label`` is its text for screen readers.

    Black becomes ``currentColor`` and white becomes transparent, so that the figure fits light and dark themes.
    """
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser's font draws the text
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"(fill|stroke): (#000000|#262626|black)\b", r"\1: currentColor", svg)
    svg = svg.replace("fill: #ffffff", "fill: none")
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"(?=/?>)', "", svg)  # ids must be unique on a page
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" class="plot" ', 1)
    return Markup(svg)  # noqa: S704  (matplotlib escapes the texts in its SVG)
