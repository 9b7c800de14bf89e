"""Fusion of three vectors, as the field does it: tensor fusion and the dynamic fusion graph.

The unimodal part of these two and of MISA is the same, and is TAEMI's: projection, time features,
self-attention, a learned query that pools (not a mean, which would dilute short events), the text
vector, tokens and modality dropout. `constant_query` has it, too, and only concatenates. What
differs from it beside the fusion: text passes a linear layer to the model's width here (and sound,
face and text a bottleneck in tensor fusion), and each system has its own learning rate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taemi_lib.batches import Batch
from taemi_lib.models.attention import LearnedQuery, SingleQueryAttention
from taemi_lib.models.base import Output, Sizes, Stream, System, TextVector, head
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.profiles import MODALITIES


class ModalityVectors(nn.Module):
    """One vector (B, d) for each modality, and the attention that pooled sound and face."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.query = LearnedQuery(sizes.width)
        self.streams = nn.ModuleDict({name: Stream(name, sizes) for name in ("audio", "vision")})
        self.pool = nn.ModuleDict(
            {name: SingleQueryAttention(sizes.width, sizes.heads) for name in self.streams}
        )
        self.text = TextVector(sizes)
        self.project_text = nn.Linear(sizes.text_dim, sizes.width)

    def forward(
        self, batch: Batch, kept: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        text = self.text(batch, kept["text"])  # (B, text_dim)
        vectors, attention = {}, {}
        for name, stream in self.streams.items():
            vectors[name], attention[name] = self.pool[name](
                self.query(text), *stream(batch, kept[name])
            )
        return vectors | {"text": self.project_text(text)}, attention


def outer_product(*vectors: Tensor) -> Tensor:
    """[1; x] (x) [1; y] (x) ... flattened: (B, n), (B, m), ... -> (B, (n + 1) (m + 1) ...); the
    last index runs fastest.

    Its entries are 1, every number alone, and every product of two or more numbers of different
    vectors.
    """
    product = vectors[0].new_ones(len(vectors[0]), 1)
    for vector in vectors:
        with_one = torch.cat([vector.new_ones(len(vector), 1), vector], dim=-1)  # (B, n + 1)
        product = torch.einsum("bi,bj->bij", product, with_one).flatten(1)
    return product


class TensorFusionNetwork(System):
    """Tensor fusion: the outer product of [1; z_a], [1; z_v], [1; z_t] holds every uni-, bi- and
    trimodal product (TFN, Zadeh 2017).

        z_m = Dropout(ReLU(W_m h_m))            (B, r), h_m from ModalityVectors
        y = head([1; z_a] (x) [1; z_v] (x) [1; z_t])            (B, (r + 1)^3) -> (B, 6)
    Source: Zadeh et al. 2017. Faithful: the product with its ones, small z through ReLU, dropout on
    the product. Reduced: the unimodal networks (see fusion.py; the original: mean of sound and face
    -> MLP, LSTM over the words); the head is everybody's instead of two hidden layers; r = width /
    4, at most 32, because the head grows with r^3. Its own sizes undo that: `rank` is r (0: the
    rule above); `small` is what z passes: "relu" as above, "public" as in the public code (none on
    the text, no dropout before the product), "linear" nothing at all. With what their searches
    chose, it cannot be told from `tfn_wide` in `cue` (notebook 07, section 6).
    """

    name = "tfn"
    own = {"rank": (0, 8, 16, 32), "small": ("relu", "public", "linear")}
    own_beyond = {"rank": {32: 48}}

    def build(self, sizes: Sizes) -> None:
        rank = self.own_sizes.get("rank") or max(1, min(32, sizes.width // 4))
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.vectors = ModalityVectors(sizes)
        self.reduce = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(sizes.width, rank), *self._small(name, sizes))
                for name in MODALITIES
            }
        )
        self.dropout = nn.Dropout(sizes.dropout)
        self.head = head((rank + 1) ** len(MODALITIES), sizes)

    def _small(self, modality: str, sizes: Sizes) -> list[nn.Module]:
        """What a modality's small vector passes before the product."""
        small = self.own_sizes.get("small", "relu")
        if small == "relu":
            return [nn.ReLU(), nn.Dropout(sizes.dropout)]
        return [nn.ReLU()] if small == "public" and modality != "text" else []

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        vectors, attention = self.vectors(batch, kept)
        product = outer_product(*(self.reduce[name](vectors[name]) for name in MODALITIES))
        return Output(self.head(self.dropout(product)), attention, kept)


