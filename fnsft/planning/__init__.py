"""What a configuration will cost, before any of it runs: formulas over Snakemake's own plan."""
