"""The page docs/results/layer_solvers.md, from the cases in benchmarks/results/layer_solvers.json."""

import json
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
float model's by what the layers before did and by an 8-bit grid. The error is |X W' - Xq Q'| / |X W'| on 2048 rows that
no solver saw. Times are medians, of one thread, and hold the whole work: second moments, ranges, damping, codes, and in
ditq the proof on held-out rows that rounding is not better. With more threads, those that wait for each other spin.

mlx-lm takes its scales from weights that are already corrected; Brevitas, llm-compressor and `min-max` use the original
weight's range, ditq by itself searches the range and chooses its damping on held-out rows. mlx-lm and
llm-compressor have GPTQ alone, which sees one stream and does less: no X~'X of two streams, no corrected target.
"""
GOALS = """
Goals: an error of at most the best library's on the same grid, never above rounding's, in at most half of the time of
the fastest library. GPTQ and Qronos are different problems, so both are held against the libraries that solve the same
one, and against all; the last column says of both whether the time was met. `min-max, damping 0.01` is what the
libraries do, as a check; the other two are ditq as it comes.
"""
MINE = ("ditq GPTQ, min-max, damping 0.01", "ditq GPTQ", "ditq Qronos")


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
        *verdicts(known),
    ]
    for key, case in in_order(known):
        shape, rows, grid = key.split()
        lines += [
            "",
            f"## {shape.replace('x', ' inputs, ')} outputs, {rows} rows: {GRIDS[grid]}",
            "",
            f"Median of {case['rounds']}." if case["rounds"] > 1 else "Timed once.",
            "",
            "| solver | error | of rounding | seconds | CPU seconds |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        rounding = case["results"][0]["error"]
        lines += [
            f"| {r['method']} | {r['error']:.4f} | {r['error'] / rounding:.2f} | {r['seconds']:.2f} | {r['cpu']:.2f} |"
            for r in case["results"]
        ]
    return "\n".join(lines) + "\n"


def verdicts(known: dict) -> list[str]:
    """The goals, case by case."""
    lines = [
        GOALS.strip(),
        "",
        "| inputs x outputs, rows, grid | solver | error | rounding | best of the same | best of all | error met |"
        " CPU s | fastest of the same | ratio | fastest of all | ratio | time met |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for key, case in in_order(known):
        rounding, *rest = case["results"]
        others = [r for r in rest if not r["method"].startswith(OURS)]
        lines += [
            f"| {key.replace(' ', ', ')} {verdict(r, rounding['error'], others)}"
            for r in rest
            if r["method"] in MINE
        ]
    return lines


def verdict(mine: dict, rounding: float, others: list[dict]) -> str:
    """A line of the table of goals, but for its case."""
    problem = "Qronos" if "Qronos" in mine["method"] else "GPTQ"
    same = [other for other in others if problem in other["method"]]
    best = min(other["error"] for other in others)
    met = "yes" if mine["error"] <= min(best, rounding) else "no"
    fields = [mine["method"], f"{mine['error']:.4f}", f"{rounding:.4f}"]
    fields += [f"{min(other['error'] for other in same):.4f}" if same else "none", f"{best:.4f}", met]
    fields += [f"{mine['cpu']:.2f}"]
    for group in (same, others):
        fastest = min((other["cpu"] for other in group), default=None)
        fields += ["none", ""] if fastest is None else [f"{fastest:.2f}", f"{mine['cpu'] / fastest:.2f}"]
    fields += [", ".join(time_met(mine["cpu"], group) for group in (same, others))]
    return f"| {' | '.join(fields)} |"


def time_met(seconds: float, others: list[dict]) -> str:
    """Whether it took at most half of the time of the fastest of these."""
    if not others:
        return "-"
    return "yes" if all(seconds <= other["cpu"] / 2 for other in others) else "no"


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
