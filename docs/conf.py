"""Sphinx configuration. `make docs` builds with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate_pages  # the API pages and the table of papers come from the code

import driftwell

generate_pages.write_all(Path(__file__).parent)

project = "driftwell"
author = "The driftwell authors"
project_copyright = "2026, The driftwell authors"
version = release = driftwell.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "plain_equations",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # the signature shows the types of fields
napoleon_use_ivar = True  # an "Attributes:" section does not document a dataclass's fields twice
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": True,
    "ignore-module-all": True,  # a thing is documented where it is defined, once
}
default_role = "py:obj"  # `name` in a docstring links where there is such a name
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"State": "State"}  # the alias and not the union it stands for
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False  # the section names the module
smartquotes = False  # z' is a proposal and not a quotation

html_theme = "furo"
html_title = f"driftwell {version}"
html_theme_options = {"navigation_with_keys": True}
