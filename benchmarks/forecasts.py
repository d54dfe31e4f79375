"""What dry runs foretell for `mini`, and what the same commands then take: seconds, peak memory, bytes on disk.

    python benchmarks/forecasts.py --work /tmp/forecasts --out benchmarks/results/forecasts.md

Each command is first asked with `--dry-run --json` and then run, each in a process of its own. Peak memory is the whole
process's (the system's account of it), disk what its folder has grown by, and on Linux the nameless files that the
process holds open; where a run removes files at its end, the most that there was, looked at ten times a second. Other
work on the machine changes both the forecast, which
measures the machine as it is, and the run: CPU seconds show how much.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVERY = 0.1
"""Seconds between looks at a folder."""


@dataclass(frozen=True)
class Taken:
    """What a command took."""

    seconds: float
    cpu: float
    memory: float
    disk: float


def main() -> None:
    """Runs the commands and writes the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--work", type=Path, required=True, help="an empty folder for what the commands write")
    flags.add_argument("--out", type=Path, help="write the table to this file as well")
    flags.add_argument("--only", nargs="+", help="these commands alone, of an earlier run's folder")
    args = flags.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Dry runs, and what the runs then take\n",
        f"`python benchmarks/forecasts.py`: {platform.system()} {platform.machine()}, {os.cpu_count()} cores. "
        f"{f'{threads} BLAS thread. ' if (threads := os.environ.get('OPENBLAS_NUM_THREADS')) else ''}"
        f"Load of the machine at the beginning {os.getloadavg()[0]:.1f}.\n",
        "| command | seconds told | taken | of it CPU | memory told, MB | taken | disk told, MB | taken |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, command, folder in commands(args.work):
        if args.only and name not in args.only:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        told = json.loads(_run([*command, "--dry-run", "--json"]))
        taken = measured(command, folder)
        lines.append(row(name, told, taken))
        print(lines[-1], flush=True)
    lines.append(f"\nLoad at the end {os.getloadavg()[0]:.1f}.")
    text = "\n".join(lines) + "\n"
    if args.out:
        args.out.write_text(text)


def commands(work: Path) -> list[tuple[str, list[str], Path]]:
    """Name, command and folder of each step, in an order in which each finds what it needs."""
    calibration, cache, adaround = work / "calibration", work / "cache", work / "adaround"
    statistics = calibration / "activations"
    config = work / "decision" / "quant_config.json"
    listed = {
        "generate": (["a fox in the snow", "a red car"], work / "pictures"),
        "generate_calibration_data": (
            f"--model mini --num-images 8 --num-steps 24 --batch-size 4 --calib-dir {calibration}",
            calibration,
        ),
        "collect_layer_activations": (f"--calib-dir {calibration} --num-images 4 --stride 4", statistics),
        "analyze_activations": (
            f"--stats {statistics / 'layer_statistics.json'} --out {config}",
            config.parent,
        ),
        "cache_adaround_data": (
            f"--calib-dir {calibration} --num-images 8 --stride 6 --batch-size 4",
            cache,
        ),
        "adaround_optimize": (f"--cache-dir {cache} --quant-config {config} --iters 20", adaround),
        "quantize": (f"--calib {calibration} --recipe w4a8-gptq", work / "gptq"),
        "quantize_qronos": (f"--calib {calibration}", work / "qronos"),
        "export_checkpoint": (
            f"--adaround-output {adaround} --quant-config {config}",
            work / "checkpoint",
        ),
        "compare_methods": (
            f"--calib {calibration} --bits 4 --methods gptq qronos --num-prompts 4 --steps 8 --num-held-out 2",
            work / "methods",
        ),
        "run_pipeline": ("--quick", work / "pipeline"),
    }
    found = []
    for name, (words, folder) in listed.items():
        given = words.split() if isinstance(words, str) else words
        out = [] if name in ("generate_calibration_data", "analyze_activations") else ["--out", str(folder)]
        found.append((name, [sys.executable, "-m", f"src.{name}", *given, *out], folder))
    return found


def measured(command: list[str], folder: Path) -> Taken:
    """What a command takes."""
    before = most = _bytes(folder)
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        number, status, usage = os.wait4(process.pid, os.WNOHANG)
        most = max(most, _bytes(folder) + _nameless(process.pid))
        if number:
            break
        time.sleep(EVERY)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    scale = 1 if sys.platform == "darwin" else 1024
    cpu = usage.ru_utime + usage.ru_stime
    return Taken(time.perf_counter() - started, cpu, scale * usage.ru_maxrss, most - before)


def row(name: str, told: dict[str, float], taken: Taken) -> str:
    """A command's line of the table."""
    cells = [name, f"{told['seconds']:.1f}", f"{taken.seconds:.1f}", f"{taken.cpu:.1f}"]
    cells += [f"{told['memory_bytes'] / 1e6:.0f}", f"{taken.memory / 1e6:.0f}"]
    cells += [f"{told['disk_bytes'] / 1e6:.2f}", f"{taken.disk / 1e6:.2f}"]
    return f"| {' | '.join(cells)} |"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def _nameless(process: int) -> int:
    """Bytes of the files that a process holds open and no folder names, beside those of memory; 0 where that cannot be
    read."""
    total = 0
    for link in Path(f"/proc/{process}/fd").glob("*"):
        try:
            target, held = os.readlink(link), link.stat()
        except OSError:  # closed between the listing and the look
            continue
        total += held.st_size if target.endswith("(deleted)") and not held.st_nlink else 0
    return total


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed between the listing and the look
            continue
    return total


if __name__ == "__main__":
    main()
