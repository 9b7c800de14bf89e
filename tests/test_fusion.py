import dataclasses
from itertools import permutations

import pytest
import torch
from torch import nn
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.models.systems.fusion import EDGES, NODES, outer_product
from taemi_lib.models.systems.misa import WEIGHTS, central_moment_discrepancy, orthogonality
from taemi_lib.models.systems.mult import CrossModalLayer
from taemi_lib.profiles import MODALITIES


def create(name, **changes):
    torch.manual_seed(0)
    return models.create(name, **SIZES | changes).eval()


def changed(clips, name):
    other = dataclasses.replace(clips, values=clips.values | {name: clips.values[name] + 1})
    return dataclasses.replace(other, pooled=clips.pooled + 1) if name == "text" else other


def head_input(model, clips):
    seen = []
    with model.head.register_forward_hook(lambda _, given, __: seen.append(given[0])):
        model(clips)
    return seen[0]


# --- tensor fusion


def test_the_outer_product_by_hand():
    product = outer_product(torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([[5.0]]))
    assert product.tolist() == [[1, 5, 3, 15, 2, 10, 6, 30]]  # 1, t, v, vt, a, at, av, avt
    pairs = outer_product(torch.tensor([[2.0, 3.0]]), torch.tensor([[10.0, 100.0]]))
    assert pairs.tolist() == [[1, 10, 100, 2, 20, 200, 3, 30, 300]]


def test_tfn_reads_every_uni_bi_and_trimodal_product():
    model, clips = create("tfn"), batch()
    rank = SIZES["width"] // 4
    vectors, _ = model.vectors(clips, clips.present)
    a, v, t = (model.reduce[name](vectors[name]) for name in MODALITIES)
    product = head_input(model, clips).view(4, rank + 1, rank + 1, rank + 1)
    assert torch.equal(product[:, 0, 0, 0], torch.ones(4))
    assert torch.equal(product[:, 1:, 0, 0], a) and torch.equal(product[:, 0, 1:, 0], v)
    assert torch.allclose(product[:, 1:, 0, 1:], a[:, :, None] * t[:, None])
    assert torch.allclose(
        product[:, 1:, 1:, 1:], a[:, :, None, None] * v[:, None, :, None] * t[:, None, None]
    )


def test_tfn_wide_reads_products_of_linear_maps_32_wide():
    model, clips = create("tfn_wide"), batch()
    vectors, _ = model.vectors(clips, clips.present)
    assert all(type(part) is nn.Linear for part in model.reduce.values())
    a, v, t = (model.reduce[name](vectors[name]) for name in MODALITIES)
    assert a.shape == v.shape == t.shape == (4, 32)
    assert all((part < 0).any() for part in (a, v, t))  # no ReLU before the product
    product = head_input(model, clips)
    assert torch.allclose(product, outer_product(a, v, t)) and product.shape == (4, 33**3)
    hidden = torch.relu(model.head[2](torch.relu(model.head[0](product))))
    assert torch.allclose(model(clips).prediction, model.head[4](hidden), atol=1e-6)


def test_tfn_wide_drops_products_and_nothing_beside_them():
    """Its unimodal part, which all fusion systems share, has dropouts of its own."""
    model = create("tfn_wide", dropout=0.25)
    assert model.dropout.p == 0.25
    for part in (model.reduce, model.head):
        assert not any(isinstance(inner, nn.Dropout) for inner in part.modules())
    torch.manual_seed(0)
    model.train()
    seen = []
    model.head.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    model(batch())
    # numbers alone go one by one: their products with others stay
    product = seen[0].unflatten(1, (33, 33, 33))
    gone = product[:, 1:, 0, 0] == 0
    assert 0.1 < gone.float().mean() < 0.4
    assert (product[:, 1:, 1:, 0].ne(0).any(dim=-1) & gone).any()


# --- dynamic fusion graph


def edges_at(model, open_edges):
    """The graph with efficacy 1 on these edges and 0 on all others, for every clip."""
    edges = [(part, node) for node, parts in EDGES.items() for part in parts]
    with torch.no_grad():
        model.judge[-1].weight.zero_()
        model.judge[-1].bias.copy_(
            torch.tensor([1e4 if edge in open_edges else -1e4 for edge in edges])
        )
    return model


def reads(model):
    """The modalities that the prediction depends on."""
    clips = batch()
    plain = model(clips).prediction
    return {
        name
        for name in MODALITIES
        if not torch.equal(plain, model(changed(clips, name)).prediction)
    }


