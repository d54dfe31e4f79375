"""The rules of the house, read from source by `ast`: what each module may import, call and contain."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = [
    {"core"},
    {"nn", "capture"},
    {"models"},
    {"sampling"},
    {"calibration", "diagnostics"},
    {"activations", "weights", "checkpoint"},
    {"quantization", "evaluation", "plots"},
    {"cli", "notebook"},
]
"""From the ground up: a module imports its own layer and those below. docs/architecture.md draws the same."""

ONLY_IN = {
    "diffusionkit": "models.diffusionkit",
    "argparse": "cli",
    "matplotlib": "plots",
    "scipy": "weights",
}
"""Foreign packages, and the one place of `ditq` that imports each."""
NEVER = {"torch", "torchvision", "diffusers", "coremltools", "argmaxtools", "wandb"}
"""What no user should have to install."""
OPENERS = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "savefig",
    "tofile",
    "fromfile",
    "memmap",
}
ARRAY_FILES = {"load", "loadtxt", "genfromtxt", "save", "savez", "savez_compressed", "savetxt"}
ARRAY_FILES |= {
    "save_safetensors",
    "save_gguf",
    "save_file",
    "load_file",
    "export_function",
    "import_function",
}
ARRAY_MODULES = {"numpy", "mlx.core", "safetensors.numpy", "safetensors", "PIL.Image", "PIL"}
LONGEST = 300
ARCHITECTURE = {
    "models": (
        *("MMDiT", "multimodal_transformer", "_transformer_block", "context_embedder", "adaLN_mod"),
        *("q_proj", "k_proj", "v_proj", "o_proj", ".fc1", ".fc2"),
    ),
    "sampling.schedules": (
        "1000 * sigma",
        "1000 * images.sigmas",
        "1000 * settings.sigmas",
        "1000.0 * sigma",
    ),
}
"""Words that say how a model is built or told the time, and the one place of `ditq` whose code may hold each."""


def modules() -> dict[str, str]:
    """The source of every module of `ditq` by its dotted name without `ditq`: {"core.errors": ..., "": ...}."""
    package = ROOT / "src" / "ditq"
    return {
        _dotted(path.relative_to(package)): path.read_text(encoding="utf-8") for path in package.rglob("*.py")
    }


def steps() -> dict[str, str]:
    """The source of every file of `src/` outside `ditq`, by its path from `src`."""
    files = (ROOT / "src").rglob("*.py")
    inside = ROOT / "src" / "ditq"
    return {
        str(p.relative_to(ROOT / "src")): p.read_text(encoding="utf-8")
        for p in files
        if not p.is_relative_to(inside)
    }


def import_faults(module: str, source: str) -> list[str]:
    """What `module` imports and may not, each as a line of text."""
    faults = []
    for line, name in imports(module, source):
        top = name.split(".")[0]
        if top == "ditq":
            faults += [
                f"{line}: {fault}" for fault in _layer_faults(module, name.removeprefix("ditq").lstrip("."))
            ]
        elif top in NEVER:
            faults.append(f"{line}: imports {name}, which ditq does not need at run time")
        elif top in ONLY_IN and not _within(module, ONLY_IN[top]):
            faults.append(f"{line}: imports {name}, which belongs to {ONLY_IN[top]}")
    return faults


def call_faults(module: str, source: str) -> list[str]:
    """Prints outside `cli`, files opened outside `core.files`, and `sys.path` (a local DiffusionKit needs it).

    Inside `with files.replacing(path) as temporary` anything may write: the file is whole or absent all the same.
    """
    tree = ast.parse(source)
    names = dict(_bound_names(tree))
    replacing = set(_inside_replacing(tree, names))
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "path" and _plain(node.value, names) == "sys":
            if _within(module, "models.diffusionkit"):
                continue
            faults.append(f"{node.lineno}: touches sys.path, which belongs to src/__init__.py")
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "print" and not _within(module, "cli"):
            faults.append(f"{node.lineno}: prints, which belongs to cli")
        if not _within(module, "core.files") and node not in replacing and _opens_a_file(node.func, names):
            faults.append(
                f"{node.lineno}: opens a file by {ast.unparse(node.func)}, which belongs to core.files"
            )
    return faults


def architecture_faults(module: str, source: str) -> list[str]:
    """Where code (not its docstrings and comments) names what only a family or the noise schedules know."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) in prose:
            node.value = ""
    code = ast.unparse(tree)
    return [
        f"names {word!r}, which belongs to {place}"
        for place, words in ARCHITECTURE.items()
        if not _within(module, place)
        for word in words
        if word in code
    ]


