"""What the commands' tests share: recorded calibration data and a quantized checkpoint, each made once."""

import pytest

from ditq.cli import collect_calibration_data

FEW = ["--num-images", "2", "--stride", "9", "--batch-size", "2"]
"""Two pictures at two steps of the shared calibration data."""
QUICK = [*FEW, "--statistics-images", "2", "--statistics-stride", "9"]
"""The same for commands that also make activation grids."""


@pytest.fixture(scope="session")
def calibration(tmp_path_factory):
    """Six pictures of ten steps, by the baseline's first script."""
    folder = tmp_path_factory.mktemp("calibration") / "calibration_data"
    flags = f"--num_samples 6 --batch_size 6 --output_dir {folder} --steps 10"
    collect_calibration_data.main(flags.split())
    assert len(list((folder / "samples").iterdir())) == 60
    return folder


@pytest.fixture(scope="session")
def quantized(calibration, tmp_path_factory):
    """A W4A8 checkpoint by the baseline's second script."""
    from ditq.cli import quantize_model

    out = tmp_path_factory.mktemp("quantized") / "quantized_model"
    flags = f"--calibration_data {calibration} --wbits 4 --abits 8 --output_dir {out}"
    quantize_model.main([*flags.split(), *QUICK])
    return out


@pytest.fixture
def fails(capsys):
    """Runs a command that must end with status 2, without a traceback; what it prints to stderr.

    It must print nothing else unless `prints` says so.
    """

    def run(main, *argv, prints: bool = False) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        assert caught.value.code == 2 and "Traceback" not in err
        assert prints or out == ""
        return err

    return run
