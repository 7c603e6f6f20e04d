"""Check the built site: ``python docs/check_site.py FOLDER``.

Every link within the site and its fragment must lead somewhere, no page may load anything from elsewhere, and each page
needs a language, a title, one first-level heading, unique ids, closed elements, and alternative texts for its images.
"""

import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
OPTIONAL = {"p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup", "option"}  # may stay open
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}  # of <link rel=...>: others only name
CSS_URL = re.compile(r"""url\(\s*['"]?([^'")\s]+)|@import\s+['"]([^'"]+)""")


class Page(HTMLParser):
    """What a page holds: its ids, what it links to and loads, and what is wrong with it."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.ids, self.links, self.loaded, self.problems = Counter(), [], [], []
        self.counts, self.language, self.title, self._open = Counter(), None, "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.counts[tag] += 1
        if tag not in VOID:
            self._open.append(tag)
        if "id" in attributes:
            self.ids[attributes["id"]] += 1
        if tag == "html":
            self.language = attributes.get("lang")
        if tag == "img" and "alt" not in attributes:
            self.problems.append(f"image without alt: {attributes.get('src')}")
        self._note_addresses(tag, attributes)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            self.problems.append(f"</{tag}> of an element that has no end")
            return
        while self._open and self._open[-1] != tag and self._open[-1] in OPTIONAL:
            self._open.pop()
        if self._open and self._open[-1] == tag:
            self._open.pop()
        else:
            self.problems.append(f"</{tag}> at line {self.getpos()[0]} closes {self._open[-1:] or 'nothing'}")

    def handle_data(self, data):
        if self._open[-1:] == ["title"] and "svg" not in self._open:
            self.title += data
        if self._open[-1:] == ["style"]:
            self.loaded += find_css_addresses(data)

    def _note_addresses(self, tag, attributes):
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "link" and set(attributes.get("rel", "").split()) & LOADED_LINKS:
            self.loaded.append(attributes["href"])
        self.loaded += [attributes[name] for name in ("src", "poster") if attributes.get(name)]
        self.loaded += [part.split()[0] for part in attributes.get("srcset", "").split(",") if part.strip()]
        self.loaded += find_css_addresses(attributes.get("style") or "")

    def list_problems(self):
        """Return what is wrong with the page by itself."""
        problems = [*self.problems]
        problems += [f"id {name!r} occurs {number} times" for name, number in self.ids.items() if number > 1]
        problems += [f"<{tag}> is not closed" for tag in self._open if tag not in OPTIONAL]
        if not self.language:
            problems.append("<html> has no lang")
        if not self.title.strip():
            problems.append("no title")
        if self.counts["h1"] != 1:
            problems.append(f"{self.counts['h1']} first-level headings")
        return problems


def find_css_addresses(text):
    """Return what a style sheet loads."""
    return [address or imported for address, imported in CSS_URL.findall(text)]


def check_address(address, path, folder, pages):
    """Return what is wrong with an address of a file in the site, or None. Addresses elsewhere are not looked at."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    base = folder if parts.path.startswith("/") else path.parent
    target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return f"{address} leads nowhere"
    fragment = unquote(parts.fragment)
    if fragment and target in pages and fragment not in pages[target].ids:
        return f"{address}: no such fragment"
    return None


def is_remote(address):
    """Return whether loading an address needs the network."""
    return urlsplit(address).scheme in {"http", "https", "ftp"} or address.startswith("//")


def check_site(folder):
    """Return a line for each problem of the site in a folder."""
    folder = Path(folder).resolve()
    paths = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]  # templates of the theme
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    if not pages:
        return [f"no pages in {folder}"]
    problems = []
    for path, page in pages.items():
        found = page.list_problems()
        found += [f"loads {address} from elsewhere" for address in page.loaded if is_remote(address)]
        found += filter(None, (check_address(each, path, folder, pages) for each in page.links + page.loaded))
        problems += [f"{path.relative_to(folder)}: {each}" for each in dict.fromkeys(found)]
    for path in sorted([*folder.rglob("*.css"), *folder.rglob("*.svg")]):
        for address in find_css_addresses(path.read_text(encoding="utf-8")):
            if is_remote(address):
                problems.append(f"{path.relative_to(folder)}: loads {address} from elsewhere")
            elif problem := check_address(address, path, folder, pages):
                problems.append(f"{path.relative_to(folder)}: {problem}")
    return problems


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    lines = check_site(sys.argv[1])
    print("\n".join(lines) or "the site is sound")
    sys.exit(bool(lines))
