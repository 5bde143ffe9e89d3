import subprocess
import sys

import pytest

# A thread takes and frees a block twice, as XLA's pool does; the second is counted.
PROGRAM = """
import resource, sys, threading
from tl_jax.runs.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
def use():
    for _ in range(2):
        b'x' * 160_000_000
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(faults[1] - faults[0])
"""


def faults(word):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, word],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_freed_block_is_used_again_without_page_faults():
    if (usual := faults("not")) < 1000:
        pytest.skip(f"pages are huge here: {usual} faults")
    assert faults("keep") < usual / 20
