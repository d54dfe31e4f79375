"""`python -m src.activation_diagnostics.visualize_postgelu`: Phase 2, figures, a table and a verdict of a profile."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from ditq.cli import values
from ditq.cli.flags import add_numbers, add_out, refuse_overwriting
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser, without_effect
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.core.files import lock, write_figure, write_json, write_text
from ditq.diagnostics import (
    LEGEND,
    Thresholds,
    chosen,
    read_statistics,
    representative,
    summary_rows,
    verdict,
)
from ditq.plots.figure_names import FIGURES, PER_LAYER


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and draws."""
    flags = parser(
        "Draw what profile_postgelu recorded, print a table of it, and judge each layer: asymmetry, drift, outliers.",
        "python -m src.activation_diagnostics.visualize_postgelu --stats-file activation_stats_postgelu.npz"
        " --output-dir activation_plots/ --layers mm_00_img mm_02_txt",
    )
    stats, folder = "activation_stats_postgelu.npz", "activation_plots"
    flags.add_argument(
        "--stats-file", type=values.file, default=Path(stats), metavar="FILE", help=f"default: {stats}"
    )
    add_out(flags, folder)
    flags.add_argument(
        "--layers",
        type=values.text,
        nargs="+",
        metavar="LAYER",
        help="paths, labels such as mm_05_img, or all (default: first, middle and last of each stream)",
    )
    flags.add_argument(
        "--figures",
        nargs="+",
        choices=FIGURES,
        default=FIGURES,
        metavar="NAME",
        help=f"of {', '.join(FIGURES)}",
    )
    flags.add_argument(
        "--html", action="store_true", help="write one page with all figures as well, index.html"
    )
    group = flags.add_argument_group("verdict")
    meanings = {
        "asymmetry": "unused part of a symmetric grid",
        "drift": "loudest over quietest timestep",
        "outliers": "widest over median channel",
    }
    for threshold in fields(Thresholds):
        mild, strong = getattr(Thresholds(), threshold.name)
        group.add_argument(
            f"--{threshold.name}-at",
            nargs=2,
            type=values.number(f"--{threshold.name}-at"),
            default=(mild, strong),
            metavar=("MILD", "STRONG"),
            help=f"{meanings[threshold.name]} (default: {mild:g} {strong:g})",
        )
    add_numbers(group, {"--bits": (8, "of the activation grids")})
    run_group = flags.add_argument_group("run")
    run_group.add_argument("--force", action="store_true", help="replace what an earlier run wrote")
    run_group.add_argument("--dry-run", action="store_true", help="say what would be drawn, and stop")
    run_group.add_argument(
        "--json", action="store_true", help="print the verdict as JSON in place of the table"
    )
    args = flags.parse_args(argv)
    run(lambda: show(args), args)


def show(args: argparse.Namespace) -> None:
    """Writes the verdict, the figures and the page, and prints the table."""
    statistics = read_statistics(args.stats_file)
    paths = list(statistics.layers)
    if not paths:
        raise UserError(str(args.stats_file), got="no layers", remedy="profile the model again")
    names, kinds = statistics.names, [name for name in args.figures if name in PER_LAYER]
    drawn = chosen(names, args.layers) if args.layers else representative(names)
    if not kinds and not args.html:
        without_effect(args, f"with --figures {' '.join(args.figures)} alone", "layers")
    refuse_overwriting(args.out / "verdict.json", args)
    if args.dry_run:
        facts = {"figures": list(args.figures), "layers": drawn, "output": str(args.out)}
        text = f"would draw {', '.join(args.figures)}: {len(kinds)} figures for each of {len(drawn)} layers"
        tell(args, facts, text)
        return
    thresholds = Thresholds(tuple(args.asymmetry_at), tuple(args.drift_at), tuple(args.outliers_at))
    found = verdict(statistics, thresholds, args.bits)
    rows = summary_rows(found)
    on_page = (drawn if args.layers else paths) if args.html else []
    with lock(args.out):
        write_json(args.out / "verdict.json", found)
        write_text(args.out / "summary.md", _markdown(found, rows))
        written = _draw(args, statistics, found, drawn, on_page)
    if args.html:
        from ditq.plots.page import page

        title = f"What the layers of {found['model']} receive"
        of_each = {names[path].label: figures for path, figures in written[1].items()}
        text = page(title, found["conclusions"], rows, LEGEND, written[0], of_each)
        write_text(args.out / "index.html", text)
    if args.json:
        say(json.dumps(found))
        return
    say("\n".join([_table(rows), LEGEND, *found["conclusions"]]))
    page_too = ", index.html" if args.html else ""
    left_out = (
        ""
        if args.layers or len(drawn) == len(rows)
        else f"; {len(drawn)} of {len(rows)} layers drawn: --layers"
    )
    say(f"{written[2]} figures, verdict.json, summary.md{page_too}: {args.out}{left_out}")


def _draw(
    args: argparse.Namespace, statistics: Any, found: dict[str, Any], drawn: list[str], on_page: list[str]
) -> tuple[dict[str, bytes], dict[str, dict[str, bytes]], int]:
    """Writes the figures; returns those of the page, of all layers and of each, and how many files there are."""
    from ditq.plots.activations import of_layer, overviews  # matplotlib takes a second
    from ditq.plots.page import png

    of_all: dict[str, bytes] = {}
    of_each: dict[str, dict[str, bytes]] = {path: {} for path in on_page}
    layers, count = [path for path in statistics.layers if path in {*drawn, *on_page}], 0
    with Progress(len(layers) + 1, "layer", "figures") as bar:
        for name, figure in overviews(statistics, found, args.figures):
            write_figure(args.out / f"{name}.png", figure)
            count += 1
            if args.html:
                of_all[name] = png(figure)
        bar.advance()
        for path in layers:
            for name, figure in of_layer(statistics, found, path, args.figures):
                if path in drawn:
                    write_figure(args.out / f"{name}.png", figure)
                    count += 1
                if path in of_each:
                    of_each[path][name] = png(figure)
            bar.advance()
    return of_all, of_each, count


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *line[1:]]) for row, line in zip(rows, lines, strict=True)
    )


def _markdown(found: dict[str, Any], rows: list[list[str]]) -> str:
    heading, *body = [f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows]
    return "\n".join(
        [
            f"# What the layers of {found['model']} receive: {found['points']:,} points, "
            f"{len(found['timesteps'])} timesteps",
            "",
            *(f"- {line}" for line in found["conclusions"]),
            "",
            heading,
            "|---" * len(rows[0]) + "|",
            *body,
            "",
            LEGEND,
            "",
        ]
    )
