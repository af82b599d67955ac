from html.parser import HTMLParser

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fraud.pipeline.render import render_html, sanitise

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src='https://evil.example/x.png'>",
    "<iframe src='https://evil.example'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<svg onload=alert(1)><circle/></svg>",
    "<style>@import 'https://evil.example'</style>",
    "<b style='background:url(https://evil.example)'>x</b>",
    "<form action='https://evil.example'><input name=a></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<object data='https://evil.example'></object>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)></style></mglyph></math>",
    "<td background='https://evil.example'>x</td>",
]


class Active(HTMLParser):
    """Collects what could run or fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "iframe", "object", "embed", "form", "input", "link", "svg", "math", "base"):
            self.found.append(tag)
        for name, value in attributes:
            value = (value or "").strip().lower()
            outside = name in ("src", "href", "background", "style") and ("evil" in value or "javascript" in value)
            if name.startswith("on") or outside:
                self.found.append(f"{tag} {name}={value}")


def active(page):
    parser = Active()
    parser.feed(page)
    return parser.found


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_hostile_survives_wherever_it_stands(payload):
    notebook = new_notebook(
        cells=[
            new_markdown_cell(f"# Title {payload}\n\n{payload}"),
            new_code_cell(
                "secret = 1",
                outputs=[
                    new_output("display_data", data={"text/html": f"<table><tr><td>{payload}</td></tr></table>"}),
                    new_output("display_data", data={"text/markdown": payload}),
                    new_output("stream", name="stderr", text=payload),
                    new_output("error", ename="E", evalue=payload, traceback=[payload]),
                ],
            ),
        ]
    )
    page = render_html(notebook, title=payload, footer=payload)
    assert active(page.replace('<meta charset="utf-8">', "")) == []


def test_the_page_shows_results_and_hides_code():
    notebook = new_notebook(
        cells=[
            new_code_cell("bucket: str = 'x'", metadata={"tags": ["parameters"]}),
            new_markdown_cell("# Title\n\n> Question?"),
            new_code_cell(
                "hidden_call()",
                outputs=[
                    new_output(
                        "display_data", data={"text/html": "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"}
                    ),
                    new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}),
                ],
            ),
        ]
    )
    page = render_html(notebook, title="T")
    assert "<h1>Title" in page and "<blockquote>" in page and "<td>1</td>" in page
    assert 'src="data:image/png;base64,iVBORw0KGgo=' in page
    assert "hidden_call" not in page and "bucket" not in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_a_link_to_another_notebook_is_its_name_alone():
    """Who got this page by mail has no other."""
    page = render_html(
        new_notebook(cells=[new_markdown_cell("see [03 Deploy](03_deploy.ipynb) and [a](#b)")]), title="t"
    )
    assert "see 03 Deploy and" in page and "03_deploy" not in page


def test_a_figure_by_content_id_is_kept():
    assert 'src="cid:figure-1"' in sanitise('<img src="cid:figure-1" alt="f">')
