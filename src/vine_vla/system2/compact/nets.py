"""Small nets on graphs whose M ensemble members are one computation: stacked weights, batched products.

Deep sets with two rounds: each object is looked at with regard to the subgoal's arguments, the
objects are pooled, and the pooled picture is shown to every object again. Sums and maxima over
objects make the answers independent of their order.

Features come first and graphs last in every array, so that each step runs along unbroken memory however
few objects or features there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vine_vla.learning.device import CPU, to_device
from vine_vla.system2.compact.features import GraphInputs, SubgoalInputs


def dropout(x: Tensor, share: float) -> Tensor:
    """`x` with a `share` of its values dropped, as in training.

    Drawn on the CPU, so that a seed means the same on every device.
    """
    if share <= 0 or not x.numel():
        return x
    kept = torch.empty(x.shape, dtype=x.dtype).bernoulli_(1 - share).div_(1 - share)
    return x * kept.to(x.device)


class Dropout(nn.Module):
    """`dropout` of a `share` in training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.share) if self.training else x


class StackedLinear(nn.Module):
    """M linear maps at once. Weights [M, inputs, outputs], biases [M, outputs]."""

    def __init__(
        self, members: int, inputs: int, outputs: int, generator: torch.Generator, scale: float = 1.0
    ) -> None:
        super().__init__()
        bound = scale * math.sqrt(3.0 / max(inputs, 1))
        weight = (2 * torch.rand(members, inputs, outputs, generator=generator) - 1) * bound
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [M, inputs, ...], an input for each member -> [M, outputs, ...]."""
        members, inputs, outputs = self.weight.shape
        flat = x.reshape(members, inputs, x[0, 0].numel())
        answer = torch.baddbmm(self.bias[:, :, None], self.weight.mT, flat)
        return answer.reshape(members, outputs, *x.shape[2:])

    def shared(self, x: Tensor) -> Tensor:
        """The same x [inputs, ...] for every member -> [M, outputs, ...]; one product for all of them."""
        members, inputs, outputs = self.weight.shape
        weight = self.weight.mT.reshape(members * outputs, inputs)
        answer = torch.addmm(self.bias.reshape(-1, 1), weight, x.reshape(inputs, x[0].numel()))
        return answer.reshape(members, outputs, *x.shape[1:])


class SubgoalNet(nn.Module):
    """(graph, subgoal) -> one vector for the pair and one for every object, per member.

    Args:
        members: M. token, context, arity: widths from the `Encoder`. width: d.
        heads: name -> outputs of a head on the pair's vector.
        object_heads: name -> outputs of a head on every object's vector.
    """

    def __init__(
        self,
        members: int,
        token: int,
        context: int,
        arity: int,
        width: int,
        generator: torch.Generator,
        heads: Mapping[str, int],
        object_heads: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int, scale: float = 1.0) -> StackedLinear:
            return StackedLinear(members, inputs, outputs, generator, scale)

        self.arity, self.members, self.width = arity, members, width
        self.look = linear(token, width)
        self.look_on = linear(width, width)
        self.gather = linear((2 + arity) * width, width)
        self.context = linear(context, width)
        self.again = linear(width, width)
        self.show = linear(width, width)
        self.judge = linear((3 + arity) * width, width)
        self.heads = nn.ModuleDict({name: linear(width, n, 0.3) for name, n in heads.items()})
        self.object_heads = nn.ModuleDict(
            {name: linear(width, n, 0.3) for name, n in (object_heads or {}).items()}
        )

    @property
    def device(self) -> torch.device:
        return self.judge.weight.device

    def forward(self, x: SubgoalTensors, share: float = 0.0) -> tuple[Tensor, Tensor]:
        """Vectors of the pairs [M, d, N] and of the objects [M, d, O, N].

        In training a `share` of the pairs' vectors is dropped, and of the tokens' features, each
        feature for all objects of a graph at once: no single feature may carry the answer.
        """
        tokens = x.tokens
        if share > 0:
            kept = torch.rand(tokens.shape[0], 1, tokens.shape[2]) > share
            tokens = tokens * kept.to(tokens.device)
        h = self._there(self.look_on(self.look.shared(tokens).relu_()).relu_(), x)
        pooled = torch.cat([h.sum(2) / 4, h.amax(2), *self._arguments(h, x.args)], 1)
        picture = F.relu(self.gather(pooled) + self.context.shared(x.context))
        picture = dropout(picture, share)
        h = self._there(self.again(h).add_(self.show(picture)[:, :, None]).relu_(), x)
        pooled = torch.cat([h.sum(2) / 4, h.amax(2), *self._arguments(h, x.args), picture], 1)
        pair = F.relu(self.judge(pooled))
        return dropout(pair, share), h

    def _there(self, h: Tensor, x: SubgoalTensors) -> Tensor:
        return h if x.full else h * x.present

    def _arguments(self, h: Tensor, args: Tensor) -> list[Tensor]:
        members, width, _, n = h.shape
        found = []
        for a in range(self.arity):
            index = args[:, a].clamp(min=0).expand(members, width, 1, n)
            found.append(h.gather(2, index)[:, :, 0] * (args[:, a] >= 0))
        return found


class GraphNet(nn.Module):
    """Graph -> one vector a member, from objects and all ordered pairs of objects."""

    def __init__(
        self,
        members: int,
        base: int,
        pair: int,
        context: int,
        width: int,
        generator: torch.Generator,
        outputs: int,
        bias: float = 0.0,
    ) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int, scale: float = 1.0) -> StackedLinear:
            return StackedLinear(members, inputs, outputs, generator, scale)

        narrow = width // 2
        self.members = members
        self.one = linear(base, narrow)
        self.other = linear(base, narrow)
        self.between = linear(pair, narrow)
        self.judge_pair = linear(narrow, narrow)
        self.look = linear(base, width)
        self.around = linear(2 * narrow, width)
        self.context = linear(context, width)
        self.gather = linear(2 * width, width)
        self.again = linear(width, width)
        self.show = linear(width, width)
        self.judge = linear(3 * width, width)
        self.head = linear(width, outputs, 0.3)
        with torch.no_grad():
            self.head.bias.fill_(bias)

    @property
    def device(self) -> torch.device:
        return self.judge.weight.device

    def forward(self, x: GraphTensors) -> Tensor:
        """Outputs of the head. [M, outputs, N]"""
        one, other = self.one.shared(x.tokens), self.other.shared(x.tokens)
        # The pairs are most of the work, and what they wait for is memory: no copy that can be left out.
        pairs = self.between.shared(x.pairs).add_(one[:, :, None]).add_(other[:, :, :, None]).relu_()
        pairs = self.judge_pair(pairs).relu_()
        if not x.full:
            pairs = pairs * x.present[:, None]
        around = torch.cat([pairs.sum(2) / 4, pairs.amax(2)], 1)
        h = self._there(F.relu(self.look.shared(x.tokens).add_(self.around(around))), x)
        pooled = torch.cat([h.sum(2) / 4, h.amax(2)], 1)
        picture = F.relu(self.gather(pooled) + self.context.shared(x.context))
        h = self._there(F.relu(self.again(h).add_(self.show(picture)[:, :, None])), x)
        pooled = torch.cat([h.sum(2) / 4, h.amax(2), picture], 1)
        answer: Tensor = self.head(F.relu(self.judge(pooled)))
        return answer

    def _there(self, h: Tensor, x: GraphTensors) -> Tensor:
        return h if x.full else h * x.present


class SubgoalTensors:
    """`SubgoalInputs` as tensors. Attributes tokens, present (float), args, context, and whether no graph
    has padding (full)."""

    def __init__(self, inputs: SubgoalInputs, device: torch.device = CPU) -> None:
        self.tokens = to_device(np.ascontiguousarray(inputs.tokens, np.float32), device)
        self.present = to_device(inputs.present.astype(np.float32), device)
        self.args = to_device(np.ascontiguousarray(inputs.args), device)
        self.context = to_device(np.ascontiguousarray(inputs.context, np.float32), device)
        self.full = bool(inputs.present.all())

    def __len__(self) -> int:
        return len(self.args)

    def __getitem__(self, index: Tensor) -> SubgoalTensors:
        part = object.__new__(SubgoalTensors)
        part.tokens, part.present = self.tokens[..., index], self.present[..., index]
        part.args, part.context = self.args[index], self.context[..., index]
        part.full = self.full
        return part


class GraphTensors:
    """`GraphInputs` as tensors. Attributes tokens, pairs, present (float), context, and whether no graph
    has padding (full)."""

    def __init__(self, inputs: GraphInputs, device: torch.device = CPU) -> None:
        self.tokens = to_device(np.ascontiguousarray(inputs.tokens, np.float32), device)
        self.pairs = to_device(np.ascontiguousarray(inputs.pairs, np.float32), device)
        self.present = to_device(inputs.present.astype(np.float32), device)
        self.context = to_device(np.ascontiguousarray(inputs.context, np.float32), device)
        self.full = bool(inputs.present.all())

    def __len__(self) -> int:
        return self.tokens.shape[-1]

    def __getitem__(self, index: Tensor) -> GraphTensors:
        part = object.__new__(GraphTensors)
        part.tokens, part.pairs = self.tokens[..., index], self.pairs[..., index]
        part.present, part.context = self.present[..., index], self.context[..., index]
        part.full = self.full
        return part


def member(net: nn.Module, m: int) -> dict[str, Tensor]:
    """The weights of member `m` alone, as a state of a net with one member."""
    return {name: value[m : m + 1].clone() for name, value in net.state_dict().items()}
