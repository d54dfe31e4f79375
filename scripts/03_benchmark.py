"""Step 3 of the GPTQ baseline: size, speed, memory, and how far the pictures moved."""

from ditq.cli.benchmark import main

if __name__ == "__main__":
    main()
