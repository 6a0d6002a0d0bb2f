"""The two networks as the engine runs them: the weights of model/, laid out for speed.

All work is over rows (R, width), one row a token, whatever series or path it belongs to. What
depends on an id alone is a table: a look-up instead of a product. The arithmetic is that of
model/, only summed in another order.

A row must get the same bits whatever rows are beside it, so only kernels are used that work row by
row or round each element once: an elementwise sigmoid, say, takes another path for the last few
elements of a tensor, wherever these happen to be.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.kronos import FINE_HEADS, Kronos
from ..model.tokenizer import KronosTokenizer
from ..model.transformer import Attention, Block, RMSNorm, rotary_table
from ..wire.messages import ForecastSpec
from . import native
from .attention import Memory
from .linear import Gate, between, product
from .native import kernels


class Norm:
    """x / rms(x) · weight, in float32."""

    def __init__(self, norm: RMSNorm, device: torch.device) -> None:
        self.weight = norm.weight.detach().to(device, torch.float32)
        self.eps = norm.eps
        self._eps_there = torch.tensor(norm.eps, device=device)
        self._kernels = kernels(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        if self._kernels:
            return self._kernels.rms_norm(x, self.weight, self.eps)
        if x.is_cuda:
            return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps_there, length, length, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(self.weight).to(x.dtype)


class Turns:
    """Cosines and sines of rotary positions, (length, D) and (length, D/2) in float32."""

    def __init__(self, width: int, length: int, device: torch.device) -> None:
        self._cos, sin = rotary_table(width, length, device)
        self._sin = sin[:, : width // 2].contiguous()

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (R,) → (R, 1, D) and (R, 1, D/2)."""
        return self._cos[positions][:, None], self._sin[positions][:, None]


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """The half-rotation of x (R, heads, D), in float32; x may be gone afterwards."""
    cos, sin = turns
    if found := kernels(x):
        found.rotate(x, cos, sin)
        return x
    wide = x.float()
    left, right = wide.chunk(2, dim=-1)
    turned = wide * cos
    to_left, to_right = turned.chunk(2, dim=-1)
    to_left.addcmul_(right, sin, value=-1)
    to_right.addcmul_(left, sin)
    return turned.to(x.dtype)


class Layer:
    """A block, in one call where all of it is compiled."""

    def __init__(self, block: Block, dtype: torch.dtype, device: torch.device) -> None:
        a = block.self_attn
        self.heads, self.kv_heads, self.head_width = a.n_heads, a.n_kv_heads, a.head_width
        self._norm1 = Norm(block.norm1, device)
        self._norm2 = Norm(block.norm2, device)

        self._qkv = product(a.q_proj, a.k_proj, a.v_proj, dtype=dtype, device=device)
        self._out = product(a.out_proj, dtype=dtype, device=device)
        self._gate = Gate(block.ffn.w1, block.ffn.w3, dtype, device)
        self._w2 = product(block.ffn.w2, dtype=dtype, device=device)
        self._whole = self._compiled()

    def __call__(
        self, x: Tensor, turns: tuple[Tensor, Tensor], memory: Memory, step: int = 0
    ) -> Tensor:
        """x (R, d), which may be gone afterwards, at the positions of `turns` → (R, d); keys and
        values of these rows are appended to `memory`, of their own at `step`."""
        if self._whole and memory.native:
            x = x.contiguous()
            self._whole(x, turns, memory.native, step)
            return x
        qkv = self._qkv(self._norm1(x)).view(x.shape[0], -1, self.head_width)
        turned = rotate(qkv[:, : -self.kv_heads], turns)
        memory.append(turned[:, self.heads :], qkv[:, -self.kv_heads :], step)
        x = self._out.plus(memory.attend(turned[:, : self.heads], step + 1).flatten(1), x)
        return self._w2.plus(self._gate(self._norm2(x)), x)

    def _compiled(self) -> native.Layer | None:
        found = kernels(self._norm1.weight)
        parts = self._qkv, self._out, self._gate.compiled, self._w2
        products = [part for part in parts if isinstance(part, native.Product)]
        if found is None or len(products) < len(parts):
            return None
        norms = self._norm1.weight, self._norm2.weight
        heads = self.heads, self.kv_heads, self.head_width
        return native.Layer(found, norms, self._norm1.eps, products, heads)


