"""The seven functions, against autograd, against MLPClassifier, and stacked against alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

from scratchnn._kernels import get_grad, matmul
from scratchnn.activations import ACTIVATIONS
from scratchnn.batch import Batch
from scratchnn.losses import LOSSES, MeanLoss, mean_absolute_error
from scratchnn.network import (
    Coeffs,
    calc_loss,
    calc_preds,
    execute_epoch,
    init_coeffs,
    model_accuracy,
    store_grads,
    train_model,
    update_coeffs,
)
from scratchnn.training.buffers import pack

HAND_CALLS = [
    calc_loss,
    model_accuracy,
    lambda coeffs, indeps, deps: store_grads(coeffs, Batch(indeps, deps)),
    lambda coeffs, indeps, deps: execute_epoch(coeffs, [Batch(indeps, deps)], partial(update_coeffs, lr=0.1)),
]
KINDS = {"binary": (1, "logistic"), "multiclass": (3, "softmax"), "multilabel": (3, "logistic")}
HIDDEN = [(), (4,), (4, 3)]


def make_problem(kind, hidden, *, activation="relu", hidden_bias=True, models=(), n_samples=7, seed=0):
    """Return a buffer of coefficients (off zero everywhere), inputs shared by all models, targets and row weights."""
    generator = torch.Generator().manual_seed(seed)
    n_outputs, output = KINDS[kind]
    options = {"generator": generator, "activation": activation, "output": output, "hidden_bias": hidden_bias}
    buffer = pack(init_coeffs(5, hidden, n_outputs, **options))
    flat = torch.randn(*models, len(buffer.flat), generator=generator, dtype=torch.float64) / 2
    indeps = torch.randn(n_samples, 5, generator=generator, dtype=torch.float64)
    codes = torch.arange(n_samples) % (2 if kind == "binary" else 3)
    deps = codes[:, None] if kind == "binary" else torch.eye(3)[codes]
    if kind == "multilabel":
        deps = (torch.rand(n_samples, 3, generator=generator) > 0.5).int()
    weights = torch.rand(n_samples, generator=generator, dtype=torch.float64) * 2
    return replace(buffer, flat=flat), indeps, deps.double(), weights


def view_with_grads(buffer):
    """Return the network of a buffer, whose gradients are views of the buffer's."""
    get_grad(buffer.flat)
    return buffer.as_coeffs()


def store_mean_grads(buffer, indeps, deps, weights, loss):
    """Store the gradients, and return the mean loss of the logits."""
    batch, mean = Batch(indeps, deps, weights), MeanLoss(loss, buffer.output)
    mean.add(store_grads(view_with_grads(buffer), batch, loss), batch)
    return mean.calc()


class HandDerived(torch.autograd.Function):
    """The loss as a function of the flat coefficients, whose gradient is the one that `store_grads` stores."""

    @staticmethod
    def forward(ctx, flat, buffer, *arguments):
        buffer = replace(buffer, flat=flat.detach().clone())
        loss = store_mean_grads(buffer, *arguments)
        ctx.save_for_backward(buffer.flat.grad.clone())
        return loss

    @staticmethod
    def backward(ctx, grad):
        return grad.unsqueeze(-1) * ctx.saved_tensors[0], None, None, None, None, None


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", HIDDEN, ids=["none", "one", "two"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_by_hand_are_those_of_autograd_and_of_differences(activation, loss, hidden, kind, weighted):
    buffer, indeps, deps, weights = make_problem(kind, hidden, activation=activation)
    arguments = indeps, deps, weights if weighted else None, LOSSES[loss]
    value = store_mean_grads(buffer, *arguments)
    by_hand = buffer.flat.grad.clone()
    assert by_hand.abs().sum() > 0

    followed = replace(buffer, flat=buffer.flat.clone())
    autograd_value = calc_loss(view_with_grads(followed).requires_grad_(), *arguments)
    autograd_value.backward()
    torch.testing.assert_close(value, autograd_value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_hand, followed.flat.grad, rtol=1e-10, atol=1e-12)

    assert torch.autograd.gradcheck(HandDerived.apply, (buffer.flat.clone().requires_grad_(), buffer, *arguments))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_without_hidden_bias(kind):
    buffer, indeps, deps, weights = make_problem(kind, (4, 3), hidden_bias=False)
    assert [bias is None for bias in buffer.as_coeffs().biases] == [True, True, False]
    arguments = buffer.flat.clone().requires_grad_(), buffer, indeps, deps, weights, LOSSES["log_loss"]
    assert torch.autograd.gradcheck(HandDerived.apply, arguments)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:grad and param do not obey the gradient layout contract")
