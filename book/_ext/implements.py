"""From an equation to the code that computes it and the tests that hold it there.

    ```{implements} 10
    adapt.task_gradient
    tests/learners/test_quadratic.py::test_eq_10_maml
    ```

shows one line under Eq. 10. The first name is one in `sharp_maml_core`, and leads to its entry in the API reference;
the tests are named by file and function, which do not move as line numbers do. A name that is not there fails the
build. `repository` in _config.yml, where it is set, makes links of the tests.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

PACKAGE = "sharp_maml_core"
ROOT = Path(__file__).resolve().parents[2]


class Implements(SphinxDirective):
    """The line under an equation."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Make the line; raise ExtensionError for code or a test that does not exist."""
        names = [line for line in self.content if line and "::" not in line]
        tests = [line for line in self.content if "::" in line]
        if not names or not tests:
            raise ExtensionError(f"{self.env.docname}: {self.arguments[0]} names no code or no test")
        line = nodes.paragraph(classes=["implements"])
        line += nodes.strong(text=f"{self.arguments[0]} in the code: ")
        for position, name in enumerate(names):
            line += self._comma(position)
            line += self._code(name)
        line += nodes.inline(text=". Held by: ")
        for position, test in enumerate(tests):
            line += self._comma(position)
            line += self._test(test)
        line += nodes.inline(text=".")
        return [line]

    def _comma(self, position: int) -> list[nodes.Node]:
        return [nodes.inline(text=", ")] if position else []

    def _code(self, name: str) -> nodes.Node:
        module, _, attribute = f"{PACKAGE}.{name}".rpartition(".")
        if not hasattr(importlib.import_module(module), attribute):
            raise ExtensionError(f"{self.env.docname}: there is no {module}.{attribute}")
        target = f"{module}.{attribute}"
        reference = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True, refdoc=self.env.docname
        )
        reference += nodes.literal(text=name)
        return reference

    def _test(self, test: str) -> nodes.Node:
        file, _, function = test.partition("::")
        path = ROOT / file
        if not path.is_file() or not re.search(rf"^def {function}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            raise ExtensionError(f"{self.env.docname}: there is no test {test}")
        shown = nodes.literal(text=f"{path.name}: {function}")
        repository = self.config.repository
        if not repository:
            return shown
        return nodes.reference("", "", shown, refuri=f"{repository}/blob/main/{file}", internal=False)


def setup(app: Sphinx) -> dict[str, Any]:
    """The directive, and the repository's address."""
    app.add_config_value("repository", "", "html", str)
    app.add_directive("implements", Implements)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
