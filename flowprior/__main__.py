"""`python -m flowprior`, and `torchrun -m flowprior`: the command line."""

from flowprior.cli import main

if __name__ == "__main__":
    main()
