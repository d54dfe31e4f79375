"""DiffusionKit is imported alone, and a checkout wins. Each case runs in its own process."""

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "coremltools", "wandb", "sklearn", "transformers", "argmaxtools", "diffusionkit.utils")
SOURCE = Path(__file__).resolve().parents[3] / "src"


def python(code: str, cwd: Path) -> str:
    """What `code` prints, run in `cwd` with ditq importable; fails on a warning or an error."""
    program = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_heavy_is_imported_and_no_stand_in_stays(tmp_path):
    code = f"""
from ditq.models.diffusionkit import corrections, diffusionkit, encoders, pipeline, sd3, text, vae
print(diffusionkit().DiffusionPipeline.__name__, [name for name in {HEAVY} if name in sys.modules])
"""
    assert python(code, tmp_path) == "DiffusionPipeline []\n"


def test_the_package_alone_does_not_import_diffusionkit(tmp_path):
    code = "import ditq.models.diffusionkit\nprint('diffusionkit' in sys.modules)"
    assert python(code, tmp_path) == "False\n"


def test_modules_that_were_there_are_put_back_and_a_second_call_returns_the_same(tmp_path):
    code = """
from types import ModuleType
mine = sys.modules["argmaxtools"] = ModuleType("argmaxtools")
from ditq.models.diffusionkit import diffusionkit
first = diffusionkit()
assert sys.modules["argmaxtools"] is mine and "argmaxtools.utils" not in sys.modules
path = list(sys.path)
assert diffusionkit() is first and sys.path == path
print("same")
"""
    assert python(code, tmp_path) == "same\n"


def test_threads_get_one_module(tmp_path):
    code = """
from concurrent.futures import ThreadPoolExecutor
from ditq.models.diffusionkit import diffusionkit
with ThreadPoolExecutor(8) as pool:
    print(len({id(module) for module in pool.map(lambda _: diffusionkit(), range(16))}))
"""
    assert python(code, tmp_path) == "1\n"


def test_stock_functions_still_reach_the_real_transformers(tmp_path):
    code = """
import importlib.util
find = importlib.util.find_spec  # the configuration needs no torch, whose import takes seconds
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from ditq.models.diffusionkit import diffusionkit
T5Config = diffusionkit().t5.T5Config
assert "transformers" not in sys.modules
print(T5Config(d_model=8).d_model, T5Config.model_type)
"""
    assert python(code, tmp_path) == "8 t5\n"


def test_a_local_checkout_wins(tmp_path):
    package = tmp_path / "DiffusionKit" / "python" / "src" / "diffusionkit"
    (package / "mlx").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    needs = "from argmaxtools.utils import get_logger\nfrom diffusionkit.utils import bytes2gigabytes\n"
    (package / "mlx" / "__init__.py").write_text(needs + "WHERE = 'checkout'\n")
    code = """
from ditq.models.diffusionkit import diffusionkit
path = list(sys.path)
print(diffusionkit().WHERE, sys.path == path)
"""
    assert python(code, tmp_path) == "checkout True\n"


def test_absent_diffusionkit_is_one_clear_error(tmp_path):
    code = """
import importlib.util
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "diffusionkit" else find(name, *rest)
from ditq.core.errors import UserError
from ditq.models.diffusionkit import diffusionkit, imports
imports.local_checkout = lambda: None
try:
    diffusionkit()
except UserError as error:
    print(error)
"""
    told = python(code, tmp_path)
    assert (
        "pip install --no-deps diffusionkit==0.5.2" in told
        and "--model mini" in told
        and told.count("\n") == 1
    )


def test_a_broken_checkout_is_one_clear_error(tmp_path):
    package = tmp_path / "DiffusionKit" / "python" / "src" / "diffusionkit"
    (package / "mlx").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "mlx" / "__init__.py").write_text("import no_such_module")
    code = """
from ditq.core.errors import UserError
from ditq.models.diffusionkit import diffusionkit
try:
    diffusionkit()
except UserError as error:
    print(error)
"""
    told = python(code, tmp_path)
    assert "an import that failed: No module named 'no_such_module'" in told and str(package.parent) in told
