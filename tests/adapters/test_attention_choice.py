"""The kernel that is chosen for a shape is right, and the fastest of those; fakes on the CPU."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.nn import functional

from flowbp.adapters.attention_choice import Choices, seconds
from flowbp.adapters.attention_kernels import DenseGradient
from flowbp.adapters.attention_trial import AttentionCall

from .altered import Altered

CPU = torch.device("cpu")
FORWARD = AttentionCall((2, 3, 5, 8), 5, torch.bfloat16, CPU, gradient=False)
BOTH = AttentionCall((2, 3, 5, 8), 5, torch.bfloat16, CPU, gradient=True)


def right(query, key, value):
    return functional.scaled_dot_product_attention(query, key, value)


def with_gradient(fault):
    return lambda query, key, value: Altered.apply(right(query, key, value), fault)


def of_first_strides():
    """A kernel that reads every gradient by the strides of the first, as cuDNN's in torch."""
    first = []

    def fault(gradient):
        first.append(gradient.stride())
        return gradient if gradient.stride() == first[0] else torch.full_like(gradient, torch.nan)

    return with_gradient(fault)


def failing(query, key, value):
    raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nand more")


def last_position_lost(heads):
    heads = heads.clone()
    heads[-1, -1, -1] = 0
    return heads


def failing_without_a_word(query, key, value):
    raise NotImplementedError


def of_another_torch(query, key, value):
    return torch.ops.aten._scaled_dot_product_unheard_of(query, key, value)


BROKEN = {
    "fails": failing,
    "fails_without_a_word": failing_without_a_word,
    "is_not_in_this_torch": of_another_torch,
    "is_no_number": lambda q, k, v: right(q, k, v) * torch.nan,
    "is_another_shape": lambda q, k, v: right(q, k, v)[:, :1],
    "is_another_dtype": lambda q, k, v: right(q, k, v).float(),
    "is_of_another_scale": lambda q, k, v: right(q * 2, k, v),
    "loses_a_position": lambda q, k, v: last_position_lost(right(q, k, v)),
}
WRONG_GRADIENTS = {
    "fails_backward": with_gradient(lambda gradient: failing(*[gradient] * 3)),
    "has_no_number": with_gradient(lambda gradient: gradient * torch.inf),
    "is_too_long": with_gradient(lambda gradient: gradient * 1.1),
    "is_turned": with_gradient(lambda gradient: -gradient),
    "loses_a_position": with_gradient(last_position_lost),
    "reads_strides_of_the_first": of_first_strides(),
}


def choices(times, kernels, **options):
    """Choices by a clock that says `times`, in the order of the right kernels."""
    given = iter(times)
    return Choices(kernels, clock=lambda run, device: next(given), **options)


@pytest.mark.parametrize("call", [FORWARD, BOTH], ids=["forward", "both"])
def test_the_fastest_of_the_right_ones_is_taken_and_asked_for_once(call):
    said = []
    found = choices([3.0, 1.0, 2.0], dict.fromkeys("abc", right), say=said.append)
    assert [found.of(call), found.of(call)] == ["b", "b"]
    assert said == [f"attention, {call}: b (a 3000.00 ms, b 1000.00 ms, c 2000.00 ms)"]


def test_noise_does_not_decide():
    assert choices([1.0, 0.97], {"first": right, "later": right}).of(BOTH) == "first"
    assert choices([1.0, 0.9], {"first": right, "later": right}).of(BOTH) == "later"


