"""For tests only: lets verl 0.9.1's own `main_ppo` run, with Ray and FSDP2 workers, on a machine without a GPU.

Loaded by verl in every process (VERL_USE_EXTERNAL_MODULES): a platform "cpu", process groups over gloo, a rollout that
samples from the Hugging Face model, and, where RECORD_DIR says, a record of each micro-batch's loss.
"""

import contextlib
import os
import types

import torch
import torch.distributed.fsdp
import verl.utils.distributed
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplicaRegistry


class _CPUModule(types.ModuleType):
    """What verl asks of `torch.cuda`, answered for a device without memory of its own."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        number = name in ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved")
        return lambda *args, **kwargs: 0 if number or name == "current_device" else None

    def is_available(self):
        return False

    def device_count(self):
        return 1

    def get_device_name(self, *args):
        return "cpu"

    def mem_get_info(self, *args):
        return 1, 1

    def get_rng_state(self, *args):
        return torch.get_rng_state()

    def set_rng_state(self, state, *args):
        torch.set_rng_state(state)


_MODULE = _CPUModule("cpu_module")


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    device_name = vendor_name = property(lambda self: "cpu")
    device_module = property(lambda self: _MODULE)

    def is_available(self):
        return True

    def is_platform_available(self, use_smi_check=False):
        return True

    def current_device(self):
        return torch.device("cpu")

    def device_count(self):
        return 1

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def _nothing(self, *args):
        return None

    set_device = synchronize = set_allocator_settings = empty_cache = profiler_start = profiler_stop = cudart = _nothing

    def get_device_capability(self, index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg):
        yield

    def ray_resource_name(self):
        return "GPU"  # ray.init(num_gpus=2) says that there are two

    def ray_resource_options(self, num_gpus):
        return {"num_gpus": num_gpus}

    def ray_noset_envvars(self):
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self):
        return False


_initialize = verl.utils.distributed.initialize_global_process_group_ray


def _initialize_gloo(timeout_second=None, backend=None):
    # by default verl asks for "cpu:gloo,DEVICE:BACKEND", which names the cpu twice
    return _initialize(timeout_second, backend or "gloo")


verl.utils.distributed.initialize_global_process_group_ray = _initialize_gloo


class _Unpinned(torch.distributed.fsdp.CPUOffloadPolicy):
    """The reference policy is always offloaded; pinned memory needs an accelerator."""

    def __init__(self, pin_memory=True):
        super().__init__(pin_memory=False)


torch.distributed.fsdp.CPUOffloadPolicy = _Unpinned


def _load_replica():
    from tests.verl.cpu_rollout import CPUReplica

    return CPUReplica


base._ROLLOUT_REGISTRY["cpu", "async"] = "tests.verl.cpu_rollout.WeightSender"
RolloutReplicaRegistry.register("cpu", _load_replica)

if "RECORD_DIR" in os.environ:
    import lambda_grpo.verl.loss
    from tests.verl.recorder import recorded

    lambda_grpo.verl.loss.lambda_grpo_loss = recorded(lambda_grpo.verl.loss.lambda_grpo_loss)
