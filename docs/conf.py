"""The site: `sphinx-build -W docs build/site` makes it of the pages in this folder."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
# The pages describe the code beside them; `_generated` and `_signatures` lie here.
sys.path[:0] = [str(HERE), str(HERE.parent)]

import _generated  # noqa: E402
import _signatures  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import flowbp  # noqa: E402

project = "flowbp"
release = version = flowbp.__version__
html_title = f"flowbp {flowbp.__version__}"
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_*"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

# Links to headings as on the hosting site of the code, which makes the same anchors.
myst_heading_anchors = 3
# `>>>` is not copied, nor what is printed.
copybutton_exclude = ".linenos, .gp, .go"

# A name in backquotes leads to where it is documented, if it is; else it is code.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False


def setup(app: Sphinx) -> None:
    """Have pages filled with what is generated, and signatures shown as they are written."""
    app.connect("source-read", _generated.fill)
    app.connect("autodoc-skip-member", _signatures.is_skipped)
    app.connect("autodoc-process-signature", _signatures.signature_of)