@pytest.mark.parametrize("call", [FORWARD, BOTH], ids=["forward", "both"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_kernel_is_never_taken(broken, call):
    said = []
    found = choices([1.0], {"broken": broken, "right": right}, say=said.append)
    assert found.of(call) == "right"
    assert ": right (right 1000.00 ms, broken " in said[0] and "\n" not in said[0]


@pytest.mark.parametrize("broken", WRONG_GRADIENTS.values(), ids=WRONG_GRADIENTS)
def test_a_kernel_with_a_wrong_gradient_is_taken_for_sampling_alone(broken):
    assert choices([1.0], {"broken": broken, "right": right}).of(BOTH) == "right"
    assert choices([1.0, 2.0], {"broken": broken, "right": right}).of(FORWARD) == "broken"


def test_a_dense_gradient_cures_a_kernel_that_knows_one_layout():
    broken = of_first_strides()
    cured = lambda q, k, v: DenseGradient.apply(broken(q, k, v))  # noqa: E731
    assert choices([1.0], {"cured": cured}).of(BOTH) == "cured"


def test_what_others_agreed_on_is_taken_where_it_is_right():
    asked = []

    def agree(call, name):
        asked.append((call, name))
        return "slow"

    kernels = {"fast": right, "slow": right}
    assert choices([1.0, 2.0], kernels, agree=agree).of(BOTH) == "slow"
    assert asked == [(str(BOTH), "fast")]
    assert choices([1.0], {"fast": right, "slow": failing}, agree=agree).of(BOTH) == "fast"


def test_without_a_right_kernel_the_cure_is_named():
    found = Choices({"first": failing, "second": BROKEN["is_no_number"]})
    with pytest.raises(RuntimeError, match=r"`run\.attention` is auto.* write run\.att") as refused:
        found.of(BOTH)
    found.key = "evaluation.attention"
    with pytest.raises(RuntimeError, match=r"`evaluation\.attention` is .* write evaluation\.att"):
        found.of(BOTH)
    assert str(BOTH) in str(refused.value) and "NOT_SUPPORTED" in str(refused.value)


def test_a_lack_of_memory_is_no_fault_of_the_kernel():
    def without_memory(query, key, value):
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = choices([1.0, 1.0], {"large": without_memory, "right": right})
    with pytest.raises(torch.OutOfMemoryError):
        found.of(BOTH)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")],
)
def test_nor_is_one_that_torch_has_no_type_for(error):
    def without_memory(query, key, value):
        raise error

    with pytest.raises(RuntimeError) as refused:
        choices([1.0], {"large": without_memory, "right": right}).of(BOTH)
    assert refused.value is error


def test_a_kernel_that_breaks_the_device_is_named_and_no_other_is_tried():
    state, tried = [], []

    def breaking(query, key, value):
        state.append("broken")
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")

    def watching(query, key, value):
        tried.append(query)
        return right(query, key, value)

    def wait(device):
        if state:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    kernels = {"fine": right, "breaking": breaking, "flash": watching}
    found = choices([1.0], kernels, wait=wait, key="evaluation.attention")
    with pytest.raises(RuntimeError, match=r"the kernel breaking has broken cpu.*illegal") as no:
        found.of(BOTH)
    assert str(no.value).endswith("start again with evaluation.attention=fine or flash")
    assert not tried and str(BOTH) in str(no.value)


def test_what_a_run_sets_ends_with_it():
    found, said = Choices({"right": right}), []
    before = found.agree, found.say, found.key
    with pytest.raises(KeyError), found.restored():
        found.agree, found.say, found.key = max, said.append, "evaluation.attention"
        raise KeyError
    assert (found.agree, found.say, found.key) == before


def test_only_deterministic_kernels_where_torch_is_to_be():
    kernels = {"fast": right, "exact": right}
    found = choices([2.0], kernels, exact=("exact",))
    call = AttentionCall(BOTH.shape, 5, BOTH.dtype, CPU, gradient=True, deterministic=True)
    assert found.of(call) == "exact"


def test_states_of_the_thread_do_not_reach_a_choice():
    seen = []

    def watching(query, key, value):
        seen.append((threading.current_thread(), torch.is_autocast_enabled("cpu")))
        return right(query, key, value)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert choices([1.0], {"kernel": watching}).of(BOTH) == "kernel"
    assert threading.current_thread() not in {thread for thread, _ in seen}
    assert not any(autocast for _, autocast in seen)


def test_time_is_that_of_a_call():
    calls = []
    assert 0 <= seconds(lambda: calls.append(1), CPU) < 10
    assert len(calls) > 1
