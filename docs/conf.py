"""The documentation site: ``make docs`` builds it with Sphinx, from these pages and the docstrings of ``metasrl``."""

from importlib.metadata import version as version_of

project = "metasrl"
author = "The metasrl authors"
project_copyright = "The metasrl authors, Apache-2.0"
version = release = version_of("metasrl")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["schemas", "examples", "results/contexts/cells"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # run files in code blocks hold placeholders

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True

html_theme = "furo"
html_title = f"metasrl {version}"
html_show_sourcelink = False
