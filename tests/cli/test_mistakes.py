"""Every command with wrong words after each of its flags: status 2, one line, and nothing printed or written.

The table is made from the commands' own parsers, so that a new flag is tried as well.
"""

import importlib
from pathlib import Path

import pytest

from ditq.cli import parsing
from ditq.cli.main import STEPS

SCRIPTS = ("collect_calibration_data", "quantize_model")
COMMANDS = sorted({module for module, _ in STEPS.values()} | set(SCRIPTS))
NOT_UTF8, NUL, LONG = "caf\udce9", "a\0b", "n" * 300
NUMBERS = ("x", "", "nan", "inf", "-inf", "1e999", "-1", "9" * 5000, NOT_UTF8, "a\nb")
PATHS = ("", NUL, LONG, NOT_UTF8, f"out/{LONG}/x", "~nobody-of-this-name/x", "a_file/below")
WRONG = {
    "whole": (*NUMBERS, "1.5"),
    "number": NUMBERS,
    "text": (NUL, NOT_UTF8),
    "size": ("wide", "0", "-1", "128x", "9" * 20, ""),
    "shard": ("1", "2/2", "-1/2", "x/y", "", "9/" + "9" * 30),
    "name_or_file": PATHS[:-1],
    "path": PATHS[:-1],
    "file": (*PATHS, "a_folder", "new/"),
    **dict.fromkeys(("picture", "figure", "page"), (*PATHS, "a_folder", "new.xyz", "new")),
    "folder": (*PATHS, "a_file"),
}
"""By the type of a flag, which is a function of `ditq.cli.values`."""


class Parser(BaseException):
    """Carries a command's parser out of its `main`."""


def parser_of(module: str, monkeypatch) -> parsing._Parser:
    def caught(self, args=None, namespace=None):
        raise Parser(self)

    with monkeypatch.context() as patched:
        patched.setattr(parsing._Parser, "parse_args", caught)
        with pytest.raises(Parser) as found:
            main_of(module)([])
    return found.value.args[0]


def main_of(module: str):
    return importlib.import_module(f"ditq.cli.{module}").main


def wrong_words(action) -> tuple[str, ...]:
    if action.choices is not None:
        return ("nosuch", "", NOT_UTF8)
    if action.nargs == 0:
        return ()
    assert action.type is not None, f"{action.option_strings}: takes any word"
    assert action.type.__module__ == "ditq.cli.values", action.option_strings
    return WRONG[action.type.__qualname__.split(".")[0]]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with a file and a folder in it."""
    (tmp_path / "a_file").write_text("")
    (tmp_path / "a_folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys, main, argv: list[str], place: Path) -> str:
    """The one line of a command that must end with status 2 and leave everything as it was."""
    capsys.readouterr()
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(argv)
    out, err = capsys.readouterr()
    shown = [word[:40] for word in argv]
    assert ended.value.code == 2 and out == "", (shown, out, err)
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, (shown, err)
    assert len(err) < 400 and err.isprintable() is False and err[:-1].isprintable(), (shown, err)
    assert sorted(place.rglob("*")) == before, shown
    return err


@pytest.mark.parametrize("module", COMMANDS)
def test_wrong_words_after_every_flag(capsys, monkeypatch, place, module):
    parser, tried = parser_of(module, monkeypatch), 0
    for action in parser._actions:
        flag = action.option_strings[0] if action.option_strings else None
        for word in wrong_words(action):
            many = action.nargs if isinstance(action.nargs, int) else 1
            words = [f"{flag}={word}"] if flag and many == 1 else [flag, *[word] * many] if flag else [word]
            err = refusal(capsys, parser.parse_args, words, place)
            assert flag is None or flag in err, err
            tried += 1
    assert tried > 20


@pytest.mark.parametrize("module", COMMANDS)
def test_unknown_flags_and_both_of_two_that_exclude_each_other(capsys, monkeypatch, place, module):
    flags = {name for action in parser_of(module, monkeypatch)._actions for name in action.option_strings}
    unknown = [*REQUIRED.get(module, []), "--nosuch-flag"]
    assert "--nosuch-flag" in refusal(capsys, main_of(module), unknown, place)
    if {"--force", "--resume"} <= flags:
        assert "not allowed" in refusal(capsys, main_of(module), ["--force", "--resume"], place)


REQUIRED = {
    "generate": ["a fox"],
    "load_adaround_model": ["--adaround-output", "nowhere", "--prompt", "a fox", "--out", "out"],
    "export_checkpoint": ["--adaround-output", "nowhere", "--out", "out"],
    "run_pipeline": ["--out", "out"],
    "cache_adaround_data": ["--calib-dir", "nowhere"],
    "quantize": ["--recipe", "w4a8-rtn"],
    "profile_postgelu": ["--calibration-file", "nowhere.npz"],
    "visualize_postgelu": ["--stats-file", "nowhere.npz"],
}
"""Flags that a command needs before it looks at others."""
INPUTS = {
    "--prompts-file",
    "--checkpoint",
    "--adaround-output",
    "--quant-config",
    "--calib-dir",
    "--cache-dir",
}
INPUTS |= {"--stats", "--stats-file", "--calibration-file", "--recipe", "--model-path"}
"""Flags that name what is read."""
BESIDE = {("generate_calibration_data", "--calib-dir"), ("collect_calibration_data", "--calib-dir")}
"""Of these, what a command writes."""


@pytest.mark.parametrize("module", COMMANDS)
def test_what_is_not_there_is_refused_before_anything_is_loaded(capsys, monkeypatch, place, module):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parser = parser_of(module, monkeypatch)
    for action in parser._actions:
        own = INPUTS.intersection(action.option_strings)
        if not own or (module, *own) in BESIDE or "--resume" in own:
            continue
        flag = own.pop()
        model = ["--model", "mini"] if "--model" in parser._option_string_actions else []
        for dry in ([], ["--dry-run"]) if "--dry-run" in parser._option_string_actions else ([],):
            err = refusal(
                capsys, main_of(module), [*REQUIRED.get(module, []), *model, flag, "nosuch", *dry], place
            )
            assert "nosuch" in err or "nowhere" in err or "ion_data" in err or "quantized_model" in err
