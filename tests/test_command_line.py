"""`python -m workbench`, the runner of notebooks, and what make passes to them."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from videos import write_video

from workbench import __main__ as command
from workbench.clips import files
from workbench.datasets import samples
from workbench.studies import notebooks, sample_files
from workbench.training import sample_networks

ROOT = files.ROOT
QUICKSTART = ROOT / "notebooks" / "00_quickstart.ipynb"


def write_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook of code cells, the first of them tagged `parameters`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout in a folder with a space in its name, where the command line runs."""
    root = tmp_path / "a checkout"
    monkeypatch.setattr(files, "ROOT", root)
    write_notebook(
        root / "notebooks" / QUICKSTART.name,
        "# Parameters\nvideo = None",
        "# Choose τ\nprint('τ of', video)",
    )
    return root


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"no video"),
        ("gone.mp4", None),
        ("-dash.mp4", None),
        ("one frame.mp4", write_video),
    ],
)
def test_a_bad_video_is_reported_in_a_line_before_anything_starts(
    tmp_path, monkeypatch, capsys, name, content
):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        content(tmp_path / name, 1)
    monkeypatch.chdir(tmp_path)
    assert command.main(["demo", "--", name]) == 1
    printed = capsys.readouterr()
    assert name in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_folder_that_cannot_be_written_is_reported_before_anything_starts(checkout, capsys):
    (checkout / "results").write_text("a file in the place of the folder")
    assert command.main(["demo"]) == 1
    printed = capsys.readouterr()
    assert f"cannot write to {checkout / 'results' / 'quickstart'}" in printed.err
    assert printed.out == ""


def test_a_disk_that_is_full_at_the_end_is_reported_in_a_line(checkout, monkeypatch, capsys):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_flush", full)
    assert command.main(["demo"]) == 1
    printed = capsys.readouterr()
    assert printed.err.endswith("No space left on device\n")
    assert "Traceback" not in printed.err
    assert list((checkout / "results" / "quickstart").iterdir()) == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_demo_runs_in_a_terminal_without_unicode(checkout, monkeypatch, encoding):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert command.main(["demo"]) == 0
    terminal.flush()
    printed = terminal.buffer.getvalue().decode(encoding)
    assert r"[2/2] Choose \u03c4" in printed
    assert r"\u03c4 of None" in printed


