"""Sphinx configuration. Neither the build nor the site needs a network connection."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib

import scratchnn

matplotlib.use("agg")
warnings.filterwarnings("ignore", category=DeprecationWarning)
sys.path.insert(0, str(Path(__file__).parent))  # for mathml, measured and gallery_order

project = "scratchnn"
author = "the scratchnn developers"
project_copyright = "2026, the scratchnn developers"
version = release = scratchnn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "measured",
]
exclude_patterns = ["_build", "changes/*"]
templates_path = ["_templates"]
toc_object_entries_show_parents = "hide"
default_role = "any"
highlight_language = "text"  # blocks without a language are drawings; doctests are Python all the same
html_theme = "pydata_sphinx_theme"
html_title = "scratchnn"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {page: [] for page in ("index", "get_started", "genindex", "search")}  # others: those of the section
# The build has no network, so the objects to which pages link are listed here. docs/_inventories/make.py writes it.
intersphinx_mapping = {"sklearn": ("https://scikit-learn.org/stable", "_inventories/sklearn.inv")}
copybutton_exclude = ".linenos, .gp, .go"
html_theme_options = {
    "logo": {"text": f"scratchnn {release}"},
    "header_links_before_dropdown": 5,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "navigation_depth": 2,
    "show_toc_level": 2,
    # The page of the method shows network.py, whose lines need the width.
    "secondary_sidebar_items": {"**": ["page-toc"], "guide/how_it_works": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}
html_math_renderer = "mathml"
html_show_sourcelink = False
html_domain_indices = False  # the API page lists both modules
numpydoc_show_class_members = False
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "subsection_order": "gallery_order.sort_sections",
    "within_subsection_order": "gallery_order.quickstart_first",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("scratchnn",),
    "reference_url": {"scratchnn": None},
    "download_all_examples": False,
    "image_srcset": ["2x"],
    "show_signature": False,
    "write_computation_times": False,  # its page loads scripts from elsewhere
    "abort_on_example_error": True,
}


def simplify_scikit_learn(app, what, name, obj, options, lines):
    """Make names of the references in docstrings that methods inherit: they lead to parts of scikit-learn's site."""
    if (getattr(obj, "__module__", None) or "").startswith("sklearn."):
        text = "\n".join(line for line in lines if not line.startswith(".. versionadded::"))
        text = re.sub(r":[\w:]+:`~?([^`<]+?)(?:\s+<[^`]*>)?`", r"\1", text)
        lines[:] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text).split("\n")


def write_unreleased(app):
    """Write the changes since the last release, from the fragments in docs/changes, for the page of changes."""
    version = scratchnn.__version__.partition(".dev")[0]
    options = ["--draft", "--version", version, "--date", "not released yet"]
    command = [sys.executable, "-m", "towncrier", "build", *options]
    text = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True).stdout
    target = Path(__file__).parent / "generated" / "unreleased.inc"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text[text.index("Version") :], encoding="utf-8")


def setup(app):
    app.connect("builder-inited", write_unreleased)
    app.connect("autodoc-process-docstring", simplify_scikit_learn, priority=400)  # before numpydoc, at 500
