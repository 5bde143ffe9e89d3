"""BERT's pre-training step compiled for TPUs that are not here.

    python benchmarks/tpu_compile.py [--chips 8 256] [--results FILE]

The real train step (masked LM, next sentence, dropout, clipping, BERT's Adam; bfloat16
activations, float32 parameters) is compiled ahead of time by the TPU's own compiler,
for BERT-base and -large, rows of 128 and 512 positions, and each placement. Told are
what it says of a chip, bytes and collectives; the FLOPs of a step's matrix products, by
their formula, for a compiler counts what is in a loop once; and the most rows a chip
that it accepts, found by compiling for more and fewer. Nothing is run: how long a step
takes is not told.

Every compilation is a line of --results; a later run goes on from there. Needs the
extra ``tpu``, no TPU, and 30 to 300 seconds a compilation on two cores.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

# libtpu asks its surroundings which TPU it is on, and there is none.
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "JAX_PLATFORMS": "cpu",
}

import jax
import numpy as np
import tyro
from jax.experimental import topologies
from results_file import append, read

from tl_jax.data.examples import make_examples
from tl_jax.data.masking import NEXT_SENTENCE, Masking, mask
from tl_jax.data.packing import Layout, pack
from tl_jax.models.batch import Batch
from tl_jax.models.bert import BertConfig
from tl_jax.runs.pretrain_bert_setup import SIZES, build_model
from tl_jax.runs.pretrain_config import Size
from tl_jax.tasks import pretraining
from tl_jax.training.placement import Placement
from tl_jax.training.step import EVERYTHING, create_state, train_step
from tl_jax.transfer.schedules import warmup_linear

TOPOLOGIES = {8: "v5e:2x4", 256: "v5e:16x16"}
COLLECTIVES = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)
HBM = 15.75 * 2**30  # of a v5e's 16 GiB, what the compiler gives to a program


@dataclass(frozen=True)
class Config:
    """Options of the benchmark.

    Attributes:
      chips: How many v5e chips to compile for: 8, 256.
      sizes: Of BERT.
      lengths: Positions of a row.
      placements: Data parallel (jit), or parameters sharded too (fsdp).
      remat: Compute blocks' insides twice: False, True.
      scan: One compiled block in a loop. Without it compilations take ten times longer.
      rows: Rows a chip of the first compilation.
      closeness: The search ends when more rows by this factor do not fit.
      results: File of all compilations so far, a JSON object a line.
    """

    chips: tuple[Literal[8, 256], ...] = (8,)
    sizes: tuple[Size, ...] = ("base", "large")
    lengths: tuple[int, ...] = (128, 512)
    placements: tuple[Literal["jit", "fsdp"], ...] = ("jit", "fsdp")
    remat: tuple[bool, ...] = (False,)
    scan: bool = True
    rows: int = 16
    closeness: float = 1.125
    results: Path = Path("tpu_compile.jsonl")


@dataclass(frozen=True)
class Case:
    """One thing to be compiled; ``rows`` are a chip's."""

    chips: int
    size: Size
    length: int
    placement: Literal["jit", "fsdp"]
    remat: bool
    scan: bool
    rows: int


def compiled(case: Case) -> dict[str, Any]:
    """Compiles a case; what it takes of a chip, or that it does not fit."""
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGIES[case.chips]
    ).devices
    placement, config = Placement(case.placement, tuple(devices)), config_of(case)
    began = time.perf_counter()
    traced = trace(case, placement)
    try:
        program = traced.lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "seconds": round(time.perf_counter() - began)}
    memory = program.memory_analysis()
    return {
        "fits": True,
        "seconds": round(time.perf_counter() - began),
        "state_bytes": memory.argument_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "flops": case.rows
        * pretraining.matmul_flops(config, sample(config, case.length)),
        "collectives": dict(Counter(COLLECTIVES.findall(program.as_text()))),
    }


def config_of(case: Case) -> BertConfig:
    """The model of a case."""
    layers, width = SIZES[case.size]
    return BertConfig(
        hidden_size=width,
        num_layers=layers,
        num_heads=width // 64,
        intermediate_size=4 * width,
        dtype="bfloat16",
        remat=case.remat,
        scan_layers=case.scan,
    )


def trace(case: Case, placement: Placement) -> Any:
    """Traces the train step of a case by shapes alone."""
    config = config_of(case)
    model, row = build_model(config, nsp=True), sample(config, case.length)
    rows = case.rows * case.chips
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), row
    )
    params = jax.eval_shape(model.init, jax.random.key(0), row)
    schedule = warmup_linear(1e-4, 1_000_000, 10_000)
    optimizer = EVERYTHING.optimizer(params, schedule, bias_correction=False)
    state = jax.eval_shape(lambda params: create_state(params, optimizer), params)
    return placement.trace(train_step(pretraining.loss(model), optimizer), state, batch)


def sample(config: BertConfig, length: int) -> Batch:
    """One row of masked text, of the shapes that pre-training has."""
    examples = make_examples(
        [np.full(length, 5)],
        targets={NEXT_SENTENCE: np.zeros(1, int)},
        weights={NEXT_SENTENCE: np.ones(1)},
    )
    layout = Layout(max_length=length, narrowest=length, fewest_rows=1)
    batch = pack(examples, [0], layout, batch_size=1)
    return mask(
        batch, Masking(config.vocab_size, 4, (0, 2, 3, 4), 0.15, length, None, 0)
    )


def search(case: Case, closeness: float, known: dict[Case, Any], file: Path) -> Case:
    """Finds the most rows that fit, compiling as few programs as may be."""

    def look(rows: int) -> dict[str, Any]:
        asked = replace(case, rows=rows)
        if asked not in known:
            known[asked] = compiled(asked)
            told = asdict(asked) | known[asked]
            append(file, told)
            print(json.dumps(told), flush=True)
        return known[asked]

    fits, fails = 0, None
    rows = case.rows
    while True:
        found = look(rows)
        if found["fits"]:
            fits = rows
            free = (HBM - found["peak_bytes"]) / max(
                1.0, (found["peak_bytes"] - found["state_bytes"]) / rows
            )
            # Where little is left, try what ends the search: to fail takes seconds.
            rows = max(fits + int(free), int(fits * closeness), fits + 1)
        else:
            fails = rows
        if fails is not None:
            if fails <= max(fits * closeness, fits + 1):
                return replace(case, rows=fits)
            if rows >= fails or rows <= fits:
                rows = (fits + fails) // 2


def compiled_before(file: Path) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Reads what has been compiled before."""
    for told in read(file):
        case = Case(**{name: told.pop(name) for name in Case.__dataclass_fields__})
        yield case, told


def main(config: Config) -> None:
    """Compiles what is asked for, and prints a table of the largest that fit."""
    known = dict(compiled_before(config.results))
    print("chips size length placement remat | rows/chip state peak FLOPs collectives")
    for chips, size, length, placement, remat in product(
        config.chips, config.sizes, config.lengths, config.placements, config.remat
    ):
        case = Case(chips, size, length, placement, remat, config.scan, config.rows)
        best = search(case, config.closeness, known, config.results)
        if not best.rows:
            print(chips, size, length, placement, remat, "| not one row fits")
            continue
        told = known[best]
        print(
            f"{chips} {size} {length} {placement} {remat} | {best.rows} "
            f"{told['state_bytes'] / 2**30:.2f} GiB {told['peak_bytes'] / 2**30:.2f} "
            f"GiB {told['flops'] / 1e12:.2f} T {told['collectives']}"
        )


if __name__ == "__main__":
    main(tyro.cli(Config))
