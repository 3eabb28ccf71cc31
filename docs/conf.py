"""Settings of the documentation site; `make docs` builds it. What they are for: docs/developers/writing-docs.md."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from page_results import execution_cache, kernel_environment  # noqa: E402

import circuitgraph  # noqa: E402

project = "circuitgraph"
author = "The circuitgraph authors"
release = version = circuitgraph.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "public_names",
    "architectures",
    "command_line",
]
exclude_patterns = ["_build", "_ext", "**/.ipynb_checkpoints"]

# Pages. Links to other pages, to headings and to names must resolve: the build is run with -n and -W.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r".*")]
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

# Notebooks run in a folder of their own; a cell that fails fails the build.
os.environ.update(kernel_environment())
nb_execution_mode = "cache"
nb_execution_cache_path = str(execution_cache(HERE.parent))
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
# What libraries mutter on this machine; warnings are errors when the tests run the same cells.
nb_output_stderr = "remove"

# The reference, from docstrings. Their single backticks are code, as in Markdown.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "circuitgraph"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "logo": {"text": "circuitgraph"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
