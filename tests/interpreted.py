"""The training step as it is compiled for a GPU, run without one: Triton's interpreter takes the kernels one by one.

A GPU runs the programs of a kernel at once and in no order, so here their order is random: what one of them reads and
another writes gives something else then. A process of its own, as Triton decides when it is imported:

    PYTHONPATH=. python tests/interpreted.py --loss BPR-max --seed 1
"""

import argparse
import itertools
import os
import random
import tempfile
import warnings
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import torch._inductor.config
import triton
import triton.language.extra.libdevice
import triton.runtime.interpreter as interpreter
from test_compilation import make_parts, random_mini_batches, run
from torch._inductor.runtime import triton_heuristics
from torch._inductor.scheduler import ForeachKernelSchedulerNode, Scheduler
from triton.backends.compiler import GPUTarget

from faster import compilation
from training import training_step

MOST_AT_A_TIME = 8  # kernels in one, as PyTorch has it for a GPU
SETTINGS = {  # model and optimizer, clicks in a step
    "one-hot": ({"final_act": "elu-0.5", "weight_decay": 1e-3, "momentum": 0.0}, {}),
    "separate": ({"embedding_dim": 7}, {}),
    "shared": ({"constrained_embedding": True, "final_act": "softmax"}, {}),
    "layers": ({"constrained_embedding": True, "num_layers": 2}, {}),
    "through-time": ({"constrained_embedding": True}, {"bptt": 3}),
    "many-samples": ({"constrained_embedding": True}, {"n_sample": 1100}),  # too many for one program's registers
}


class Gpu:
    """What Triton asks of the driver of a GPU: here, of one that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0


class Programs:
    """The programs of a kernel in random order.

    Args:
        seed: of the order.
        most_elements: of a program in each direction, so that there are many programs.
    """

    def __init__(self, seed: int, most_elements: int = 16):
        self.draw, self.n_programs, self.order = random.Random(seed), [], iter(())
        builder, take = interpreter.interpreter_builder, triton_heuristics.CachingAutotuner._interpret_args_grid
        set_dim, set_index = builder.set_grid_dim, builder.set_grid_idx

        def begin(*size: int) -> None:
            programs = list(itertools.product(*map(range, size)))
            self.n_programs.append(len(programs))
            self.draw.shuffle(programs)
            self.order = iter(programs)
            set_dim(*size)

        def with_small_blocks(kernel: Any, arguments: Any, config: Any) -> Any:
            for name in {"XBLOCK", "YBLOCK"} & set(config.kwargs):
                config.kwargs[name] = min(config.kwargs[name], most_elements)
            return take(kernel, arguments, config)

        builder.set_grid_dim, builder.set_grid_idx = begin, lambda *_: set_index(*next(self.order))
        triton_heuristics.CachingAutotuner._interpret_args_grid = with_small_blocks


def all_groups(scheduler: Scheduler) -> list[list]:
    """Kernels that do not depend on each other, to be made one; by default PyTorch does so for GPUs alone."""
    return [
        nodes[first : first + MOST_AT_A_TIME]
        for nodes in scheduler._topological_sort_nodes()
        for first in range(0, len(nodes), MOST_AT_A_TIME)
    ]


def prepare() -> None:
    """Have PyTorch compile for a GPU what is on the CPU, and Triton interpret it."""
    torch._inductor.config.cpu_backend = "triton"
    torch._inductor.config.compile_threads = 1
    compilation.OPTIONS["cpu"] = compilation.OPTIONS["cuda"]
    ForeachKernelSchedulerNode.set_group_algorithm_for_combo_kernels(all_groups)
    triton.runtime.driver.set_active(Gpu())
    for name in ("exp", "expm1", "log1p", "tanh"):  # CUDA's library, of which the interpreter has nothing
        setattr(triton.language.extra.libdevice, name, by_numpy(getattr(np, name)))
    patch = interpreter._patch_lang_tensor

    def patch_and_index(tensor: type, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda tensor: tensor.handle.data.item())  # NumPy 2.4 refuses int([1])

    interpreter._patch_lang_tensor = patch_and_index


def by_numpy(function: np.ufunc) -> Any:
    """A function of Triton's tensors."""

    def of_tensor(tensor: Any, **_: Any) -> Any:
        values = function(tensor.handle.data).astype(tensor.handle.data.dtype)
        handle = interpreter.TensorHandle(values, tensor.handle.dtype)
        return triton.language.core.tensor(handle, tensor.type)

    return of_tensor


def compare(loss: str, name: str, programs: Programs) -> None:
    """Three steps of a setting, plain and interpreted: losses and weights are the same, up to rounding."""
    of_model, of_batches = SETTINGS[name]
    plain, compiled = (make_parts(loss, dropout_hidden=0.2, dropout_input=0.1, **of_model) for _ in range(2))
    mini_batches = random_mini_batches(3, plain[0].shared, repeated=True, **of_batches)
    expected = run(training_step, plain, mini_batches)
    programs.n_programs.clear()
    losses = run(compilation.compiled_step("cpu"), compiled, mini_batches)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for ours, theirs in zip(compiled[0].parameters(), plain[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    n_kernels, n_programs = len(programs.n_programs) // 3, sum(programs.n_programs) // 3
    print(f"{loss}, {name}: {n_kernels} kernels of {n_programs} programs a step", flush=True)
    assert n_kernels > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", required=True)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare()
    programs = Programs(flags.seed)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for name in flags.settings:
            compare(flags.loss, name, programs)


if __name__ == "__main__":
    main()
