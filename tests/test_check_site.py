"""The check of the built site finds what it looks for."""

import pytest
from helpers import load_script

check_site = load_script("docs/check_site.py")

PAGE = '<html lang="en"><head><title>t</title></head><body><h1 id="top">t</h1>{}</body></html>'


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="gone.html">x</a>', "gone.html leads nowhere"),
        ('<a href="other.html#gone">x</a>', "other.html#gone: no such fragment"),
        ('<a href="#gone">x</a>', "#gone: no such fragment"),
        ('<img src="gone.png" alt="">', "gone.png leads nowhere"),
        ('<img src="a.svg">', "image without alt: a.svg"),
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js from elsewhere"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "loads //cdn.example/x.css from elsewhere"),
        ("<style>@import 'https://cdn.example/x.css';</style>", "loads https://cdn.example/x.css from elsewhere"),
        ('<p style="background: url(http://a.example/b.png)">x</p>', "loads http://a.example/b.png from elsewhere"),
        ('<img srcset="http://a.example/b.png 2x" alt="">', "loads http://a.example/b.png from elsewhere"),
        ('<p id="top">x</p>', "id 'top' occurs 2 times"),
        ("<h1>again</h1>", "2 first-level headings"),
        ("<div><span></div>", "</div> at line 1 closes ['span']"),
        ("</br>", "</br> of an element that has no end"),
    ],
)
def test_each_fault_of_a_page_is_found(tmp_path, body, problem):
    (tmp_path / "index.html").write_text(PAGE.format(body))
    (tmp_path / "other.html").write_text(PAGE.format(""))
    (tmp_path / "a.svg").write_text("<svg/>")
    assert f"index.html: {problem}" in check_site.check_site(tmp_path)


def test_missing_language_title_and_heading_are_found(tmp_path):
    (tmp_path / "index.html").write_text("<html><head><title> </title></head><body></body></html>")
    assert check_site.check_site(tmp_path) == [
        f"index.html: {each}" for each in ("<html> has no lang", "no title", "0 first-level headings")
    ]


def test_style_sheets_and_drawings_load_nothing_from_elsewhere(tmp_path):
    (tmp_path / "index.html").write_text(PAGE.format(""))
    (tmp_path / "a.css").write_text("@font-face { src: url('https://fonts.example/a.woff2') }")
    assert check_site.check_site(tmp_path) == ["a.css: loads https://fonts.example/a.woff2 from elsewhere"]


def test_a_sound_site_has_no_problems(tmp_path):
    body = '<ul><li>one<li>two</ul><br><img src="a.svg" alt=""><a href="other.html#top">x</a><a href="#">x</a>'
    (tmp_path / "index.html").write_text(PAGE.format(body + '<a href="https://example.org">a link loads nothing</a>'))
    (tmp_path / "other.html").write_text(PAGE.format(""))
    (tmp_path / "a.svg").write_text("<svg/>")
    assert check_site.check_site(tmp_path) == []


def test_a_folder_without_pages_is_not_sound(tmp_path):
    assert check_site.check_site(tmp_path) == [f"no pages in {tmp_path}"]
