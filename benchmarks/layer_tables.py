"""The page docs/results/layer_solvers.md, from the cases in benchmarks/results/layer_solvers.json."""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "layer_solvers.md"
GRIDS = {
    "row": "4 bits, symmetric, one scale per output channel",
    "group": "4 bits, asymmetric, a scale and a zero point per 64 columns",
}
OURS = "ditq "
HEAD = """
Written by `benchmarks/layer_solvers.py`, one call per case; all solvers of a case run in one process, in turns
({libraries}; {machines}).

Inputs are correlated, one channel in a hundred is ten times as large, and the quantized model's inputs differ from the
float model's by the errors of earlier layers and by an 8-bit grid. The error is |X W' - Xq Q'| / |X W'| on 2048 rows
that no solver saw. Times are medians, with one thread, of the whole work: second moments, ranges, damping, codes, and
in ditq the comparison with round-to-nearest on held-out rows. With more threads, CPU seconds would include waiting. A
ratio is the median over the rounds of the ratio of the times within a round, since a machine's speed drifts from round
to round; solvers that take more than six times as long as the quickest run in only three rounds.

mlx-lm takes its scales from weights that are already corrected; Brevitas, llm-compressor and `min-max` use the original
weight's range; ditq by default searches the range and chooses its damping on held-out rows. mlx-lm and llm-compressor
have only GPTQ, which uses one set of inputs and computes less: no X~'X of both sets, no corrected target.
"""
GOALS = """
Goals: an error of at most the best library's on the same grid, never above rounding's, in at most half of the time of
the fastest library. GPTQ and Qronos are different problems: Qronos sums a product of both streams besides H, twice
the work of H itself. Each is compared with the libraries that solve the same problem; then ditq's Qronos with all.
"""
CONTESTS = (
    ("GPTQ against the libraries' GPTQ", "ditq GPTQ", "GPTQ"),
    ("Qronos against Brevitas's Qronos, which has no groups", "ditq Qronos", "Qronos"),
    ("Qronos against all, GPTQ included", "ditq Qronos", ""),
    (
        "GPTQ as the libraries do it, min-max ranges and damping 0.01",
        "ditq GPTQ, min-max, damping 0.01",
        "GPTQ",
    ),
)
"""The comparisons: a title, a solver of ours, and what the names of the libraries' solvers have in common."""
COLUMNS = (
    "inputs x outputs",
    "rows",
    "grid",
    "error",
    "best library",
    "rounding",
    "CPU s",
    "fastest library",
    "ratio",
)


def write(known: dict) -> None:
    """The page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(known))


def page(known: dict) -> str:
    """The text of the page."""
    versions: dict[str, str] = {}
    for case in known.values():
        versions |= case["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    machines = ", ".join(sorted({case["machine"] for case in known.values()}))
    lines = [
        "# Layer solvers against other libraries",
        "",
        HEAD.format(libraries=libraries, machines=machines).strip(),
        "",
        GOALS.strip(),
        *(line for contest in CONTESTS for line in table(known, *contest)),
    ]
    for key, case in in_order(known):
        shape, rows, grid = key.split()
        lines += [
            "",
            f"## {shape.replace('x', ' inputs, ')} outputs, {rows} rows: {GRIDS[grid]}",
            "",
            "| solver | error | of rounding | seconds | CPU seconds | rounds |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        rounding = case["results"][0]["error"]
        lines += [
            f"| {r['method']} | {r['error']:.4f} | {r['error'] / rounding:.2f} | "
            f"{statistics.median(r['seconds']):.2f} | {statistics.median(r['cpu']):.2f} | {len(r['cpu'])} |"
            for r in case["results"]
        ]
    return "\n".join(lines) + "\n"


def table(known: dict, title: str, mine: str, problem: str) -> list[str]:
    """One of our solvers against the libraries', case by case, and how often it met the goals."""
    lines, better, quicker = [], 0, 0
    for key, case in in_order(known):
        rounding, *rest = case["results"]
        ours = next(result for result in rest if result["method"] == mine)
        others = [r for r in rest if not r["method"].startswith(OURS) and problem in r["method"]]
        if not others:
            continue
        best = min(other["error"] for other in others)
        fastest = min((other["cpu"] for other in others), key=statistics.median)
        ratio = statistics.median(a / b for a, b in zip(ours["cpu"], fastest, strict=False))
        better += ours["error"] <= min(best, rounding["error"])
        quicker += ratio <= 0.5
        errors = (f"{error:.4f}" for error in (ours["error"], best, rounding["error"]))
        times = statistics.median(ours["cpu"]), statistics.median(fastest), ratio
        fields = [*key.split(), *errors, *(f"{time:.2f}" for time in times)]
        lines.append(f"| {' | '.join(fields)} |")
    return [
        "",
        f"## {title}",
        "",
        f"Error met in {better} of {len(lines)} cases, time in {quicker} of {len(lines)}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *lines,
    ]


def in_order(known: dict) -> list[tuple[str, dict]]:
    """The cases, grid by grid, small ones first."""
    return sorted(known.items(), key=lambda item: (item[0].split()[2], order(item[0])))


def order(key: str) -> tuple[int, int]:
    """Small cases first."""
    shape, rows, _ = key.split()
    columns, out = map(int, shape.split("x"))
    return columns * 10 + out, int(rows)


if __name__ == "__main__":
    write(json.loads((ROOT / "benchmarks" / "results" / "layer_solvers.json").read_text()))
