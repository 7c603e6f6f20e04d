"""Sphinx configuration. Builds without network."""

import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

import matplotlib

matplotlib.use("agg")
sys.path.insert(0, str(Path(__file__).parent))  # for gallery_order
warnings.filterwarnings("ignore", category=DeprecationWarning)

project = "scratchnn"
author = "the scratchnn developers"
project_copyright = "2026, the scratchnn developers"
version = release = installed_version("scratchnn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "changes/*"]
default_role = "any"
html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
html_show_sourcelink = False
numpydoc_show_class_members = False
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "gallery_order.quickstart_first",
    "download_all_examples": False,
    "show_signature": False,
    "abort_on_example_error": True,
}
