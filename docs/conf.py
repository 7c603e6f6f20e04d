"""Sphinx configuration. Builds without network, and the site reads without it."""

import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

import matplotlib

matplotlib.use("agg")
warnings.filterwarnings("ignore", category=DeprecationWarning)
sys.path.insert(0, str(Path(__file__).parent))  # for mathml, measured and gallery_order

project = "scratchnn"
author = "the scratchnn developers"
project_copyright = "2026, the scratchnn developers"
version = release = installed_version("scratchnn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
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
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"**": ["sidebar-site"]}
html_theme_options = {
    "header_links_before_dropdown": 5,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "navigation_depth": 3,
    "show_prev_next": False,
    # The page of the method shows network.py, whose lines need the width.
    "secondary_sidebar_items": {"**": ["page-toc"], "guide/how_it_works": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}
html_math_renderer = "mathml"
html_show_sourcelink = False
numpydoc_show_class_members = False
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "gallery_order.quickstart_first",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("scratchnn",),
    "reference_url": {"scratchnn": None},
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,  # its page loads scripts from elsewhere
    "abort_on_example_error": True,
}


def skip_member(app, what, name, obj, skip, options):
    """Leave out scikit-learn's generated methods of metadata routing: their texts refer to its own documentation."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def setup(app):
    app.connect("autodoc-skip-member", skip_member)
