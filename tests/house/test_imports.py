"""Imports go down, and each thing happens in its one place. The negative controls show that the checker sees faults."""

import pytest

from tests.house import checker

MODULES = checker.modules()
STEPS = checker.steps()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_keeps_to_its_place(module):
    faults = checker.import_faults(module, MODULES[module]) + checker.call_faults(module, MODULES[module])
    assert not faults, f"ditq.{module}: " + "; ".join(faults)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_families_know_an_architecture(module):
    faults = checker.architecture_faults(module, MODULES[module])
    assert not faults, f"ditq.{module}: " + "; ".join(faults)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("calibration.images", "def f(model: MMDiT): ..."),
        ("weights.layerwise", "path.endswith('.q_proj')"),
        ("activations.smooth", "FOLDABLE = ('.fc1',)"),
        ("calibration.images", "timestep = 1000 * sigma"),
    ],
)
def test_knowledge_of_an_architecture_is_seen(module, source):
    assert checker.architecture_faults(module, source)
    assert not checker.architecture_faults(module, f"'''{source.replace(chr(39), '')}'''")


@pytest.mark.parametrize("path", sorted(STEPS))
def test_step_is_three_lines(path):
    assert not checker.step_faults(path, STEPS[path])


def test_packages_of_a_layer_do_not_import_each_other_in_a_circle():
    edges = {
        (m.split(".")[0], n.split(".")[1])
        for m, s in MODULES.items()
        for _, n in checker.imports(m, s)
        if "ditq." in n
    }
    edges = {(one, other) for one, other in edges if one and one != other}
    left = {one for edge in edges for one in edge}
    while free := {one for one in left if not any(a == one and b in left for a, b in edges)}:
        left -= free
    assert not left, f"a circle of imports among {sorted(left)}"


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("core.files", "import ditq.models.mmdit", "lies above"),
        ("core.files", "def f():\n    from ditq.cli.run import run", "2: imports cli.run"),
        ("models.mmdit", "from ditq import calibration", "lies above"),
        ("models.mmdit", "from ..quantization import quantize", "lies above"),
        ("models.mini.model", "from ...cli import flags", "lies above"),
        ("weights.gptq", "import ditq.unheard_of", "no layer"),
        ("unheard_of", "from ditq.core import errors", "no layer"),
        ("", "from ditq.models import load", "lies above"),
        ("models.mini", "import diffusionkit.mlx", "belongs to models.diffusionkit"),
        ("calibration.collect", "import argparse", "belongs to cli"),
        ("cli.generate", "import matplotlib.pyplot as plt", "belongs to plots"),
        ("models.loading", "def f():\n    import torch", "does not need"),
        ("calibration.collect", "from scipy import linalg", "belongs to weights"),
    ],
)
def test_forbidden_import_is_seen(module, source, fault):
    assert any(fault in found for found in checker.import_faults(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("quantization", "print('done')"),
        ("models.mini", "open('weights')"),
        ("models.mini", "from pathlib import Path\nPath('a').read_text()"),
        ("models.mini", "path.open('rb')"),
        ("models.mini", "import mlx.core as mx\nmx.load('a')"),
        ("models.mini", "import mlx.core\nmlx.core.save_safetensors('a', {})"),
        ("models.mini", "from numpy import savez\nsavez('a')"),
        ("evaluation.report", "from PIL import Image\nImage.open('a')"),
        ("plots.ranges", "figure.savefig('a.png')"),
        ("plots.ranges", "with replacing('a') as t:\n    figure.savefig(t)"),
        ("cli.generate", "import numpy as np\nnp.load('a')"),
        ("core.platform", "import sys\nsys.path.insert(0, 'src')"),
        ("core.platform", "from sys import path as p\nimport sys as s\ns.path.append('src')"),
    ],
)
def test_forbidden_call_is_seen(module, source):
    assert checker.call_faults(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli.generate", "import argparse\nfrom ditq.quantization import quantize\nprint('done')"),
        ("models.diffusionkit.bridge", "from diffusionkit.mlx import DiffusionPipeline"),
        ("plots.ranges", "import matplotlib"),
        (
            "calibration.collect",
            "import ditq\nfrom ditq.core import files\nfiles.write_text('a', ditq.__version__)",
        ),
        ("calibration.collect", "from ditq.models import load\nload('mini')"),
        ("core.files", "open('a')"),
        ("core.files.reading", "open('a')"),
        (
            "cli.show",
            "from ditq.core.files import replacing\nwith replacing('a') as t:\n    figure.savefig(t)",
        ),
        ("models.diffusionkit.imports", "import sys\nsys.path.insert(0, 'checkout')"),
        ("models.mmdit", "import os\nos.path.join('a')"),
    ],
)
def test_allowed_source_has_no_faults(module, source):
    assert not checker.import_faults(module, source) + checker.call_faults(module, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("generate.py", "from ditq.cli.generate import main\n\nmain()\n"),
        ("generate.py", 'from ditq.cli.generate import draw\n\nif __name__ == "__main__":\n    main()\n'),
        (
            "generate.py",
            'import os\nfrom ditq.cli.generate import main\n\nif __name__ == "__main__":\n    main()\n',
        ),
        ("profile/__init__.py", "import ditq"),
        ("profile/config.py", "from os import path"),
        ("profile/config.py", "from ditq.calibration import config\nconfig.STEPS = 3"),
    ],
)
def test_longer_step_is_seen(path, source):
    assert checker.step_faults(path, source)