def step_faults(path: str, source: str) -> list[str]:
    """How a file of `src/` differs from a step's three lines, or from another name for something of `ditq`.

    A package's `__init__` holds nothing but a docstring; `src/__init__.py` is the one file with code of its own.
    """
    body = ast.parse(source).body
    if path == "__init__.py":
        return []
    if path.endswith("__init__.py"):
        return [] if all(map(_is_docstring, body)) else [f"{path}: holds code"]
    if all(_is_docstring(node) or _is_other_name(node) for node in body):
        return []
    if body and _says_what_it_is(body[-1], path):
        body = body[:-1]
    if all(isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ditq.") for node in body):
        return []  # a documented module name that hands out what lives in ditq
    lines = [line for line in source.splitlines() if line.strip()]
    match lines:
        case [first, 'if __name__ == "__main__":', "    main()"] if first.startswith("from ditq.cli."):
            return [] if first.endswith(" import main") else [f"{path}: imports something besides main"]
    return [f"{path}: is not the three lines of a step"]


def _says_what_it_is(node: ast.stmt, path: str) -> bool:
    """Whether this is the end of a module without a command: run, it says which command to use."""
    told = f'if __name__ == "__main__":\n    from ditq.cli.library import tell\n    tell("{Path(path).stem}")'
    return ast.unparse(node) == ast.unparse(ast.parse(told).body[0])


def imports(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that is imported, functions' inner imports too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["ditq", *module.split(".")]
                base = ".".join([*parents[: len(parents) - node.level], *([base] if base else [])])
            # `from ditq import models` names a module only by what is imported
            yield from (
                (node.lineno, f"{base}.{alias.name}" if base == "ditq" else base) for alias in node.names
            )


def _layer_faults(module: str, imported: str) -> list[str]:
    if imported in ("", "__version__") or (module == "" and imported.split(".")[0] == "notebook"):
        return []  # what a notebook is offered is imported when it is first used
    mine, theirs = _layer(module), _layer(imported)
    if theirs is None:
        return [f"imports {imported}, which has no layer in tests/house/checker.py"]
    if mine is None:
        return [f"{module} has no layer in tests/house/checker.py"]
    return [f"imports {imported}, which lies above it"] if theirs > mine else []


def _layer(module: str) -> int | None:
    """The height of a module; `ditq` itself may know `core` alone."""
    top = module.split(".")[0]
    return 0 if top == "" else next((height for height, names in enumerate(LAYERS) if top in names), None)


def _inside_replacing(tree: ast.AST, names: dict[str, str]) -> Iterator[ast.AST]:
    for block in ast.walk(tree):
        calls = [item.context_expr for item in block.items] if isinstance(block, ast.With) else []
        if any(
            isinstance(call, ast.Call) and _plain(call.func, names) == "ditq.core.files.replacing"
            for call in calls
        ):
            yield from ast.walk(block)


def _opens_a_file(function: ast.expr, names: dict[str, str]) -> bool:
    if isinstance(function, ast.Name):
        whole = names.get(function.id, function.id)
        return whole in ("open", "io.open", "os.fdopen") or _reads_arrays(*whole.rpartition(".")[::2])
    if not isinstance(function, ast.Attribute):
        return False
    owner = _plain(function.value, names)
    if owner == "ditq.core.files":
        return False
    return function.attr in OPENERS or _reads_arrays(owner, function.attr)


def _reads_arrays(owner: str, name: str) -> bool:
    return owner in ARRAY_MODULES and name in ARRAY_FILES


def _plain(value: ast.expr, names: dict[str, str]) -> str:
    """`mx` -> `mlx.core`: the imported thing that an expression names, or its own text."""
    text = ast.unparse(value)
    first, dot, rest = text.partition(".")
    return names.get(first, first) + dot + rest


def _bound_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (a.asname or a.name.split(".")[0], a.name if a.asname else a.name.split(".")[0])
                for a in node.names
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_other_name(node: ast.stmt) -> bool:
    """`from ditq.x import y`, or the `__all__` that goes with it."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] == "ditq"
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