class WideTensorFusionNetwork(TensorFusionNetwork):
    """Tensor fusion without the bottleneck: linear maps of width 32, dropout on their product alone
    (TFN, Zadeh 2017).

        z_m = W_m h_m                           (B, 32), h_m from ModalityVectors
        y = W3 ReLU(W2 ReLU(W1 Dropout([1; z_a] (x) [1; z_v] (x) [1; z_t])))        (B, 33^3) -> (B,
                                                                                    outputs)
    Source: Zadeh et al. 2017 and its public code. Faithful: the product with its ones; no ReLU
    before it on the text, no dropout after the z, dropout on the product; two hidden layers behind
    it. Decided: 32 numbers for each modality (the code and MMSA: between 4 and 256). Reduced: the
    unimodal networks (see fusion.py); the z of sound and face are linear, too, where the original
    has them behind the last ReLU of its networks; a linear output under MSE instead of a sigmoid to
    the labels' range under L1. `tfn` beside it has the bottleneck.
    """

    name = "tfn_wide"
    own = {}

    def build(self, sizes: Sizes) -> None:
        super().build(sizes)
        self.reduce = nn.ModuleDict({name: nn.Linear(sizes.width, 32) for name in MODALITIES})
        self.head = nn.Sequential(
            nn.Linear((32 + 1) ** len(MODALITIES), sizes.mlp_width),
            nn.ReLU(),
            nn.Linear(sizes.mlp_width, sizes.mlp_width),
            nn.ReLU(),
            nn.Linear(sizes.mlp_width, sizes.outputs),
        )


# The graph's nodes, smallest first: each is made of the nodes that are proper subsets of it.
Node = tuple[str, ...]
NODES: tuple[Node, ...] = (
    ("audio",),
    ("vision",),
    ("text",),
    ("audio", "vision"),
    ("audio", "text"),
    ("vision", "text"),
    MODALITIES,
)
EDGES: dict[Node | str, list[Node]] = {
    node: [part for part in NODES if set(part) < set(node)] for node in NODES if len(node) > 1
}
EDGES["output"] = list(NODES)  # 3 * 2 + 6 + 7 = 19 edges in all


class DynamicFusionGraph(System):
    """Dynamic fusion graph: for each clip, weights decide how much every modality and combination
    counts (Graph-MFN, Zadeh 2018).

        n_m = h_m for each modality                                              (B, d)
        n_S = ReLU(W_S [w n_P for the proper parts P of S])                      (B, d)
        y = head([w n_S for all seven S])                                        (B, 7 d) -> (B, 6)
        w = sigmoid(MLP([n_a; n_v; n_t])), one efficacy for each edge            (B, 19)
    Source: Zadeh et al. 2018 (Graph-MFN). Faithful: nodes, edges and efficacies, which depend on
    the clip. Reduced: the original's recurrent memories, fused anew at every word of aligned
    sequences; ours are not aligned, so there is one graph a clip, over pooled vectors (see
    fusion.py). The paper's "dynamic fusion" cites a reading-comprehension network (docs/paper.md
    row 19): this is what the field means by it. The public code's nodes are linear and its
    efficacies pass no sigmoid: its own sizes `nodes` and `efficacies` offer both.
    """

    name = "dynamic_fusion_graph"
    own = {"nodes": ("relu", "linear"), "efficacies": ("sigmoid", "linear")}

    def build(self, sizes: Sizes) -> None:
        self.modality_dropout = ModalityDropout(sizes.modality_dropout)
        self.vectors = ModalityVectors(sizes)
        self.combine = nn.ModuleDict(
            {
                _name(node): nn.Sequential(
                    nn.Linear(len(parts) * sizes.width, sizes.width),
                    nn.ReLU() if self.own_sizes["nodes"] == "relu" else nn.Identity(),
                    nn.Dropout(sizes.dropout),
                )
                for node, parts in EDGES.items()
                if node != "output"
            }
        )
        self.judge = nn.Sequential(
            nn.Linear(len(MODALITIES) * sizes.width, sizes.width),
            nn.ReLU(),
            nn.Dropout(sizes.dropout),
            nn.Linear(sizes.width, sum(map(len, EDGES.values()))),
        )
        self.head = head(len(NODES) * sizes.width, sizes)

    def efficacies(self, vectors: dict[str, Tensor]) -> dict[tuple[Node, Node | str], Tensor]:
        """{(part, node): (B, 1)} weights of all edges, between 0 and 1 where a sigmoid makes them;
        node "output" is what the head reads."""
        weights = self.judge(torch.cat([vectors[name] for name in MODALITIES], dim=-1))
        if self.own_sizes["efficacies"] == "sigmoid":
            weights = weights.sigmoid()
        edges = [(part, node) for node, parts in EDGES.items() for part in parts]
        return dict(zip(edges, weights.split(1, dim=-1), strict=True))

    def forward(self, batch: Batch) -> Output:
        self.check(batch)
        kept = self.modality_dropout(batch.present)
        vectors, attention = self.vectors(batch, kept)
        weights = self.efficacies(vectors)
        nodes: dict[Node | str, Tensor] = {(name,): vectors[name] for name in MODALITIES}
        for node, parts in EDGES.items():
            weighted = torch.cat([weights[part, node] * nodes[part] for part in parts], dim=-1)
            nodes[node] = (
                self.head(weighted) if node == "output" else self.combine[_name(node)](weighted)
            )
        return Output(nodes["output"], attention, kept)


def _name(node: Node | str) -> str:
    return "_".join(node)