@pytest.mark.parametrize("models", [(), (3,)], ids=["one", "stack"])
def test_masked_gradients_are_those_of_a_network_of_the_neurons_that_are_left(activation, models):
    """A neuron that is masked out of all samples may as well not be there."""
    buffer, indeps, deps, _ = make_problem("multiclass", (4, 3), activation=activation, models=models)
    coeffs = view_with_grads(buffer)
    masks = [torch.tensor([2.0, 0, 1, 0.5]).double(), torch.tensor([0, 1, 3.0]).double()]
    masks = [mask.expand(*models, 7, -1) for mask in masks]
    logits = store_grads(coeffs, Batch(indeps, deps, masks=masks), LOSSES["log_loss"])

    followed = view_with_grads(replace(buffer, flat=buffer.flat.clone())).requires_grad_()
    values = indeps
    for weight, bias, mask in zip(followed.weights[:-1], followed.biases[:-1], masks, strict=True):
        modules = {"identity": torch.nn.Identity(), "logistic": torch.sigmoid, "tanh": torch.tanh}
        modules["gaussian"] = lambda sums: (-sums.square()).exp()
        module = modules.get(activation) or getattr(torch.nn.functional, activation)
        values = module(values @ weight + bias) * mask
    expected = values @ followed.weights[-1] + followed.biases[-1]
    torch.nn.functional.cross_entropy(
        expected.flatten(0, -2), deps.expand_as(expected).flatten(0, -2), reduction="sum"
    ).div(7).backward()
    torch.testing.assert_close(logits, expected.detach())
    for ours, theirs in zip(coeffs.weights + coeffs.biases, followed.weights + followed.biases, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert not coeffs.weights[0].grad[..., 1].any()


def test_backward_stands_in_for_store_grads():
    """Stored in the same place, added up in the same way, and cleared by the update."""
    buffer, indeps, deps, _ = make_problem("binary", (4,))
    other = replace(buffer, flat=buffer.flat.clone())
    coeffs, followed = view_with_grads(buffer), view_with_grads(other).requires_grad_()
    for _ in range(2):
        store_grads(coeffs, Batch(indeps, deps))
        calc_loss(followed, indeps, deps).backward()
    for ours, theirs in zip(coeffs, followed, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert ours.grad.abs().sum() > 0
    before, grads = buffer.flat.clone(), buffer.flat.grad.clone()
    update_coeffs(coeffs, 0.3)
    update_coeffs(followed, 0.3)
    torch.testing.assert_close(buffer.flat, before - 0.3 * grads)
    torch.testing.assert_close(other.flat, buffer.flat)
    assert not buffer.flat.grad.any()
    assert not followed.weights[0].grad.any()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(4,), (6, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_pass_is_that_of_mlp_classifier(problems, kind, hidden, activation):
    X, y = problems[kind]
    theirs = MLPClassifier(hidden, activation, max_iter=3, random_state=0).fit(X, y)
    output = theirs.out_activation_
    weights, biases = ([torch.tensor(array) for array in arrays] for arrays in (theirs.coefs_, theirs.intercepts_))
    preds = calc_preds(Coeffs(weights, biases, activation, output), torch.tensor(X))
    expected = theirs.predict_proba(X)
    np.testing.assert_allclose(preds, expected[:, 1:] if kind == "binary" else expected, rtol=1e-10)


@pytest.mark.parametrize("shared", [True, False], ids=["shared data", "own data"])
@pytest.mark.parametrize("models", [(3,), (2, 2)])
@pytest.mark.parametrize("hidden", HIDDEN, ids=["none", "one", "two"])
@pytest.mark.parametrize("kind", KINDS)
def test_stacked_networks_are_as_if_alone(kind, hidden, models, shared):
    buffer, indeps, deps, weights = make_problem(kind, hidden, models=models)
    rates = torch.linspace(0.1, 0.5, models[-1], dtype=torch.float64).expand(models)
    if not shared:
        scales = torch.arange(1, 1 + rates.numel(), dtype=torch.float64).view(*models, 1)
        indeps, weights = indeps * scales.unsqueeze(-1) / 3, weights * scales
        deps = deps.expand(*models, *deps.shape)
    loss = LOSSES["log_loss"]
    alone = [replace(buffer, flat=flat.clone()) for flat in buffer.flat.flatten(0, -2)]
    coeffs = view_with_grads(buffer)

    def of_model(tensor, model, n_axes):
        return tensor if tensor.ndim == n_axes else tensor.flatten(0, -n_axes - 1)[model]

    preds, accuracies = calc_preds(coeffs, indeps), model_accuracy(coeffs, indeps, deps)
    losses = calc_loss(coeffs, indeps, deps, weights, loss)
    update = partial(update_coeffs, lr=rates[..., None, None])
    epoch_losses = execute_epoch(coeffs, [Batch(indeps, deps, weights)] * 2, update, loss)
    assert preds.shape == (*models, 7, KINDS[kind][0])
    assert losses.shape == accuracies.shape == epoch_losses.shape == models
    for model, own_buffer in enumerate(alone):
        single = view_with_grads(own_buffer)
        data = of_model(indeps, model, 2), of_model(deps, model, 2)
        row_weights, rate = of_model(weights, model, 1), rates.flatten()[model]
        torch.testing.assert_close(preds.flatten(0, -3)[model], calc_preds(single, data[0]))
        torch.testing.assert_close(accuracies.flatten()[model], model_accuracy(single, *data))
        torch.testing.assert_close(losses.flatten()[model], calc_loss(single, *data, row_weights, loss))
        single_loss = execute_epoch(single, [Batch(*data, row_weights)] * 2, partial(update_coeffs, lr=rate), loss)
        torch.testing.assert_close(epoch_losses.flatten()[model], single_loss)
        torch.testing.assert_close(buffer.flat.flatten(0, -2)[model], own_buffer.flat)


@pytest.mark.parametrize(("epochs", "rate"), [(30, 1.4), (30, 20), (100, 10)])
def test_train_model_is_the_plain_method(cancer, epochs, rate):
    X, y = cancer
    indeps, deps = torch.tensor(X / X.max(0), dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(442)
        hidden = ((torch.rand(30, 20) - 0.5) / 20).requires_grad_()
        output = (torch.rand(20, 1) - 0.3).requires_grad_()
        bias = torch.rand(1)[0].requires_grad_()
    expected = []
    for _ in range(epochs):
        loss = torch.abs(torch.sigmoid(torch.relu(indeps @ hidden) @ output + bias) - deps).mean()
        loss.backward()
        expected.append(loss.item())
        with torch.no_grad():
            for coeffs in (hidden, output, bias):
                coeffs.sub_(coeffs.grad * rate)
                coeffs.grad.zero_()
    coeffs, losses = train_model(indeps, deps, epochs, rate)
    np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(coeffs.weights[0], hidden.detach(), atol=1e-4, rtol=0)


def test_long_data_are_worked_on_in_parts_that_add_up():
    buffer, indeps, deps, weights = make_problem("multiclass", (4,), n_samples=20_000)
    losses = torch.zeros((), dtype=torch.float64)
    halves = replace(buffer, flat=buffer.flat.clone())
    for rows in (slice(0, 10_000), slice(10_000, 20_000)):
        losses += store_mean_grads(halves, indeps[rows], deps[rows], weights[rows], mean_absolute_error) / 2
    logits = store_grads(view_with_grads(buffer), Batch(indeps, deps, weights))
    assert logits.shape == (20_000, 3)
    torch.testing.assert_close(buffer.flat.grad, halves.flat.grad / 2)
    torch.testing.assert_close(calc_loss(buffer.as_coeffs(), indeps, deps, weights), losses)


# --- init_coeffs


def test_scratch_init_draws_hidden_weights_output_weights_output_bias():
    coeffs = init_coeffs(6, 8, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(coeffs.weights[0], (torch.rand(6, 8, generator=generator) - 0.5) / 8)
    assert torch.equal(coeffs.weights[1], torch.rand(8, 1, generator=generator) - 0.3)
    assert coeffs.biases[0] is None
    assert torch.equal(coeffs.biases[1], torch.rand(1, 1, generator=generator))


def test_without_generator_the_global_one_draws():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        coeffs = init_coeffs(6, 8)
    expected = init_coeffs(6, 8, generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(value, other) for value, other in zip(coeffs, expected, strict=True))


@pytest.mark.parametrize(
    ("init", "activation", "bound"),
    [
        ("glorot_uniform", "relu", (6 / 300) ** 0.5),
        ("glorot_uniform", "logistic", (2 / 300) ** 0.5),
        ("he_uniform", "relu", (6 / 100) ** 0.5),
        ("he_uniform", "gaussian", (6 / 100) ** 0.5),
    ],
)
def test_uniform_inits_stay_within_their_bounds(init, activation, bound):
    coeffs = init_coeffs(
        100, 200, 1, generator=torch.Generator().manual_seed(0), init=init, activation=activation, hidden_bias=True
    )
    assert 0.99 * bound < coeffs.weights[0].abs().max() <= bound
    assert abs(coeffs.weights[0].mean()) < 0.02 * bound
    bound = 1 if activation == "gaussian" else bound
    assert 0.9 * bound < coeffs.biases[0].abs().max() <= bound


def test_without_hidden_layer_the_start_is_zero_but_for_scratch():
    for init in ("glorot_uniform", "he_uniform"):
        assert not any(value.any() for value in init_coeffs(4, (), generator=torch.Generator(), init=init))
    assert all(value.all() for value in init_coeffs(4, (), generator=torch.Generator()))


def test_init_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    init_coeffs(4, (3, 2), generator=torch.Generator().manual_seed(0), init="glorot_uniform", hidden_bias=True)
    assert torch.equal(torch.get_rng_state(), state)


# --- matmul and guards


SHAPES = [
    ((100, 5), (5, 1)),
    ((1, 400), (400, 30)),
    ((3, 20, 700), (700, 8)),
    ((9, 300), (4, 300, 2)),
    ((9, 300), (20, 300, 2)),
    ((300, 9), (20, 9, 2)),
    ((20, 9, 1), (20, 1, 2)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_matmul_is_the_product(left, right, dtype):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=generator, dtype=dtype) for shape in (left, right))
    torch.testing.assert_close(matmul(left, right), left @ right, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("n_models", [4, 20])
def test_matmul_lets_a_source_serve_successive_models(n_models):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 7, 3, generator=generator), torch.randn(n_models, 3, 5, generator=generator)
    torch.testing.assert_close(matmul(left, right), left.repeat_interleave(n_models // 2, 0) @ right)


@pytest.mark.parametrize("n_models", [2, 5, 15])
def test_small_stacks_multiply_single_columns_as_single_models_do(n_models):
    """To the bit."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n_models, *shape, generator=generator) for shape in ((200, 31), (31, 1)))
    alone = [matmul(left[k : k + 1], right[k : k + 1])[0] for k in range(n_models)]
    assert torch.equal(matmul(left, right), torch.stack(alone))


def test_targets_of_another_shape_are_refused():
    """(n,) against (n, 1) would broadcast to every pair of samples."""
    buffer, indeps, deps, _ = make_problem("binary", (4,))
    for function in HAND_CALLS:
        with pytest.raises(ValueError, match=r"deps must end in \(n_samples, n_outputs\)=\(7, 1\), got \(1, 7\)"):
            function(buffer.as_coeffs(), indeps, deps.T)
        with pytest.raises(ValueError, match=r"got \(7,\). deps.unsqueeze\(-1\) makes a vector one column"):
            function(buffer.as_coeffs(), indeps, deps[:, 0])


def test_arrays_in_the_place_of_tensors_are_refused():
    buffer, indeps, deps, _ = make_problem("binary", (4,))
    for function in HAND_CALLS:
        with pytest.raises(TypeError, match=r"indeps must be a tensor, got ndarray. Pass torch.as_tensor\(indeps\)"):
            function(buffer.as_coeffs(), indeps.numpy(), deps)
        with pytest.raises(TypeError, match=r"deps must be a tensor, got ndarray. Pass torch.as_tensor\(deps\)"):
            function(buffer.as_coeffs(), indeps, deps.numpy())
    with pytest.raises(TypeError, match="indeps must be a tensor"):
        train_model(indeps.numpy(), deps.numpy())


def test_inputs_of_other_columns_are_refused():
    buffer, indeps, _, _ = make_problem("binary", (4,))
    for wrong in (indeps[:, :4], indeps[0]):
        with pytest.raises(ValueError, match=r"indeps must end in \(n_samples, n_features\), with n_features=5, got"):
            calc_preds(buffer.as_coeffs(), wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu6"}, r"activation must be one of \['gaussian', .*, got 'relu6'"),
        ({"output": "sigmoid"}, r"output must be one of \['logistic', 'softmax'\], got 'sigmoid'"),
        ({"init": "xavier"}, r"init must be one of \['glorot_uniform', 'he_uniform', 'scratch'\], got 'xavier'"),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        init_coeffs(5, **options)


@pytest.mark.parametrize(
    ("output", "logits", "deps", "expected"),
    [
        ("logistic", [[2.0], [-1.0], [0.5], [-3.0]], [[1.0], [0.0], [0.0], [0.0]], 0.75),
        ("logistic", [[2.0, -1.0], [2.0, -1.0]], [[1.0, 0.0], [1.0, 1.0]], 0.5),  # both labels must be right
        ("softmax", [[-5.0, -6.0], [0.0, 1.0], [3.0, 2.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], 2 / 3),
    ],
)
def test_accuracy_counts_samples_whose_likelier_class_is_right(output, logits, deps, expected):
    n_outputs = len(logits[0])
    coeffs = Coeffs([torch.eye(n_outputs)], [None], output=output)
    assert model_accuracy(coeffs, torch.tensor(logits), torch.tensor(deps)).item() == pytest.approx(expected)