class Stack:
    """The blocks of one network, all of one shape, and their rotary positions."""

    def __init__(
        self, blocks: nn.ModuleList, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers = [Layer(cast(Block, block), dtype, device) for block in blocks]
        self.dtype = between(dtype, device)
        self.kv_heads, self.head_width = 1, 2
        if self.layers:
            self.kv_heads, self.head_width = self.layers[0].kv_heads, self.layers[0].head_width
        self.turns = Turns(self.head_width, length, device)


class PairTable:
    """What a pair of ids gives by itself: one table (2^bits, width) for each."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self._first, self._second = first, second

    def __call__(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Ids (R,) → (R, width)."""
        return F.embedding(s1, self._first).add_(F.embedding(s2, self._second))


class FineHead:
    """Cross attention from the chosen coarse id to the normed hidden states."""

    def __init__(
        self, model: Kronos, turns: Turns | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        a: Attention = model.dep_layer.cross_attn
        self.head_width = a.head_width
        self._turns = turns
        queries: Tensor = a.q_proj(model.embedding.emb_s1.weight).detach()
        self._queries = queries.to(device, between(dtype, device))
        self._keys_values = product(a.k_proj, a.v_proj, dtype=dtype, device=device)
        self._out = product(a.out_proj, dtype=dtype, device=device)
        self._norm = Norm(model.dep_layer.norm, device)
        self._logits = product(model.head.proj_s2, dtype=dtype, device=device)

    def queries(self, coarse: Tensor, positions: Tensor) -> Tensor:
        """Coarse ids (R,) at the positions of their hidden states (R,) → (R, 4, D)."""
        q = F.embedding(coarse, self._queries).view(-1, FINE_HEADS, self.head_width)
        return q if self._turns is None else rotate(q, self._turns(positions))

    def keys_values(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Normed hidden states (R, d) at positions (R,) → keys and values (R, 4, D)."""
        both = self._keys_values(hidden).view(-1, 2 * FINE_HEADS, self.head_width)
        keys, values = both[:, :FINE_HEADS], both[:, FINE_HEADS:]
        return (keys if self._turns is None else rotate(keys, self._turns(positions))), values

    def logits(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """hidden (R, d), attended (R, 4, D) → fine logits (R, 2^s2_bits)."""
        return self._logits(self._norm(self._out.plus(attended.flatten(1), hidden)))


class Networks:
    """The model in the settings' dtype and the tokenizer, always in float32, on one device."""

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        spec: ForecastSpec,
        length: int,
        device: torch.device,
    ) -> None:
        """`length` is the number of positions that can be rotated to."""
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.dtype]
        self.dtype, self.device = dtype, device
        self.model = Stack(model.transformer, length, dtype, device)
        self.encoder = Stack(tokenizer.encoder, length, torch.float32, device)
        self.decoder = Stack(tokenizer.decoder, length, torch.float32, device)
        self._embed_bars = product(tokenizer.embed, dtype=torch.float32, device=device)
        self._latents = product(tokenizer.quant_embed, dtype=torch.float32, device=device)
        self._ids_of_latents = tokenizer.ids_of_latents
        self.restore = product(tokenizer.head, dtype=torch.float32, device=device)
        self.norm = Norm(model.norm, device)
        self.coarse_logits = product(model.head.proj_s1, dtype=dtype, device=device)
        width = model.dep_layer.cross_attn.head_width
        rotated = spec.fine_head_rotary == "trained"
        self.fine = FineHead(
            model, Turns(width, length, device) if rotated else None, dtype, device
        )
        self.tokens = _token_table(model, self.model.dtype, device)
        self.codes = _code_table(tokenizer, device)
        self._time = copy.deepcopy(model.time_emb).to(device)

    def times(self, stamps: Tensor) -> Tensor:
        """Time features (T, 5) → embeddings (T, d)."""
        embedded: Tensor = self._time(stamps.to(self.device))
        return embedded.to(self.model.dtype)

    def latent_input(self, z: Tensor) -> Tensor:
        """Normalised bars (R, 6) → the encoder's input (R, width)."""
        return self._embed_bars(z)

    def ids(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output (R, width) → coarse and fine ids (R,)."""
        return self._ids_of_latents(self._latents(h))


def _token_table(model: Kronos, dtype: torch.dtype, device: torch.device) -> PairTable:
    """fusion_proj(emb_s1·√d ‖ emb_s2·√d) of each id alone; the bias goes with the coarse one."""
    e = model.embedding
    left, right = e.fusion_proj.weight.chunk(2, dim=1)
    first = F.linear(e.emb_s1.weight * e.scale, left, e.fusion_proj.bias)
    second = F.linear(e.emb_s2.weight * e.scale, right)
    return PairTable(first.detach().to(device, dtype), second.detach().to(device, dtype))


def _code_table(tokenizer: KronosTokenizer, device: torch.device) -> PairTable:
    """post_quant_embed(codes) of each id alone; the bias goes with the coarse one."""
    linear, bits = tokenizer.post_quant_embed, tokenizer.s1_bits
    s1 = torch.arange(2**tokenizer.s1_bits, device=linear.weight.device)
    s2 = torch.arange(2**tokenizer.s2_bits, device=linear.weight.device)
    coarse = tokenizer.codes_of(s1, torch.zeros_like(s1))[:, :bits]
    fine = tokenizer.codes_of(torch.zeros_like(s2), s2)[:, bits:]
    first = F.linear(coarse, linear.weight[:, :bits], linear.bias)
    second = F.linear(fine, linear.weight[:, bits:])
    return PairTable(first.detach().to(device), second.detach().to(device))
