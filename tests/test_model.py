"""Both GRU variants against independent code, the three input modes, dropout, resets, initial weights, activations."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from faster.minibatch import MiniBatch
from model import GRU4Rec, GRUCell, dropout, final_activation

MODES = {
    "one-hot": {},
    "separate": {"embedding_dim": 5},
    "shared": {"constrained_embedding": True},
}
N_ITEMS = 12


def make_model(mode, **settings):
    torch.manual_seed(0)
    model = GRU4Rec(N_ITEMS, hidden_size=6, **MODES[mode], **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7)
    return model


SCORED = [1, 2, 3, 7]


def step(model, hidden=None, starts=(False, False, False)):
    """Feed three lanes the items 4, 4 and 9: the scores of ``SCORED``, and the next hidden state."""
    distinct, scored = torch.tensor([4, 9]), torch.tensor(SCORED)
    input_rows = torch.cat((distinct, scored)) if model.shared else distinct
    batch = MiniBatch(input_rows, torch.tensor([[0, 0, 1]]), scored, None, torch.tensor([starts]), slice(None))
    hidden = torch.randn(model.num_layers, 3, model.hidden_size) if hidden is None else hidden
    scores, hidden = model(model.look_up(batch), batch.input_place, hidden, batch.starts)
    return scores[:, -len(SCORED) :], hidden


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_cell_is_the_papers():
    cell = GRUCell(4, reset_after=False).double()
    with torch.no_grad():
        cell.weight.normal_()
        cell.bias.normal_()
    x, h = torch.randn(3, 12, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    u_r, u_z, u_c = cell.weight.detach().numpy().reshape(3, 4, 4)
    b_r, b_z, b_c = cell.bias.detach().numpy().reshape(3, 4)
    x_r, x_z, x_c = x.numpy().reshape(3, 3, 4).transpose(1, 0, 2)
    h = h.numpy()
    r, z = sigmoid(x_r + h @ u_r.T + b_r), sigmoid(x_z + h @ u_z.T + b_z)
    c = np.tanh(x_c + (r * h) @ u_c.T + b_c)
    np.testing.assert_allclose(cell(x, torch.from_numpy(h)).detach().numpy(), (1 - z) * h + z * c, rtol=1e-12)


def test_cell_with_reset_after_is_pytorchs_with_its_update_gate_turned_round():
    ours, theirs = GRUCell(4, reset_after=True), nn.GRUCell(5, 4)
    turned = torch.ones(12)
    turned[4:8] = -1
    with torch.no_grad():
        ours.weight.copy_(theirs.weight_hh * turned[:, None])
        ours.bias.copy_(theirs.bias_hh * turned)
    x, h = torch.randn(3, 5), torch.randn(3, 4)
    projected = (x @ theirs.weight_ih.T + theirs.bias_ih) * turned
    torch.testing.assert_close(ours(projected, h), theirs(x, h))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_layers", [1, 3])
def test_training_scores_are_those_of_scoring_all_items(mode, num_layers):
    model = make_model(mode, num_layers=num_layers, final_act="linear").eval()
    hidden = torch.randn(num_layers, 3, 6)
    scores, next_hidden = step(model, hidden)
    all_scores, all_hidden = model.score_all(torch.tensor([4, 4, 9]), hidden, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(scores, all_scores[:, SCORED])
    torch.testing.assert_close(next_hidden, all_hidden)


@pytest.mark.parametrize("mode", MODES)
def test_a_start_is_a_zero_state_for_that_lane_alone(mode):
    model = make_model(mode, num_layers=2)
    hidden = torch.randn(2, 3, 6)
    zeroed = hidden.clone()
    zeroed[:, 1] = 0
    torch.testing.assert_close(step(model, hidden, starts=(False, True, False)), step(model, zeroed))
    assert (hidden[:, 1] != 0).all()  # the state that was passed in is left alone


@pytest.mark.parametrize("mode", MODES)
def test_one_hot_input_equals_a_product_with_one_hot_vectors(mode):
    model = make_model(mode, final_act="linear").eval()
    inputs, hidden, none = torch.tensor([4, 4, 9]), torch.randn(1, 3, 6), torch.zeros(3, dtype=torch.bool)
    table = getattr(model, model.input_table)
    one_hot = nn.functional.one_hot(inputs, N_ITEMS).float()
    x = model.project(one_hot @ table)
    torch.testing.assert_close(model.advance(x, hidden, none), model.score_all(inputs, hidden, none)[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_hidden_dropout_acts_in_every_mode_and_layer_on_what_is_carried(mode, num_layers):
    model = make_model(mode, num_layers=num_layers, dropout_hidden=0.5)
    hidden = torch.stack([step(model)[1] for _ in range(200)])
    dropped = (hidden == 0).float().mean(dim=(0, 2, 3))
    assert ((dropped > 0.4) & (dropped < 0.6)).all(), dropped
    assert (step(model.eval())[1] != 0).all()


def test_hidden_dropout_keeps_the_mean():
    model = make_model("one-hot", dropout_hidden=0.5)
    hidden = torch.randn(1, 3, 6)
    mean = torch.stack([step(model, hidden)[1] for _ in range(4000)]).mean(dim=0)
    torch.testing.assert_close(mean, step(model.eval(), hidden)[1], rtol=0, atol=0.05)


def test_what_is_scored_is_what_is_carried():
    model = make_model("one-hot", dropout_hidden=0.5, final_act="linear")
    scores, hidden = step(model)
    expected = hidden[0] @ model.output_embedding[SCORED].T + model.output_bias[SCORED]
    torch.testing.assert_close(scores, expected)


def test_input_dropout_takes_components_of_an_embedding_and_whole_one_hot_inputs():
    one_hot = make_model("one-hot", dropout_input=0.25).project(torch.ones(400, 18))
    assert all(len(row.unique()) == 1 for row in one_hot)
    assert (one_hot[:, 0] == 0).float().mean() == pytest.approx(0.25, abs=0.08)
    model = make_model("shared", dropout_input=0.25)
    nn.init.eye_(model.projections[0].weight)
    nn.init.zeros_(model.projections[0].bias)
    embedding = model.project(torch.ones(1200, 6))[:, :6].detach()
    assert (embedding == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert any(len(row.unique()) == 2 for row in embedding)
    for kept in (one_hot, embedding):
        assert kept.max() == pytest.approx(1 / 0.75)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.93])
def test_dropout_drops_with_its_probability_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.randn(300, 200, dtype=torch.float64, requires_grad=True)
    dropped = dropout(x, p)
    kept = dropped != 0
    assert (~kept).double().mean() == pytest.approx(p, abs=4 * (0.25 / x.numel()) ** 0.5 if p else 0)
    torch.testing.assert_close(dropped, torch.where(kept, x / (1 - p), 0))
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    torch.testing.assert_close(gradient, kept.double() / (1 - p))


@pytest.mark.parametrize("mode", MODES)
def test_reset_gate_follows_the_mode_unless_chosen(mode):
    def variants(**settings):
        return [cell.reset_after for cell in make_model(mode, num_layers=2, **settings).cells]

    assert variants() == [mode != "one-hot"] * 2
    assert variants(reset_gate="before") == [False, False]
    assert variants(reset_gate="after") == [True, True]


@pytest.mark.parametrize("mode", MODES)
def test_initial_weights_fill_their_range_gate_by_gate(mode):
    torch.manual_seed(1)
    n_items, size = 3000, 40
    settings = {"embedding_dim": 25} if mode == "separate" else MODES[mode]
    model = GRU4Rec(n_items, hidden_size=size, num_layers=2, **settings)
    input_size = 25 if mode == "separate" else size
    limits = {"output_embedding": math.sqrt(6 / (n_items + size)), "cells": math.sqrt(6 / (2 * size))}
    limits |= {"input_weight": math.sqrt(6 / (n_items + size)), "input_embedding": math.sqrt(6 / (n_items + 25))}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == 0).all()
        else:
            first_projection = name == "projections.0.weight" and mode != "one-hot"
            limit = math.sqrt(6 / (size + input_size)) if first_projection else limits.get(name, limits["cells"])
            assert parameter.abs().max() <= limit
            assert parameter.abs().max() > 0.97 * limit
            assert parameter.mean().abs() < 0.1 * limit


@pytest.mark.parametrize(("sigma", "low", "high"), [(0.3, -0.3, 0.3), (-2, 0, math.sqrt(6 / 80))])
def test_sigma_sets_the_range(sigma, low, high):
    weight = GRU4Rec(500, hidden_size=40, sigma=sigma).cells[0].weight
    assert low <= weight.min() < low + 0.01
    assert high - 0.01 < weight.max() <= high


def test_final_activations():
    scores = torch.tensor([-2.0, 0.0, 3.0])
    expected = {
        "linear": [-2, 0, 3],
        "softmax": [-2, 0, 3],
        "softmax_logit": [-2, 0, 3],
        "relu": [0, 0, 3],
        "tanh": [math.tanh(-2), 0, math.tanh(3)],
        "elu-0.5": [0.5 * (math.exp(-2) - 1), 0, 3],
        "leaky-.1": [-0.2, 0, 3],
    }
    for name, values in expected.items():
        torch.testing.assert_close(final_activation(name)(scores), torch.tensor(values, dtype=torch.float32))


@pytest.mark.parametrize("name", ["elu", "elu-0", "leaky--1", "selu", "elu-1e3", ""])
def test_unknown_activations_are_refused(name):
    with pytest.raises(ValueError, match="elu-0.5"):
        final_activation(name)


def test_the_input_of_one_lane_does_not_reach_another():
    model = make_model("separate", num_layers=2).eval()
    hidden, none = torch.randn(2, 3, 6), torch.zeros(3, dtype=torch.bool)
    one, _ = model.score_all(torch.tensor([4, 4, 9]), hidden, none)
    other, _ = model.score_all(torch.tensor([4, 0, 9]), hidden, none)
    torch.testing.assert_close(one[[0, 2]], other[[0, 2]])
    assert (one[1] != other[1]).all()