def test_the_graph_has_seven_nodes_and_nineteen_edges():
    assert len(NODES) == 7 and sum(map(len, EDGES.values())) == 19
    assert EDGES["audio", "text"] == [("audio",), ("text",)] and len(EDGES[MODALITIES]) == 6
    assert reads(create("dynamic_fusion_graph")) == set(MODALITIES)


def test_efficacies_open_and_close_the_ways_through_the_graph():
    model = create("dynamic_fusion_graph")
    audio, text, pair = ("audio",), ("text",), ("audio", "text")
    assert reads(edges_at(model, [])) == set()
    assert reads(edges_at(model, [(text, "output")])) == {"text"}
    assert reads(edges_at(model, [(audio, pair), (text, pair)])) == set()  # made, but not read
    assert reads(edges_at(model, [(audio, pair), (pair, "output")])) == {"audio"}
    assert reads(
        edges_at(model, [(audio, pair), (text, pair), (pair, MODALITIES), (MODALITIES, "output")])
    ) == {"audio", "text"}


def test_an_efficacy_scales_what_it_lets_through():
    model, clips = create("dynamic_fusion_graph"), batch()
    vectors, _ = model.vectors(clips, clips.present)
    weights = model.efficacies(vectors)
    read = head_input(model, clips).split(SIZES["width"], dim=-1)  # the seven weighted nodes
    for part, name in zip(read, MODALITIES):
        assert torch.allclose(part, weights[(name,), "output"] * vectors[name])
    parts = [weights[(name,), ("audio", "vision")] * vectors[name] for name in ("audio", "vision")]
    node = model.combine["audio_vision"](torch.cat(parts, -1))
    assert torch.allclose(read[3], weights[("audio", "vision"), "output"] * node)
    assert all(weight.std() > 1e-4 for weight in weights.values())  # each clip has its own graph


# --- MulT


def test_a_cross_modal_layer_looks_into_the_other_sequence():
    """With keys of 0 every step of the target reads the mean of the source's real steps; the rest
    is residual."""
    torch.manual_seed(0)
    layer = CrossModalLayer(4, 2, dropout=0.0).eval()
    target, source = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    with torch.no_grad():
        layer.key_value.weight.copy_(torch.cat([torch.zeros(4, 4), torch.eye(4)]))
        layer.output.weight.copy_(torch.eye(4))
        for bias in (
            layer.key_value.bias,
            layer.output.bias,
            layer.mlp[-1].weight,
            layer.mlp[-1].bias,
        ):
            bias.zero_()
    normed = nn.functional.layer_norm(source, (4,))
    means = torch.stack([normed[0].mean(0), normed[1, :2].mean(0)])
    assert torch.allclose(layer(target, source, mask), target + means[:, None], atol=1e-6)


def test_a_cross_modal_layer_is_the_textbook_attention():
    torch.manual_seed(0)
    layer, textbook = (
        CrossModalLayer(8, 2, dropout=0.0).eval(),
        nn.MultiheadAttention(8, 2, batch_first=True),
    )
    target, source = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    textbook.load_state_dict(
        {
            "in_proj_weight": torch.cat([layer.query.weight, layer.key_value.weight]),
            "in_proj_bias": torch.cat([layer.query.bias, layer.key_value.bias]),
            "out_proj.weight": layer.output.weight,
            "out_proj.bias": layer.output.bias,
        }
    )
    source_normed = layer.norm(source)
    inner = (
        target
        + textbook(layer.norm(target), source_normed, source_normed, key_padding_mask=~mask)[0]
    )
    assert torch.allclose(layer(target, source, mask), inner + layer.mlp(inner), atol=1e-5)


def test_mult_looks_in_all_six_directions():
    model, clips = create("mult"), batch()
    assert set(model.cross) == {f"{s}_to_{m}" for s, m in permutations(MODALITIES, 2)}
    plain = model(clips).prediction
    for name, layer in model.cross.items():
        weight = layer.output.weight.detach().clone()
        with torch.no_grad():
            layer.output.weight.zero_()
        assert not torch.allclose(plain, model(clips).prediction, atol=1e-5), name
        with torch.no_grad():
            layer.output.weight.copy_(weight)


