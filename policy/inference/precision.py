"""Number formats of inference: a denoiser's large matrices in fewer bits, or laid out for the CPU.

Weights are scaled per output channel, once. Activations of `w8a8` are scaled per token, as they
come. Embeddings, routers, modulations, norms and the last layer stay as they are, and so does
every matrix narrower than 256. Checkpoints are float32 whatever is inferred with.

N x K is the shape of a matrix: K numbers in, N out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from enum import Enum

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor, nn

from telic.policy.denoisers.denoiser import Denoiser
from telic.policy.layers.experts import Chosen, Experts, gated_sum
from telic.ranges import require_choice

WIDE = 256  # both sides of a matrix that is replaced are at least this
_ROWS = 16  # tokens that a packed matrix is laid out for; it serves any number
_LEAST_ROWS = 32  # torch._int_mm refuses 16 and fewer

Product = Callable[[Tensor], Tensor]  # x [... K] -> x W^T [... N], in x's dtype


class Precision(Enum):
    """How the large matrices are held and multiplied."""

    fp32 = "fp32"  # as in the checkpoint
    fp32_packed = "fp32_packed"  # float32 in the layout of oneDNN's kernels; the same numbers
    bf16 = "bf16"
    fp16 = "fp16"  # half-precision weights, float32 products
    int8 = "int8"  # 8-bit weights, bf16 activations
    w8a8 = "w8a8"  # 8-bit weights and activations


def precision_named(name: str) -> Precision:
    """Return the format called `name`; ValueError offers near ones."""
    return require_choice(Precision, name, "precision")


def quantize(denoiser: Denoiser, precision: Precision) -> None:
    """Replace the large matrices of a denoiser that will only infer from now on, where it is.

    ValueError where its device has no kernel for these precision, or the denoiser no large matrix.
    """
    if precision is Precision.fp32:
        return
    pack, replaced = packer(precision, next(denoiser.parameters()).device), 0
    for stack in denoiser.stacks():
        for parent in list(stack.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) and _large(child.weight):
                    setattr(parent, name, PackedLinear(child, pack))
                elif isinstance(child, Experts) and _large(child.weight_out[0]):
                    setattr(parent, name, PackedExperts(child, pack))
                else:
                    continue
                replaced += 1
    if not replaced:
        raise ValueError(
            f"precision={precision.value}: no matrix of the denoiser is {WIDE} or more on both "
            "sides, so nothing would be held otherwise; leave precision out"
        )


def available(device: torch.device) -> list[Precision]:
    """Return the formats that torch has kernels for on `device`."""
    return [Precision.fp32, *_KERNELS.get(device.type, dict)()]


def has_gradients(denoiser: nn.Module) -> bool:
    """Return whether what `quantize` put into it, if it did, can be differentiated."""
    products: list[Product] = []
    for module in denoiser.modules():
        if isinstance(module, PackedLinear):
            products.append(module.product)
        if isinstance(module, PackedExperts):
            products += module.products_in
    return all(isinstance(product, Bf16Matrix) for product in products)


class PackedLinear(nn.Module):
    """A Linear map whose matrix is a `Product`."""

    def __init__(self, linear: nn.Linear, pack: Callable[[Tensor], Product]) -> None:
        super().__init__()
        self.product = pack(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Return x W^T + b."""
        y = self.product(x)
        return y if self.bias is None else y + self.bias


class PackedExperts(nn.Module):
    """Experts whose matrices are `Product`s; at inference, so without dropout."""

    def __init__(self, experts: Experts, pack: Callable[[Tensor], Product]) -> None:
        super().__init__()
        self.products_in = [pack(weight) for weight in experts.weight_in.detach()]
        self.products_out = [pack(weight.T) for weight in experts.weight_out.detach()]
        self.bias_in = experts.bias_in

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        gates: Float[Tensor, "b2 t2 e"],
        chosen: Chosen | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the gated sum as `Experts` does; without `chosen` all are computed."""
        count = len(self.products_in)
        biases = self.bias_in.view(count, -1)

        def one(n: int, x: Tensor, gate: Tensor) -> Tensor:
            up, swish = (self.products_in[n](x) + biases[n]).chunk(2, -1)
            return self.products_out[n](up * F.silu(swish) * gate)

        return gated_sum(x, gates, dict.fromkeys(range(count)) if chosen is None else chosen, one)


class OneDnnMatrix:
    """float32, reordered for oneDNN's kernels, which read it faster where tokens are few."""

    def __init__(self, weight: Float[Tensor, "n k"]) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return y


