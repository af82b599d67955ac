"""From an executed notebook to one HTML file: code hidden, sanitised, nothing fetched from elsewhere."""

from __future__ import annotations

import re
from typing import Any

import jinja2
import nh3
from markupsafe import Markup

from fraud.pipeline.blocks import with_code

TAGS = set(
    "a b bdi blockquote br caption code col colgroup dd div dl dt em h1 h2 h3 h4 hr i img li ol p pre s small span "
    "strong sub sup table tbody td tfoot th thead tr ul".split()
)
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("fraud.pipeline", "templates"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
)
TEMPLATES.filters["with_code"] = lambda text: Markup(with_code(text))
ATTRIBUTES = {
    "*": {"class", "title"},
    "a": {"href"},
    "img": {"src", "alt"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}


def sanitise(body: str) -> str:
    """Keep headings, prose, tables and embedded pictures; drop scripts, styles, handlers and outside addresses.

    Parameters
    ----------
    body : str
        Any HTML.

    Returns
    -------
    str
        HTML of ``TAGS`` only; pictures only as ``data:image/png`` or ``data:image/jpeg``, or by ``cid:``.
    """

    def kept(tag: str, attribute: str, value: str) -> str | None:
        if (
            tag == "img"
            and attribute == "src"
            and not value.startswith(("data:image/png;", "data:image/jpeg;", "cid:"))
        ):
            return None
        return value

    return nh3.clean(
        body,
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=kept,
        url_schemes={"https", "data", "cid"},
        link_rel="noopener noreferrer",
    )


def render_html(notebook: Any, *, title: str, footer: str = "") -> str:
    """Render an executed notebook.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        With outputs.
    title : str
        Of the page; escaped.
    footer : str
        Plain text at the end; escaped.

    Returns
    -------
    str
        One self-contained HTML page without scripts and without external addresses.
    """
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    config = Config()
    config.HTMLExporter.template_name = "basic"
    config.HTMLExporter.exclude_input = True
    config.HTMLExporter.exclude_input_prompt = True
    config.HTMLExporter.exclude_output_prompt = True
    config.HTMLExporter.embed_images = False
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_cell_tags = ("parameters", "injected-parameters")
    config.HTMLExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    body, _ = HTMLExporter(config=config).from_notebook_node(notebook)
    body = re.sub(r'<a class="anchor-link"[^>]*>.*?</a>', "", body)
    body = body.replace('alt="No description has been provided for this image"', 'alt="figure"')
    body = re.sub(r'<a href="\d\d_\w+\.ipynb">(.*?)</a>', r"\1", body)  # who got this page alone has no other
    return TEMPLATES.get_template("report.html.j2").render(title=title, body=sanitise(body), footer=footer)
