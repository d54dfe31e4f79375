"""The column-by-column solver of GPTQ and Qronos: one layer, its inputs' second moments, and the codes."""