def test_a_targets_part_reads_the_sources_and_its_own_last_step():
    """Without its two sources a target is only itself: its part of the concatenation no longer
    moves with them."""
    model, clips, width = create("mult"), batch(), 2 * SIZES["width"]
    with torch.no_grad():
        model.residual[-1].weight.zero_()
        model.residual[-1].bias.zero_()
    audio_part = {
        name: head_input(model, changed(clips, name))[:, :width] for name in ("vision", "text")
    }
    plain = head_input(model, clips)[:, :width]
    assert all(not torch.allclose(plain, part, atol=1e-5) for part in audio_part.values())
    with torch.no_grad():
        for source in ("vision", "text"):
            model.cross[f"{source}_to_audio"].output.weight.zero_()
    alone = [
        head_input(model, given)[:, :width]
        for given in (clips, changed(clips, "vision"), changed(clips, "text"))
    ]
    assert torch.equal(alone[0], alone[1]) and torch.equal(alone[0], alone[2])


# --- MISA


def test_cmd_by_hand():
    spread, still = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [0.5]])
    # equal means; central moments .25, 0, .0625, 0 against zeros
    assert torch.isclose(central_moment_discrepancy(spread, still), torch.tensor(0.3125), atol=1e-5)
    assert (
        central_moment_discrepancy(spread, spread.flip(0)) < 1e-5
    )  # the same distribution, whoever it is
    moved = torch.tensor([[0.3, 0.4], [0.3, 0.4]])
    assert torch.isclose(
        central_moment_discrepancy(moved, torch.zeros(3, 2)), torch.tensor(0.5), atol=1e-5
    )  # 3-4-5


def test_orthogonality_by_hand():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    y = torch.tensor([[0.0, 5.0], [0.0, -5.0]])
    # columns centred, rows at length 1: X^T X = [[2, 0], [0, 0]], X^T Y = [[0, 2], [0, 0]]: mean
    # square 4 / 4
    assert orthogonality(x, x) == orthogonality(x, y) == 1.0
    other = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    unrelated = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert orthogonality(other, unrelated) == 0.0 and orthogonality(other, other) == 4.0


def representations(model, clips):
    vectors, _ = model.vectors(clips, clips.present)
    projected = {name: model.project[name](vectors[name]) for name in MODALITIES}
    return (
        projected,
        {n: model.shared(p) for n, p in projected.items()},
        {n: model.private[n](p) for n, p in projected.items()},
    )


def test_misas_losses_are_those_of_its_shared_and_private_vectors():
    model, clips = create("misa"), batch(12)
    losses = model(clips).losses
    u, c, p = representations(model, clips)
    pairs = [("audio", "vision"), ("audio", "text"), ("vision", "text")]
    similarity = sum(central_moment_discrepancy(c[x], c[y]) for x, y in pairs) / 3
    difference = sum(orthogonality(c[m], p[m]) for m in MODALITIES) + sum(
        orthogonality(p[x], p[y]) for x, y in pairs
    )
    reconstruction = (
        sum(((model.reconstruct[m](c[m] + p[m]) - u[m]) ** 2).mean() for m in MODALITIES) / 3
    )
    for name, expected in (
        ("similarity", similarity),
        ("difference", difference),
        ("reconstruction", reconstruction),
    ):
        assert torch.allclose(losses[name], WEIGHTS[name] * expected) and losses[name] > 0
    output = model(clips)
    plain = ((output.prediction - clips.labels) ** 2).mean()
    assert torch.allclose(model.loss(output, clips), plain + sum(losses.values()))


@pytest.mark.parametrize("name", WEIGHTS)
def test_minimising_a_loss_of_misa_does_what_it_is_for(name):
    model, clips = create("misa"), batch(12)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = model(clips).losses[name].item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(clips).losses[name]
        loss.backward()
        optimizer.step()
    assert model(clips).losses[name].item() < 0.6 * first


def test_misas_losses_are_not_taught_by_missing_tokens():
    model, clips = create("misa"), batch(12)
    half = torch.arange(12) < 6
    missing = dataclasses.replace(clips, present=clips.present | {"audio": half})
    before = model(missing).losses
    with torch.no_grad():
        model.vectors.streams["audio"].token.vector.add_(3.0)
    after = model(missing).losses
    assert all(torch.equal(before[name], after[name]) for name in before)
    nothing = dataclasses.replace(
        clips, present={name: torch.zeros(12, dtype=torch.bool) for name in MODALITIES}
    )
    assert all(loss == 0 for loss in model(nothing).losses.values())


def test_misa_predicts_from_all_six_vectors():
    model, clips = create("misa"), batch()
    plain = model(clips).prediction
    for part in (model.shared, *model.private.values()):
        bias = part[0].bias.detach().clone()
        with torch.no_grad():
            part[0].bias.add_(1.0)
        assert not torch.allclose(plain, model(clips).prediction, atol=1e-5)
        with torch.no_grad():
            part[0].bias.copy_(bias)


