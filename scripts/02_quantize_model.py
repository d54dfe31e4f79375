"""Step 2 of the GPTQ baseline: the quantized checkpoint."""

from ditq.cli.quantize_model import main

if __name__ == "__main__":
    main()