@pytest.mark.slow
def test_the_demo_explains_a_video_with_a_space_in_its_name(checkout, tmp_path, capsys):
    shutil.copy(QUICKSTART, checkout / "notebooks")
    video = tmp_path / "my video.avi"
    shutil.copy(samples.FOLDER / "ucf101/UCF-101/Lift/v_Lift_g01_c01.avi", video)
    assert command.main(["demo", str(video)]) == 0
    printed = capsys.readouterr().out
    assert "lift with a probability of 0." in printed
    folder = checkout / "results" / "quickstart"
    for name in ("heat.mp4", "focus.mp4", "volume.html", "quickstart.ipynb"):
        assert name in printed
        assert (folder / name).stat().st_size > 1000
    executed = nbformat.read(folder / "quickstart.ipynb", as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a single process")
def test_an_interrupted_demo_says_so_and_ends():
    demo = subprocess.Popen(
        [sys.executable, "-m", "workbench", "demo"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.stdout.readline().startswith("[1/")
    assert demo.stdout.readline().startswith("[2/")
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert rest.strip().splitlines()[-1] == "Interrupted. No file is left half-written."
    assert "Kernel died" not in rest
    assert "Traceback" not in rest


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for name in ("demo", "evaluate", "study", "check-data", "make-samples", "train-sample"):
        assert re.search(rf"^ +{name}\b", printed, re.MULTILINE)


def test_make_samples_builds_them(monkeypatch, capsys):
    monkeypatch.setattr(sample_files, "build", lambda: Path("the folder"))
    assert command.main(["make-samples"]) == 0
    assert capsys.readouterr().out == "the folder\n"


def test_train_sample_trains_the_network_named(monkeypatch, capsys):
    def retrain(name, *, progress):
        return Path(f"{name}.safetensors")

    monkeypatch.setattr(sample_networks, "retrain", retrain, raising=False)
    assert command.main(["train-sample", "tsn"]) == 0
    assert capsys.readouterr().out == "tsn.safetensors\n"
    with pytest.raises(SystemExit):
        command.main(["train-sample", "vgg"])


def test_parameters_replace_those_of_the_notebook(tmp_path):
    source = write_notebook(tmp_path / "{a} b" / "n.ipynb", "# Parameters\nvideo = 1", "video")
    video = """it's "mine" \\ $(x) τ\n.mp4"""
    executed = notebooks.run_notebook(source, {"video": video})
    assert executed.cells[-1].outputs[0].data["text/plain"] == repr(video)
    assert nbformat.read(source, as_version=4).cells[0].outputs == []


def test_a_failing_cell_is_reported_with_its_line(tmp_path):
    source = write_notebook(
        tmp_path / "wrong.ipynb",
        "# Parameters\nsize = 3",
        "# The claim\nx = 1\nassert size == 4, 'it is not so'",
        "# Never\nprint(1)",
    )
    steps = []
    with pytest.raises(notebooks.NotebookError) as failed:
        notebooks.run_notebook(source, report=lambda *step: steps.append(step))
    assert str(failed.value).splitlines() == [
        "wrong.ipynb stopped in code cell 2 of 3, 'The claim':",
        "    assert size == 4, 'it is not so'",
        "    AssertionError: it is not so",
    ]
    assert steps == [(1, 3, "Parameters"), (2, 3, "The claim")]


def test_a_cell_that_takes_too_long_is_reported(tmp_path):
    source = write_notebook(tmp_path / "n.ipynb", "# Wait\nimport time\ntime.sleep(60)")
    with pytest.raises(notebooks.NotebookError, match=r"'Wait':\s+it took longer than 1 s"):
        notebooks.run_notebook(source, timeout=1)


def test_a_kernel_that_dies_is_reported(tmp_path):
    source = write_notebook(tmp_path / "n.ipynb", "# Die\nimport os\nos._exit(1)")
    with pytest.raises(notebooks.NotebookError, match=r"'Die':\s+its Python process died"):
        notebooks.run_notebook(source)


def test_an_executed_notebook_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_notebook(tmp_path / "n.ipynb", "1")
    before = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["papermill"] = {"input_path": "somebody's"}
    notebooks.save_notebook(notebook, path)
    assert path.read_bytes() == before

    def half(_, file):
        Path(file).write_bytes(before[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(nbformat, "write", half)
    with pytest.raises(KeyboardInterrupt):
        notebooks.save_notebook(notebook, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def ci_notebooks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "notebooks.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_a_failing_figure_fails_the_command_in_a_few_lines(tmp_path):
    wrong = write_notebook(tmp_path / "wrong.ipynb", "# Parameters\nx = 1", "# Claim\nassert x > 1")
    done = ci_notebooks("figures", wrong)
    assert done.returncode == 1
    assert "wrong.ipynb stopped in code cell 2 of 2, 'Claim':" in done.stderr
    assert "assert x > 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4


@pytest.mark.slow
def test_refreshed_notebooks_keep_what_belongs_in_git(tmp_path):
    path = write_notebook(
        tmp_path / "n.ipynb",
        "# Parameters\nsize = 2",
        "import sys\nprint('warning', file=sys.stderr)\nprint('size', size)",
        "from PIL import Image\nImage.new('RGB', (2, 2))",
        "object()",
        "from IPython.display import display\nimport ipywidgets as widgets\n"
        "picture = Image.new('RGB', (2, 2))._repr_png_()\nslider = widgets.IntSlider()\n"
        "display({**slider._repr_mimebundle_(), 'image/png': picture}, raw=True)",
    )
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells[-2:]:
        cell.metadata["tags"] = ["nbval-ignore-output"]
    nbformat.write(notebook, path)
    done = ci_notebooks("refresh", path)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.metadata.get("tags") for cell in cells] == [
        ["parameters"],
        None,
        None,
        ["nbval-ignore-output"],
        ["nbval-ignore-output"],
    ]
    assert [output.text for output in cells[1].outputs] == ["size 2\n"]
    assert set(cells[2].outputs[0].data) == {"image/jpeg", "text/plain"}
    assert cells[3].outputs == []
    # A widget leaves the picture that stands for it, for readers without a kernel.
    assert [set(output.data) for output in cells[4].outputs] == [{"image/jpeg"}]


@pytest.fixture
def make(tmp_path):
    """Run make in a folder with a space in its name, where Python only prints its arguments."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    root = tmp_path / "a checkout"
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    python.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    python.chmod(0o755)
    (root / ".venv" / ".ready").write_text(f"{root.resolve()}\n")

    def run(*arguments: str, **environment: str) -> list[str]:
        done = subprocess.run(
            ["make", "--silent", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **environment},
        )
        assert not list(root.rglob("touched"))
        return done.stdout.split("\0")[:-1]

    return run


NAMES = [
    "my clip.mp4",
    """it's "mine".mp4""",
    "-dash.mp4",
    "x$(shell touch touched).mp4",
    "`touch touched`$(touch touched)$HOME$$.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_make_passes_the_name_of_a_clip_as_it_is(make, name):
    expected = ["-m", "workbench", "demo", "--", name]
    assert make("demo", f"CLIP={name}") == expected
    assert make("demo", CLIP=name) == expected


def test_make_runs_each_command_once(make):
    assert make("demo") == ["-m", "workbench", "demo"]
    assert make("samples") == ["-m", "workbench", "make-samples"]
    assert make("figures") == [".ci/notebooks.py", "figures"]
