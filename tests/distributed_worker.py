"""One process of several: python distributed_worker.py NUMBER PROCESSES ROOT FOLDER

Plays every case of `distributed_cases` together with the others, and writes `CASE-NUMBER.npz`.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from retrieval import distributed
from tests.distributed_cases import CASES, no_dropout


def main() -> None:
    number, count, root, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    os.environ.update(RANK=number, LOCAL_RANK=number, WORLD_SIZE=count, LOCAL_WORLD_SIZE=count)
    with distributed.process_group(), no_dropout():
        for name, case in CASES.items():
            # each has a folder of its own, so that a second writer would be found
            np.savez(folder / f"{name}-{number}.npz", **case(root, folder / f"{name}-{number}"))


if __name__ == "__main__":
    main()
