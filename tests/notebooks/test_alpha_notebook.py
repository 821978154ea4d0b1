"""notebooks/alpha.ipynb: run by papermill without anybody, and in a kernel with its sliders moved as a browser does."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from sharp_maml_core.config import FIELDS
from sharp_maml_core.landscape.scenes import double_well
from sharp_maml_core.landscape.walks import grid, walk_and_objective
from sharp_maml_core.plots.alpha import ScenePicture

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "alpha.ipynb"
CELLS = nbformat.read(NOTEBOOK, 4).cells
GIVEN = {"alpha_low": 0.1, "alpha_up": 0.05, "inner_lr": 0.1, "inner_steps": 1}


def tagged(cells: list[Any], tag: str) -> Any:
    (cell,) = (cell for cell in cells if tag in cell.metadata.get("tags", []))
    return cell


def papermill(out: Path, *parameters: str) -> subprocess.CompletedProcess[str]:
    notebook = str(NOTEBOOK.relative_to(ROOT))
    command = [sys.executable, "-m", "papermill", notebook, str(out), "--no-progress-bar", *parameters]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


# --- as it is stored, and without anybody -------------------------------------------------------------------------


def test_its_parameters_are_typed_sliders_within_the_ranges_of_config() -> None:
    source = tagged(CELLS, "parameters").source
    values = {node.target.id: ast.literal_eval(node.value) for node in ast.parse(source).body}
    assert set(values) == {*GIVEN, "quick"}
    for name, value in values.items():
        if name in GIVEN:
            assert FIELDS[name].metadata["allowed"].contains(value)
            line = next(line for line in source.splitlines() if line.startswith(name))
            assert '# @param {type:"slider", min:' in line


def test_its_bootstrap_is_that_of_the_training_notebook() -> None:
    training = nbformat.read(ROOT / "notebooks" / "train.ipynb", 4).cells
    assert tagged(CELLS, "bootstrap").source == tagged(training, "bootstrap").source


def test_it_is_stored_without_outputs() -> None:
    for cell in CELLS:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_papermill_leaves_a_figure_of_each_scene(executed: Callable[[str], Any]) -> None:
    outputs = [output for cell in executed("alpha").cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not any(output.output_type == "error" for output in outputs)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (["-p", "alpha_up", "-1"], "alpha_up=-1.0 is not allowed: it must be at least 0"),
        (["-p", "apha_up", "0.1"], "Did you mean alpha_up"),
    ],
    ids=["radius", "unknown name"],
)
def test_a_wrong_parameter_is_one_clear_sentence(tmp_path: Path, parameters: list[str], sentence: str) -> None:
    done = papermill(tmp_path / "out.ipynb", *parameters)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert 'File "' not in done.stderr.partition("Exception encountered")[2]  # no stack trace of ours


# --- in a kernel ----------------------------------------------------------------------------------------------------


class Page:
    """What a browser is to the kernel: it runs cells, moves sliders, and hears of every change of a widget."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client

    def run(self, code: str) -> None:
        reply = self._client.execute_interactive(code, timeout=120, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply["content"]

    def value(self, expression: str) -> Any:
        reply = self._client.execute("", user_expressions={"it": expression}, reply=True, timeout=60)
        return ast.literal_eval(reply["content"]["user_expressions"]["it"]["data"]["text/plain"])

    def move(self, widget: str, **state: object) -> list[dict[str, Any]]:
        """Set traits of a widget as a browser does, by a message; returns what the kernel had to say about it."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        message = self._client.session.msg("comm_msg", {"comm_id": self.value(f"{widget}.model_id"), "data": data})
        self._client.shell_channel.send(message)
        heard = []
        until = time.monotonic() + 60
        while time.monotonic() < until:
            answer = self._client.get_iopub_msg(timeout=60)
            if answer["parent_header"].get("msg_id") != message["msg_id"]:
                continue
            heard.append(answer)
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return heard
        raise TimeoutError


def sent(heard: list[dict[str, Any]], model: str, key: str) -> list[Any]:
    """The values of one trait that the kernel sent to the browser; bytes travel beside the message."""
    found = []
    for message in heard:
        data = message["content"].get("data", {})
        if message["msg_type"] != "comm_msg" or message["content"]["comm_id"] != model or data["method"] != "update":
            continue
        if [key] in data["buffer_paths"]:
            found.append(bytes(message["buffers"][data["buffer_paths"].index([key])]))
        elif key in data["state"]:
            found.append(data["state"][key])
    return found


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """The notebook, run to its end with GIVEN, and its kernel still there."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    try:
        page = Page(client)
        for cell in CELLS:
            if cell.cell_type == "code":
                page.run(cell.source)
            if "parameters" in cell.metadata.get("tags", []):
                page.run("\n".join(f"{name} = {value}" for name, value in GIVEN.items()) + "\nquick = True")
        yield page
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def expected(*ways: dict[str, float]) -> bytes:
    """The last of several pictures of the double well, computed here."""
    scene = double_well()
    picture = ScenePicture(scene)
    for settings in ways:
        config = scene.config.replace(**settings)
        picture.show(config, *walk_and_objective(scene, config, grid(scene)))
    return picture.png()


def test_moving_a_slider_sends_the_picture_that_the_core_computes(page: Page) -> None:
    image = page.value("image.model_id")
    before = page.value("bytes(image.value)")
    assert before == expected(GIVEN)
    (picture,) = sent(page.move("sliders['alpha_up']", value=0.8), image, "value")
    assert picture == expected(GIVEN, GIVEN | {"alpha_up": 0.8})
    assert picture != before
    for name, value in {"inner_steps": 3, "alpha_low": 0.4, "inner_lr": 0.2, "alpha_up": 0.05}.items():
        last = picture
        (picture,) = sent(page.move(f"sliders['{name}']", value=value), image, "value")
        assert picture != last, name
    assert picture == expected(GIVEN, {"alpha_low": 0.4, "alpha_up": 0.05, "inner_lr": 0.2, "inner_steps": 3})


def test_choosing_the_other_scene_shows_the_other_scene(page: Page) -> None:
    before = page.value("bytes(image.value)")
    heard = page.move("choice", index=1)
    (picture,) = sent(heard, page.value("image.model_id"), "value")
    assert picture != before
    assert sent(heard, page.value("note.model_id"), "value") == [page.value("scenes['A trained Conv4'].note")]
    (back,) = sent(page.move("choice", index=0), page.value("image.model_id"), "value")
    assert back == before


@pytest.mark.parametrize(("error", "next_value"), [("ZeroDivisionError", 0.5), ("UserError", 0.6)])
def test_an_error_of_a_move_is_shown_below_the_sliders(page: Page, error: str, next_value: float) -> None:
    page.run("from sharp_maml_core import UserError\nkept = draw")
    page.run(f"def draw(title, **settings):\n    raise {error}('what went wrong')")
    try:
        heard = page.move("sliders['alpha_up']", value=0.3)
        (shown,) = (message for message in heard if message["msg_type"] == "error")
        assert (shown["content"]["ename"], shown["content"]["evalue"]) == (error, "what went wrong")
        # An Output widget shows what is said in answer to the message whose id it holds.
        held = sent(heard, page.value("trouble.model_id"), "msg_id")
        assert shown["parent_header"]["msg_id"] in held
    finally:
        page.run("draw = kept")
    heard = page.move("sliders['alpha_up']", value=next_value)
    assert any(message["msg_type"] == "clear_output" for message in heard)
    assert sent(heard, page.value("image.model_id"), "value")
