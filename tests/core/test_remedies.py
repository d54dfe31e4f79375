"""Remedies are commands as they can be typed."""

import shlex

from ditq.core.remedies import again, as_installed, command


def test_words_are_quoted_for_a_shell():
    told = command("quantize", "--recipe", "w4a8-qronos", "--out", "my folder")
    assert told == "python -m src.quantize --recipe w4a8-qronos --out 'my folder'"
    assert shlex.split(told)[-1] == "my folder"


def test_the_installed_command_names_itself():
    with as_installed():
        assert command("generate_calibration_data", "--model", "mini").startswith(
            "ditq generate-calibration-data "
        )
    assert again("adaround_optimize").startswith("finish it: python -m src.adaround_optimize --resume")
