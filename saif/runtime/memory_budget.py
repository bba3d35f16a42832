"""The memory budget: will a model fit? Counted from its config, before any weight is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saif.errors import ModelError
from saif.runtime.catalog import MODELS, QUANTIZED_BYTES, Quantize, Size

GB = 1e9

_HEADROOM = 1.1  # activations, the KV cache and the allocator's own waste, as a share of weights
_RESERVE = 0.3 * GB  # and what a process needs whatever the model


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Free memory in bytes."""

    cuda: int | None
    """Of all GPUs together; None without one."""
    ram: int

    @property
    def free(self) -> int:
        """Where the model would go."""
        return self.ram if self.cuda is None else self.cuda

    def __str__(self) -> str:
        where = "this computer's memory" if self.cuda is None else "GPU memory"
        return f"{self.free / GB:.1f} GB of {where} are free"


def needed(size: Size, quantize: Quantize, per_weight: int = 2) -> float:
    """Bytes it takes to load a model and to chat with it."""
    return size.bytes(quantize, per_weight) * _HEADROOM + _RESERVE


def free_memory(freed: int = 0) -> FreeMemory:
    """What is free now, and `freed` bytes more where the model will go."""
    import psutil
    import torch

    ram = psutil.virtual_memory().available
    if not torch.cuda.is_available():
        return FreeMemory(None, ram + freed)
    cuda = sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    return FreeMemory(cuda + freed, ram)


def size_of(config: Any) -> Size:
    """Counted on a model without memory: the shapes are real, the numbers are not there."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()  # tied matrices are then the same parameter and count once
    head = model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    total = sum(parameter.numel() for parameter in model.parameters())
    return Size(linear, total - linear)


def check_fits(
    name: str, size: Size, quantize: Quantize, per_weight: int, free: FreeMemory
) -> None:
    """Raise ModelError, with the numbers and what would fit, if the model won't."""
    wanted = needed(size, quantize, per_weight)
    # Weights that aren't quantized may spill from the GPU into the computer's memory.
    spill = free.ram if free.cuda is not None and quantize == "none" else 0
    if wanted <= free.free + spill:
        return
    ways = [
        f"--quantize {way} ({needed(size, way) / GB:.1f} GB)"
        for way in QUANTIZED_BYTES
        if needed(size, way) < min(wanted, free.free)
    ]
    smaller = [m for m in MODELS if m.chat and needed(m.size, "none", per_weight) < free.free]
    if smaller:
        biggest = max(smaller, key=lambda model: model.parameters)
        gigabytes = needed(biggest.size, "none", per_weight) / GB
        ways.append(f"a smaller model, such as {biggest.name} ({gigabytes:.1f} GB)")
    bits = f"{8 * per_weight} bits" if quantize == "none" else quantize
    raise ModelError(
        f"{name} needs {wanted / GB:.1f} GB in {bits}, and {free}.",
        hint=f"Try {' or '.join(ways)}." if ways else "Use a machine with more memory.",
    )


def choose(size: Size, free: FreeMemory, per_weight: int) -> Quantize:
    """As many bits as fit: none taken away if possible, then 8, then 4.

    On a CPU always none: bitsandbytes is slower there than full precision (measured).
    """
    if free.cuda is None or needed(size, "none", per_weight) <= free.free:
        return "none"
    return "int8" if needed(size, "int8", per_weight) <= free.free else "4bit"


def check_disk(folder: Path, wanted: float) -> None:
    """Raise ModelError if `wanted` bytes can't be downloaded into `folder`."""
    import shutil

    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted:
        raise ModelError(
            f"The download takes {wanted / GB:.1f} GB, and the disk has {free / GB:.1f} GB left.",
            hint="Make room, or set HF_HOME to a folder on a bigger disk.",
        )
