"""What `benchmarks/skill.py` is made of: cases, peers, runs, figures, pages, pictures. No part of the package."""
