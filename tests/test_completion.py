"""Completion in the shell: the scripts offer what the commands take."""

import re
import shutil
import subprocess

import pytest

from dpaat import cli
from dpaat.config import TrainConfig
from training_makers import fails

pytest.importorskip("shtab", reason="needs the extra completion")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_as_people_type_it(shell):
    script = cli.completion_script(shell)
    for name in TrainConfig.__dataclass_fields__:
        assert name.replace("_", "-") in script, name
    assert not re.findall(r"(?:--|-l )[a-z]+_", script)
    for command in cli.COMMANDS:
        assert command.split()[-1] in script


def test_bash_completes(tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    (tmp_path / "script").write_text(cli.completion_script("bash"))

    def completions(*words: str) -> list[str]:
        call = f'COMP_WORDS=(dpaat {" ".join(words[:-1])} "{words[-1]}"); COMP_CWORD={len(words)}'
        code = f'. "{tmp_path}/script"; {call}; _shtab_dpaat dpaat "{words[-1]}" x; printf "%s\\n" "${{COMPREPLY[@]}}"'
        return subprocess.run([bash, "--norc", "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert completions("pu") == ["push"]
    assert completions("train", "--image-s") == ["--image-size"]
    assert completions("train", "--stem", "") == ["auto", "original", "small"]
    assert completions("data", "ch") == ["check"]


def test_other_shells_and_a_missing_library_are_one_line(capfd, monkeypatch):
    assert "unknown shell 'cmd'" in fails(capfd, "completion", "cmd")
    monkeypatch.setattr(cli, "find_spec", lambda _: None)
    assert "pip install 'dpaat[completion]'" in fails(capfd, "completion", "bash")
