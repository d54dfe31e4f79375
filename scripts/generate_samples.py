"""Pictures for the prompts of a file: the same command as `python -m src.generate`, under the baseline's name."""

from ditq.cli.generate import main

if __name__ == "__main__":
    main(
        example="python scripts/generate_samples.py --prompts_file ./prompts/visual_inspection.txt "
        "--output_dir ./outputs/visual_samples --compare"
    )
