"""What training does on a CUDA device, tested without one.

A recording takes the place of the CUDA graph, and a generator beside the run's own that of the device's. Tensors of
the meta device, which have no values, show that nothing is read, and that no two devices are mixed.
"""

import contextlib
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_helpers import make_data, make_run

from scratchnn.training import Data, batches, graphs, make_stacks, stack, train

CASES = {
    "adam": {},
    "momentum": {"solver": "sgd"},
    "plain": {"solver": "sgd", "momentum": 0.0, "alpha": 0.0},
    "schedule": {"learning_rate": "cosine"},
    "dropout": {"dropout": 0.3},
    "in order": {"shuffle": False},
    "whole": {"batch_size": 100},
    "whole with dropout": {"batch_size": 100, "dropout": 0.3},
}


class Recording(TorchDispatchMode):
    """Operations, as a CUDA graph records them: tensors by their memory, numbers by their values."""

    def __init__(self):
        super().__init__()
        self.calls, self.generators, self.n_replays = [], [], 0
        self.own = set()  # memory that the operations allocate
        self.found = {}  # other memory that they use, and what it held before

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a graph cannot wait for a value"
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, torch.Generator):
                states = [generator.get_state() for generator in self.generators]
                assert any(torch.equal(value.get_state(), state) for state in states)  # the object is another
            elif isinstance(value, torch.Tensor) and get_memory(value) not in self.own:
                self.found.setdefault(get_memory(value), (value, value.untyped_storage().clone()))
        result = func(*args, **kwargs)
        outs = list_tensors(result)
        self.own |= {get_memory(out) for out in outs} - self.found.keys()
        self.calls.append((func, args, kwargs, outs))
        return result

    @contextlib.contextmanager
    def capture(self):
        states = [generator.get_state() for generator in self.generators]
        try:
            with self:
                yield
        finally:
            for tensor, before in self.found.values():
                tensor.untyped_storage().copy_(before)
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)

    def replay(self):
        self.n_replays += 1
        for func, args, kwargs, outs in self.calls:
            for out, result in zip(outs, list_tensors(func(*args, **kwargs)), strict=True):
                if get_memory(out) != get_memory(result):
                    out.copy_(result)


def get_memory(tensor):
    return tensor.untyped_storage().data_ptr()


def list_tensors(result):
    return [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]


@pytest.fixture
def recordings(monkeypatch):
    """Let recordings take the place of CUDA graphs, and yield them."""
    made = []

    def make():
        made.append(Recording())
        return made[-1]

    cuda = SimpleNamespace(
        CUDAGraph=make,
        Stream=lambda device: None,
        stream=lambda stream: contextlib.nullcontext(),
        device=lambda device: contextlib.nullcontext(),
        current_stream=lambda device: None,
        graph=lambda graph, pool, stream, **kwargs: graph.capture(),
        graph_pool_handle=lambda: None,
        OutOfMemoryError=torch.cuda.OutOfMemoryError,
    )
    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=cuda, Tensor=torch.Tensor))
    monkeypatch.setattr(stack, "can_capture", lambda runs: True)
    return made


def make_runs(n_rows=(100, 99, 100), shared=False, **changes):
    """Return runs on tables of so many rows, or on the first alone."""
    changes = {"max_iter": 12, "alpha": 0.5, **changes}
    datas = [make_data(n_rows[0])] * 3 if shared else [make_data(n, seed=n, weighted=n == 99) for n in n_rows]
    return [make_run(data, seed=0 if shared else number, **changes) for number, data in enumerate(datas)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_captured_steps_are_those_that_are_not(changes, shared, recordings, monkeypatch):
    captured, expected = make_runs(shared=shared, **changes), make_runs(shared=shared, **changes)
    train(captured)
    monkeypatch.setattr(stack, "can_capture", lambda runs: False)
    train(expected)
    # A last batch that is padded is a group of its own. Only the first epochs are computed before the capture.
    assert len(recordings) == (1 if shared or changes.get("batch_size") == 100 else 2)
    assert all(each.n_replays == 12 - graphs.N_EAGER for each in recordings)
    for run, other in zip(captured, expected, strict=True):
        assert torch.equal(run.buffer.flat, other.buffer.flat)
        assert torch.equal(run.generator.get_state(), other.generator.get_state())
        assert run.history.n_updates == other.history.n_updates
        torch.testing.assert_close(run.history.losses, other.history.losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(run.history.training_losses, other.history.training_losses, rtol=1e-12, atol=0)


def test_groups_have_a_limited_number_of_steps(recordings, monkeypatch):
    monkeypatch.setattr(batches, "N_GATHERED_BYTES", 32 * 2 * 5 * 8)  # 32 steps, each of two rows
    data = make_data(325)
    run, expected = (make_run(data, batch_size=2, max_iter=3, alpha=1.0) for _ in range(2))
    assert run.n_steps == 5 * 32 + 3
    train([run])
    monkeypatch.setattr(stack, "can_capture", lambda runs: False)
    train([expected])
    assert [each.n_replays for each in recordings] == [3 * 5 - graphs.N_EAGER, 3 - graphs.N_EAGER]
    assert torch.equal(run.buffer.flat, expected.buffer.flat)
    assert run.history.n_updates == 3 * run.n_steps


def test_more_rows_are_gathered_on_a_device_but_not_for_more_steps():
    data = make_data(10, n_features=1, dtype=torch.float32)
    assert batches._count_gathered_rows([data], size=2) == 2**20 // 4
    assert batches._count_gathered_rows([move(data)], size=2) == 2 * 32
    assert batches._count_gathered_rows([move(data)], size=2**22) == 2**22 * 4


def fail_inside(monkeypatch, error):
    """Let captures fail in the middle of a group, and then at their end, as PyTorch's do."""

    @contextlib.contextmanager
    def fail(graph, *args, **kwargs):
        try:
            with graph.capture(), TooManyOperations(error, most=40):
                yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    monkeypatch.setattr(graphs.torch.cuda, "graph", fail)


class TooManyOperations(TorchDispatchMode):
    """Raises an error at an operation."""

    def __init__(self, error, most):
        super().__init__()
        self.error, self.n_left = error, most

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n_left -= 1
        if self.n_left < 0:
            raise self.error
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"learning_rate": "cosine"}], ids=["constant", "cosine"])
@pytest.mark.parametrize("is_memory", [False, True])
def test_steps_that_cannot_be_captured_train_all_the_same(changes, is_memory, recordings, monkeypatch):
    monkeypatch.setattr(batches, "N_GATHERED_BYTES", 32 * 2 * 5 * 8)  # 32 steps, each of two rows
    monkeypatch.setattr(graphs.CapturedSteps, "works", True)
    data = make_data(325)
    run, expected = (make_run(data, batch_size=2, max_iter=3, alpha=1.0, **changes) for _ in range(2))
    if is_memory:
        fail_inside(monkeypatch, torch.cuda.OutOfMemoryError("CUDA out of memory"))
        train([run])
        assert graphs.CapturedSteps.works
    else:
        fail_inside(monkeypatch, RuntimeError("operation not permitted when stream is capturing"))
        with pytest.warns(RuntimeWarning, match=r"CUDA graphs do not work in .* when stream is capturing"):
            train([run])
    assert len(recordings) == 1
    monkeypatch.setattr(stack, "can_capture", lambda runs: False)
    train([expected])
    assert torch.equal(run.buffer.flat, expected.buffer.flat)
    assert run.history.n_updates == expected.history.n_updates == 3 * 163


