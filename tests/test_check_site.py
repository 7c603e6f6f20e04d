"""The check of the built site finds what it looks for."""

import pytest
from helpers import load_script

check_site = load_script("docs/check_site.py")

PAGE = '<html><head><title>t</title></head><body><h1 id="top">t</h1>{}</body></html>'


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ('<a href="gone.html">x</a>', ["gone.html leads nowhere"]),
        ('<a href="other.html#gone">x</a>', ["other.html#gone leads nowhere"]),
        ('<img src="gone.png">', ["gone.png leads nowhere"]),
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js is loaded from elsewhere"]),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', ["//cdn.example/x.css is loaded from elsewhere"]),
        ("<style>@import 'https://cdn.example/x.css';</style>", ["https://cdn.example/x.css is loaded from elsewhere"]),
        ('<img srcset="http://a.example/b.png 2x">', ["http://a.example/b.png is loaded from elsewhere"]),
        ('<img src="a.svg"><a href="other.html#top">x</a><a href="#top">x</a><a href="https://example.org">x</a>', []),
    ],
)
def test_faults_of_a_page_are_found(tmp_path, body, problems):
    (tmp_path / "index.html").write_text(PAGE.format(body))
    (tmp_path / "other.html").write_text(PAGE.format(""))
    (tmp_path / "a.svg").write_text("<svg/>")
    assert check_site.check_site(tmp_path) == [f"index.html: {each}" for each in problems]


def test_style_sheets_load_nothing_from_elsewhere_and_a_site_has_pages(tmp_path):
    (tmp_path / "a.css").write_text("@font-face { src: url('https://fonts.example/a.woff2') }")
    assert check_site.check_site(tmp_path) == [
        f"no pages in {tmp_path}",
        "a.css: https://fonts.example/a.woff2 is loaded from elsewhere",
    ]
