"""`python -m segdistill`, which torchrun can start: `torchrun --nproc_per_node 2 -m segdistill train …`."""

from segdistill.cli import main

main()
