"""Trains on 1, 2, 4 and 8 devices by every placement; run by test_placement.py.

One JSON line: losses and the farthest parameter from one device's, by placement and
devices, and the same after each step that was taken on another number of devices.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from helpers import drawn, farthest, tiny_bert, uneven_batch

from tl_jax.metrics.sums import mean
from tl_jax.tasks.classification import loss
from tl_jax.training.checkpoint import restore, save
from tl_jax.training.placement import choose_placement
from tl_jax.training.step import EVERYTHING, create_state, train_step

MODEL = tiny_bert(num_layers=1, scan_layers=True)
PARAMS = drawn(MODEL)
OPTIMIZER = EVERYTHING.optimizer(PARAMS, 1e-3, bias_correction=False)
STEP = train_step(loss(MODEL), OPTIMIZER)
WAYS = [("jit", 1), ("jit", 2), ("jit", 8), ("fsdp", 4), ("fsdp", 8), ("pmap", 8)]
HOPS = [("jit", 1), ("jit", 2), ("fsdp", 4), ("fsdp", 8), ("jit", 1)]

placed = {way: choose_placement(*way) for way in WAYS}
takes = {way: placement.train(STEP) for way, placement in placed.items()}


def step(way, state, number):
    """One step from a state that lies anywhere; the new state and its loss."""
    put = placed[way].replicate(state)
    state, sums = takes[way](put, uneven_batch(seed=number))
    return state, mean(jax.device_get(sums))["loss"]


def train(way):
    state, losses = create_state(PARAMS, OPTIMIZER), []
    for number in range(3):
        state, value = step(way, state, number)
        losses.append(value)
    return state, losses


def resumed(folder):
    """Stores and restores the state between steps; how far each step leads astray."""
    state, found = create_state(PARAMS, OPTIMIZER), []
    for number, way in enumerate(HOPS):
        before = jax.tree.map(np.asarray, state)
        path = save(folder, number, vars(state), {})
        restored = state.replace(
            **restore(path, jax.tree.map(np.zeros_like, vars(before)))
        )
        exact = farthest(restored, before)
        state, _ = step(way, restored, number)
        known, _ = step(("jit", 1), before, number)
        found.append([exact, farthest(state.params, known.params)])
    return found


alone, expected = train(("jit", 1))
told = {"losses": {}, "params": {}}
for way in WAYS:
    state, losses = train(way)
    name = " ".join(map(str, way))
    told["losses"][name] = float(np.max(np.abs(np.array(losses) - expected)))
    told["params"][name] = farthest(state.params, alone.params)
told["hops"] = resumed(Path(sys.argv[1]))
print(json.dumps(told))
