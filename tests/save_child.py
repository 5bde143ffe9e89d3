r"""Saves under a fault, once for every place of the fault; run by test_checkpoint.py.

    LD_PRELOAD=disk_faults.so python save_child.py \
        BASE OUT KINDS ERRNO LASTING JOB LIMIT STRIDE

Imports once, then forks: child n works on OUT/n, a copy of BASE, and meets the fault
at its n-th call. Enough when three children met none (the
number of calls differs a little from save to save), or at LIMIT. One JSON line a child.
"""

import ctypes
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np

from tl_jax.training import arrays, checkpoint

UNMET = 42


def state_of(step: int) -> dict:
    """A small state in which every number tells the step."""
    return {
        "params": {"w": np.full((3, 2), step, np.float32)},
        "key": np.full(2, step, np.uint32),
        "step": np.asarray(step),
    }


def job(name: str, folder: Path) -> None:
    """What the fault comes into; BASE holds steps 1 and 2."""
    if name == "save":
        checkpoint.save(folder, 3, state_of(3), {"best": None})
    elif name == "again":
        checkpoint.save(folder, 2, state_of(2), {"best": None})
    elif name == "drop":
        checkpoint.keep_only(folder, {2})


def child(
    folder: Path, kinds: str, at: int, error: int, lasting: int, name: str
) -> None:
    faults = ctypes.CDLL(None)
    faults.faults_seen.restype = ctypes.c_char_p
    arrays.quiet_orbax()
    told = ""
    where = ctypes.c_char_p(str(folder).encode() + b"/")
    faults.faults_arm(where, kinds.encode(), ctypes.c_long(at), error, lasting)
    try:
        job(name, folder)
    except checkpoint.SaveError as problem:
        told = str(problem)
    seen = faults.faults_seen().decode()
    print(json.dumps({"at": at, "told": told, "seen": seen}), flush=True)
    sys.exit(UNMET if len(seen) < at else 0)


def main() -> None:
    base, out, kinds, error, lasting, name, limit, stride = sys.argv[1:]
    unmet = 0
    for at in range(1, int(limit) + 1, int(stride)):
        folder = Path(out, str(at))
        shutil.copytree(base, folder)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(folder, kinds, at, int(error), int(lasting), name)
            except SystemExit as leaving:
                code = leaving.code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code < 0:
            print(json.dumps({"at": at, "killed": -code}), flush=True)
        elif code not in (0, UNMET):
            sys.exit(f"child {at} left with {code}")
        unmet += code == UNMET
        if unmet == 3:
            break


if __name__ == "__main__":
    main()
