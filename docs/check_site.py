"""Check what Sphinx does not see in the built site: ``python docs/check_site.py FOLDER``.

Sphinx checks its own references. Links in raw HTML, templates and style sheets must lead somewhere, too, and nothing
may be loaded from elsewhere, so that the site reads without a network.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}  # of <link rel=...>: others only name
CSS_URL = re.compile(r"""url\(\s*['"]?([^'")\s]+)|@import\s+['"]([^'"]+)""")


class Page(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], find_css_addresses(text)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        self.ids.add(attributes.get("id"))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "link" and set(attributes.get("rel", "").split()) & LOADED_LINKS:
            self.loaded.append(attributes["href"])
        self.loaded += [attributes[name] for name in ("src", "poster") if attributes.get(name)]
        self.loaded += [part.split()[0] for part in attributes.get("srcset", "").split(",") if part.strip()]


def find_css_addresses(text):
    """Return what style sheets load, also those within a page."""
    return [address or imported for address, imported in CSS_URL.findall(text)]


def leads_somewhere(address, path, folder, pages):
    """Return whether an address of a file within the site, and its fragment, are there."""
    parts = urlsplit(address)
    base = folder if parts.path.startswith("/") else path.parent
    target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    fragment = unquote(parts.fragment)
    return target.is_file() and (not fragment or target not in pages or fragment in pages[target].ids)


def check_site(folder):
    """Return a line for each problem of the site in a folder."""
    folder = Path(folder).resolve()
    paths = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]  # templates of the theme
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    loaded = {path: page.loaded for path, page in pages.items()}
    for path in sorted([*folder.rglob("*.css"), *folder.rglob("*.svg")]):
        loaded[path] = find_css_addresses(path.read_text(encoding="utf-8"))
    problems = [] if pages else [f"no pages in {folder}"]
    for path, addresses in loaded.items():
        links = pages[path].links if path in pages else []
        for address in dict.fromkeys(addresses + links):
            parts = urlsplit(address)
            if parts.scheme in {"http", "https", "ftp"} or parts.netloc:
                wrong = "is loaded from elsewhere" if address in addresses else None
            else:
                wrong = None if parts.scheme or leads_somewhere(address, path, folder, pages) else "leads nowhere"
            problems += [f"{path.relative_to(folder)}: {address} {wrong}"] if wrong else []
    return problems


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    lines = check_site(sys.argv[1])
    print("\n".join(lines) or "the site is sound")
    sys.exit(bool(lines))
