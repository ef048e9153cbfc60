"""Complete and refine by diffusion (DiffRecon, arXiv 2410.05323): guesses, networks, samplers. Knows no files."""
