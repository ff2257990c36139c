"""`python -m tests.hostile.swapper HOME OUTSIDE SEED`: swaps directories of HOME for symbolic links
to OUTSIDE, and a file for a link to one there, and back, until its standard input ends.

Then home is as it was, but for what others did to it.
"""

from __future__ import annotations

import os
import random
import select
import sys
import time

from tests.harness.syscalls import renameat2

EXCHANGE = 2


def main() -> None:
    home, outside, seed = sys.argv[1:]
    chance = random.Random(int(seed))
    spare = f"{home}/../spare"
    os.makedirs(spare)
    pairs = []
    for number, name in enumerate(("d", "d/e", "links", "d/file")):
        beside = f"{spare}/{number}"
        if name == "d/file":
            os.link(f"{outside}/file", beside)
        else:
            os.symlink(f"{outside}/{os.path.basename(name)}", beside)
        above, _, last = f"{home}/{name}".rpartition("/")
        held = os.open(above, os.O_PATH)  # it is not to follow its own links
        pairs.append((f"/proc/self/fd/{held}/{last}", beside))
    swapped: set[int] = set()
    print("begun", flush=True)
    while not select.select([0], [], [], 0)[0]:
        number = chance.randrange(len(pairs))
        if swap(*pairs[number]):
            swapped ^= {number}
        time.sleep(chance.random() * 0.003)
    for number in sorted(swapped):
        swap(*pairs[number])


def swap(one: str, two: str) -> bool:
    try:
        renameat2(os.fsencode(one), os.fsencode(two), EXCHANGE)
    except OSError:  # somebody has moved it
        return False
    return True


if __name__ == "__main__":
    main()
