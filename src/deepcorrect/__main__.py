"""`python -m deepcorrect`, and `accelerate-launch -m deepcorrect` for several processes."""

from deepcorrect.cli import main

main()
