"""The devices of this machine, each with a one-second self-test: speed, and agreement with the CPU."""

from __future__ import annotations

import platform
import time

import torch

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn.protocol import generator
from workbench.learn.registry import backbones
from workbench.services.requests import DeviceRow

_SECONDS = 1.0
_BATCH = 32


def keys() -> tuple[str, ...]:
    """The devices of this machine, the CPU first."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ("cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else []))


def devices(ctx: Context) -> tuple[DeviceRow, ...]:
    """Every device: a forward pass of Conv-4 at 84 px, timed for a second and compared with the CPU's."""
    net = backbones()["conv4"].build(3, 84, generator(0)).eval()
    x = torch.rand(_BATCH, 3, 84, 84, generator=generator(1))
    with torch.no_grad():
        reference = net(x)
    out = []
    for key in keys():
        ctx.check()
        ctx.status(f"Testing {key}")
        out.append(_test(key, net, x, reference))
    return tuple(out)


def _test(key: str, net: torch.nn.Module, x: torch.Tensor, reference: torch.Tensor) -> DeviceRow:
    name = _name(key)
    try:
        moved, here = net.to(key), x.to(key)
        with torch.no_grad():
            gap = float((moved(here).cpu() - reference).abs().max() / reference.abs().max().clamp_min(1e-9))
            begun, images = time.monotonic(), 0
            while time.monotonic() - begun < _SECONDS:
                float(moved(here).sum())
                images += len(x)
        rate = images / (time.monotonic() - begun)
    except (RuntimeError, AssertionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return DeviceRow(key, name, False, 0.0, False, f"cannot be used: {why}")
    finally:
        net.to("cpu")
    agrees = gap <= 1e-3
    note = "" if agrees else f"differs from the CPU by {gap:.1e}; results would not be the same"
    return DeviceRow(key, name, agrees, rate, agrees, note)


def _name(key: str) -> str:
    if key == "cpu":
        cores = torch.get_num_threads()
        return f"CPU, {cores} {'thread' if cores == 1 else 'threads'}"
    if key.startswith("cuda"):
        return torch.cuda.get_device_name(key)
    return f"GPU of this {platform.system()} machine"


def check_device(key: str) -> str:
    """The device if it is there.

    Raises:
        WorkbenchError: it is not; nothing falls back silently.
    """
    if key in keys() or (key == "cuda" and "cuda:0" in keys()):
        return key
    raise WorkbenchError(
        f"The device {key} was not used", "this machine does not offer it", f"Choose {' or '.join(keys())}"
    )
