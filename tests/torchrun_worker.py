"""Commands without dropout, one after another: torchrun torchrun_worker.py COMMANDS FOLDER

Every process writes what each command came to into `FOLDER/NUMBER.json`.
"""

import json
import os
import sys
from pathlib import Path

from retrieval.distributed import process_group
from tests.command_line import call
from tests.distributed_cases import no_dropout


def main() -> None:
    commands, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    with process_group(), no_dropout():
        outcomes = [call(*command) for command in commands]
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
