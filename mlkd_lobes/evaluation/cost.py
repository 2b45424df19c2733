"""What a model costs: parameters, multiply-accumulates, time, memory."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mlkd_lobes.memory import peak_resident_mb


def macs_per_second(model, seconds=10, sample_rate=16000):
    """Multiply-accumulates per second of audio.

    Arguments
    ---------
    model : torch.nn.Module
        Takes waveforms [batch, time].
    seconds : int
        Length of the trial signal; attention grows with it.
    sample_rate : int
        In Hz.

    Returns
    -------
    float
        Of convolutions, matrix products and attention, by PyTorch's counter.
    """
    device = next(model.parameters()).device
    signal = torch.zeros(1, seconds * sample_rate, device=device)
    counter = FlopCounterMode(display=False)
    # The counter overlooks fused attention on a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(signal)
    return counter.get_total_flops() / 2 / seconds


def n_parameters(module):
    """Number of parameters, trained or not.

    Arguments
    ---------
    module : torch.nn.Module
        The module.

    Returns
    -------
    int
        Their number.
    """
    return sum(parameter.numel() for parameter in module.parameters())


def peak_memory_mb(device):
    """Most memory in use so far.

    Arguments
    ---------
    device : str
        "cpu": resident memory of this process; else of the GPU.

    Returns
    -------
    float
        In MiB.
    """
    if str(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_resident_mb()


def model_cost(model, device):
    """What a classifier costs, and where that was measured.

    Arguments
    ---------
    model : mlkd_lobes.classifier.EmotionClassifier
        The classifier.
    device : str
        Where it runs.

    Returns
    -------
    dict
        Parameters of encoder and head, MACs per second of audio, peak memory,
        device and threads.
    """
    device = str(device)
    gpu = device.startswith("cuda")
    return {
        "parameters": n_parameters(model.encoder),
        "head_parameters": n_parameters(model.head),
        "macs_per_second": macs_per_second(model),
        "peak_memory_mb": peak_memory_mb(device),
        "device": torch.cuda.get_device_name() if gpu else device,
        "threads": torch.get_num_threads(),
    }
