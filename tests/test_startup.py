"""What starts fast: help and misspelt commands wait for no torch and no numpy."""

import os
import subprocess
import sys
import textwrap

import pytest

HEAVY = {"torch", "numpy", "PIL", "matplotlib", "accelerate", "jaxtyping", "rich", "wandb"}
"""Not pydantic: typer imports it for the parameters of a verb."""


def loaded(words: list[str]) -> tuple[int, set[str]]:
    """The exit code of a command line in a fresh process, and which top-level modules it imported."""
    program = f"""
        import sys
        from segdistill.cli import main
        try:
            main({words!r})
        except SystemExit as leaving:
            print("\\n", leaving.code or 0, *{{name.partition(".")[0] for name in sys.modules}})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env={**os.environ}, capture_output=True, text=True, check=True
    )
    code, *modules = done.stdout.splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["data", "make", "--help"], ["plam"], ["train"]])
def test_help_and_misspelt_commands_import_nothing_heavy(words: list[str]) -> None:
    code, modules = loaded(words)
    assert code == (0 if "--help" in words else 2)
    assert "segdistill" in modules and "typer" in modules
    assert modules & HEAVY == set()
    assert "pydantic" not in modules or words != ["--help"]


def test_the_package_alone_imports_next_to_nothing() -> None:
    program = "import sys; before = set(sys.modules); import segdistill; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names) == {"segdistill"}