@pytest.mark.parametrize("name", ["tfn", "dynamic_fusion_graph", "mult", "misa"])
def test_every_modality_and_its_order_in_time_counts(name):
    model, clips = create(name), batch()
    plain = model(clips).prediction
    for modality in MODALITIES:
        assert not torch.allclose(plain, model(changed(clips, modality)).prediction, atol=1e-5)
    for modality in ("audio", "vision"):
        backwards = dataclasses.replace(
            clips, values=clips.values | {modality: clips.values[modality].flip(1)}
        )
        assert not torch.allclose(plain, model(backwards).prediction, atol=1e-6)


# --- the whole of a system, rebuilt from its equations


def test_efficacies_depend_on_every_modality_of_the_clip():
    model, clips = create("dynamic_fusion_graph"), batch()
    vectors, _ = model.vectors(clips, clips.present)
    before = model.efficacies(vectors)
    for name in MODALITIES:
        after = model.efficacies(vectors | {name: vectors[name] + 1})
        assert all(not torch.allclose(before[edge], after[edge]) for edge in before)
    assert isinstance(model.judge[1], nn.ReLU) and all(
        isinstance(part[1], nn.ReLU) for part in model.combine.values()
    )


def test_tfn_reduces_its_vectors_as_its_source_does_and_drops_products():
    model = create("tfn", dropout=0.25)
    assert (
        all(isinstance(part[1], nn.ReLU) for part in model.reduce.values())
        and model.dropout.p == 0.25
    )
    torch.manual_seed(0)
    model.train()
    seen = []
    model.head.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    model(batch())
    assert (seen[0] == 0).any(dim=0)[0]  # the product of the three ones is never 0 by itself


def test_mult_is_its_equations():
    model, clips = create("mult"), batch()
    clips.mask["audio"][0, 5:] = False
    sequences = {name: model.sequences[name](clips, clips.present[name]) for name in MODALITIES}
    parts = []
    for target in MODALITIES:
        values, mask = sequences[target]
        seen = [
            model.cross[f"{source}_to_{target}"](values, *sequences[source])
            for source in MODALITIES
            if source != target
        ]
        both = torch.cat(seen, dim=-1)
        assert isinstance(model.attend[target], CrossModalLayer)
        attended = model.attend[target](both, both, mask)  # every step asks
        parts.append(
            model.norm[target](attended[torch.arange(4), mask.sum(dim=1) - 1])
        )  # its last real one is read
    z = torch.cat(parts, dim=-1)
    assert torch.allclose(model(clips).prediction, model.head(z + model.residual(z)), atol=1e-5)


@pytest.mark.parametrize("name", MODALITIES)
def test_mult_knows_when(name):
    model, clips = create("mult"), batch()
    later = dataclasses.replace(clips, times=clips.times | {name: clips.times[name] + 1.3})
    assert not torch.allclose(model(later).prediction, model(clips).prediction, atol=1e-6)


def test_misas_six_vectors_attend_to_each_other():
    model, clips, seen = create("misa"), batch(), []
    model.transformer.register_forward_hook(lambda _, __, output: seen.append(output))
    model(clips)
    with torch.no_grad():
        model.private["text"][0].bias.add_(1.0)
    model(clips)
    assert all(
        not torch.allclose(seen[0][:, index], seen[1][:, index], atol=1e-5) for index in range(6)
    )


def test_misas_losses_weigh_what_the_original_gives_them_for_targets_36_times_larger_when_squared():
    original = {name: round(36 * weight, 10) for name, weight in WEIGHTS.items()}
    assert original == {"similarity": 0.7, "difference": 0.3, "reconstruction": 0.7}


def test_misas_losses_do_not_read_what_modality_dropout_left_out():
    model, clips = (
        create("misa", dropout=0.0, input_dropout=0.0, modality_dropout=0.5).train(),
        batch(12),
    )

    def losses():
        torch.manual_seed(0)
        return model(clips).losses

    before = losses()
    with torch.no_grad():
        model.vectors.streams["audio"].token.vector.add_(3.0)
    assert all(torch.equal(before[name], value) for name, value in losses().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_misas_losses_have_finite_gradients_in_half_precision(dtype):
    x, y = (torch.rand(4, 8).to(dtype).requires_grad_() for _ in range(2))
    (
        central_moment_discrepancy(x, y)
        + central_moment_discrepancy(x, x.detach())
        + orthogonality(x, y)
    ).backward()
    assert x.grad.isfinite().all() and y.grad.isfinite().all()
