"""Step 1 of the GPTQ baseline: trajectories of the float model."""

from ditq.cli.collect_calibration_data import main

if __name__ == "__main__":
    main()