class Bf16Matrix:
    """bf16 weights and activations."""

    def __init__(self, weight: Float[Tensor, "n k"]) -> None:
        self.weight = weight.bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        return F.linear(x.bfloat16(), self.weight).to(x.dtype)


class HalfMatrix:
    """fbgemm: fp16 weights, widened in registers; products and sums in float32."""

    def __init__(self, weight: Float[Tensor, "n k"]) -> None:
        self.weight = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.weight)
        return y


class Int8Matrix:
    """int8 weights against bf16 activations, scaled after the sum."""

    def __init__(self, weight: Float[Tensor, "n k"]) -> None:
        self.weight, scale = to_int8(weight)
        self.scale = scale.bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        rows = x.flatten(0, -2).bfloat16()
        y = torch._weight_int8pack_mm(rows, self.weight, self.scale)
        return y.to(x.dtype).unflatten(0, x.shape[:-1])


class FbgemmByteMatrix:
    """fbgemm: int8 weights, unsigned activations with one scale for all tokens.

    Each token is divided by its largest entry first, which makes the scale its own. Without VNNI
    the kernel adds pairs of products in 16 bits; there activations get 7 bits, with which no pair
    overflows.
    """

    def __init__(self, weight: Float[Tensor, "n k"]) -> None:
        integers, scale = to_int8(weight)
        zeros = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():  # torch warns that a later version will drop this
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(integers, scale.double(), zeros, 0)
        self.weight = torch.ops.quantized.linear_prepack(quantized, None)
        self.reduce_range = not torch.cpu._is_vnni_supported()

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        largest = _largest(x)
        y = torch.ops.quantized.linear_dynamic(x / largest, self.weight, self.reduce_range)
        return y * largest


class CudaByteMatrix:
    """int8 weights and activations on tensor cores, both symmetric."""

    def __init__(self, weight: Float[Tensor, "n k"]) -> None:
        integers, self.scale = to_int8(weight)
        self.weight = integers.T  # [K N], column by column, as the kernel wants it

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        rows = x.flatten(0, -2)
        step = _largest(rows) / 127
        integers = (rows / step).round().to(torch.int8)
        missing = max(0, _LEAST_ROWS - len(rows))
        sums = torch._int_mm(F.pad(integers, (0, 0, 0, missing)), self.weight)[: len(rows)]
        return (sums * step * self.scale).to(x.dtype).unflatten(0, x.shape[:-1])


def to_int8(weight: Float[Tensor, "n k"]) -> tuple[Int8[Tensor, "n k"], Float[Tensor, " n"]]:
    """Return integers in -127..127 and the step of each row: weight = step * integers, nearly."""
    step = _largest(weight) / 127
    return (weight / step).round().to(torch.int8).contiguous(), step.squeeze(-1)


def _largest(x: Tensor) -> Tensor:
    """Return each row's largest magnitude [... 1], above 0."""
    return x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny * 128)


def _large(weight: Tensor) -> bool:
    """Return whether a matrix is worth it, and fits the kernels, which take steps of 8."""
    return min(weight.shape) >= WIDE and not any(size % 8 for size in weight.shape)


def _on_cpu() -> dict[Precision, Callable[[Tensor], Product]]:
    kernels: dict[Precision, Callable[[Tensor], Product]] = {
        Precision.bf16: Bf16Matrix,
        Precision.int8: Int8Matrix,
    }
    if torch._C._dispatch_has_kernel_for_dispatch_key("mkldnn::_reorder_linear_weight", "CPU"):
        kernels[Precision.fp32_packed] = OneDnnMatrix
    if "fbgemm" in torch.backends.quantized.supported_engines:
        kernels |= {Precision.fp16: HalfMatrix, Precision.w8a8: FbgemmByteMatrix}
    return kernels


def _on_cuda() -> dict[Precision, Callable[[Tensor], Product]]:
    return {Precision.bf16: Bf16Matrix, Precision.w8a8: CudaByteMatrix}


_KERNELS = {"cpu": _on_cpu, "cuda": _on_cuda}


def packer(precision: Precision, device: torch.device) -> Callable[[Tensor], Product]:
    """Return what packs a matrix; ValueError where nothing does."""
    kernels = _KERNELS.get(device.type, dict)()
    if precision not in kernels:
        known = ", ".join(known.value for known in available(device))
        raise ValueError(
            f"precision={precision.value}: torch {torch.__version__} has no kernel for it on "
            f"{device.type}; there is {known}"
        )
    return kernels[precision]