def test_an_error_frees_the_memory_of_a_stack_that_captures(recordings):
    def fail(epoch):
        raise MemoryError

    run = make_run()
    gc.collect()
    gc.disable()
    try:
        stacked = stack.Stack([run])
        buffer = weakref.ref(stacked.captured_steps)
        stacked._execute_epoch = lambda: fail(None)
        with pytest.raises(MemoryError):
            stacked.train_until_one_stops()
        assert buffer() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"loss": lambda logits, deps: logits}, False)],
    ids=["named loss", "a user's loss"],
)
def test_what_can_be_captured(changes, expected, monkeypatch):
    run = make_run(**changes)
    assert not graphs.can_capture([run])
    run.buffer.flat = SimpleNamespace(device=torch.device("cuda"), numel=run.buffer.flat.numel)
    assert graphs.can_capture([run]) == expected
    assert not graphs.can_capture([run] * 10**7)  # the device needs longer than the launches
    run.joint = object()
    assert not graphs.can_capture([run])


@pytest.fixture
def device_generators(monkeypatch):
    """Let runs draw orders and masks from other generators than their own, as on a CUDA device."""
    monkeypatch.setattr(batches, "_make_generator", lambda run: torch.Generator())


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}, {"dropout": 0.3, "batch_size": 100}])
def test_draws_on_a_device_do_not_depend_on_neighbours(changes, device_generators):
    """Neither on those of the stack, nor on when these end."""

    def make():
        runs = make_runs(**changes) + make_runs(shared=True, **changes)
        for number, run in enumerate(runs):
            run.settings = run.settings.__class__(**{**vars(run.settings), "max_iter": 5 + number})
        return runs

    alone, together = make(), make()
    for run in alone:
        train([run])
    for runs in make_stacks(together):
        train(runs)
    for run, other in zip(alone, together, strict=True):
        torch.testing.assert_close(run.buffer.flat, other.buffer.flat, rtol=1e-9, atol=1e-9)
        assert torch.equal(run.generator.get_state(), other.generator.get_state())


def test_draws_on_a_device_differ_from_epoch_to_epoch(device_generators):
    orders = []
    with pytest.MonkeyPatch.context() as patch:
        draw = batches.draw_order
        patch.setattr(batches, "draw_order", lambda *args: orders.append(draw(*args)) or orders[-1])
        train([make_run(max_iter=3)])
    assert all(torch.equal(order.sort().values, torch.arange(100)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3


@pytest.mark.parametrize("captures", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_an_epoch_neither_waits_for_the_device_nor_mixes_devices(changes, shared, captures, monkeypatch):
    generator = SimpleNamespace(device=torch.device("meta"), manual_seed=lambda seed: None)
    monkeypatch.setattr(batches, "_make_generator", lambda run: generator)
    monkeypatch.setattr(batches.torch, "randperm", lambda n, generator, device: torch.arange(n, device=device))
    monkeypatch.setattr(stack, "can_capture", lambda runs: captures)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)  # which meta is no type for
    runs = make_runs(shared=shared, **changes)
    validation = move(make_data(30))
    datas = {id(run.data): move(run.data) for run in runs}
    for run in runs:
        run.data, run.validation = datas[id(run.data)], validation
        run.buffer.flat = run.buffer.flat.to("meta")
    draw = torch.Tensor.uniform_
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, generator: draw(self))
    with torch.inference_mode():
        losses = stack.Stack(runs)._train_and_validate()
    assert losses.shape == (3, 3)
    assert losses.is_meta


def move(data):
    return Data(*(each if each is None else each.to("meta") for each in (data.indeps, data.deps, data.weights)))
