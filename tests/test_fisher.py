"""Fisher weights: the layers on a tape against the NumPy graphs, and their gradients against finite differences.

Finite differences are computed in float64: a number is added to one output of a matrix at one token, and the logits
must change as the gradient says.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import random_parameters, write_model
from rwkv_np.kernels import equations
from threadpoolctl import threadpool_limits

import rwkv_np
from rwkv_np import demo
from rwkv_np.calibration import fisher
from rwkv_np.calibration.blocks import LAYERS, Block
from rwkv_np.calibration.tape import Tape
from rwkv_np.errors import InputError
from rwkv_np.files.format import read_model_file
from rwkv_np.files.opened import InMemory
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import by_name
from rwkv_np.models import model_config
from rwkv_np.models.registry import ARCHITECTURES

TINY = dict(n_layer=2, n_embd=8, dim_ffn=12, vocab_size=11)
SIZES = {
    "v4": {},
    "v5.1": dict(head_size=4),
    "v5.2": dict(head_size=4),
    "v6": dict(head_size=4, ranks=(3, 5)),
    "v7": dict(head_size=4, ranks=(3, 2, 4, 5)),
}
WINDOWS = [np.array([3, 1, 4, 1, 5, 9], np.int32), np.array([2, 6], np.int32), np.array([5], np.int32)]
STEP = 1e-4


class Nudged(Block):
    """A layer with numbers that are added to the outputs of matrices, by their names."""

    nudges = {}

    def linear(self, name, x):
        z = super().linear(name, x)
        return z + self.nudges[name] if name in self.nudges else z


class Graph:
    """A random model in a file, and its graph on tapes without steps, in float64."""

    def __init__(self, version, folder, seed=0):
        arrays = random_parameters(np.random.default_rng(seed), architecture=version, **TINY, **SIZES[version])
        self.path = write_model(folder / "model.bin", arrays)
        self.parameters = read_model_file(self.path).parameters
        self.n_head = ARCHITECTURES[version].sizes({name: x.shape for name, x in arrays.items()}).n_head
        self.layer, self.arrays = LAYERS[version], {name: x.astype(np.float64) for name, x in arrays.items()}
        self.blocks = [self._block(f"blocks.{i}.") for i in range(TINY["n_layer"])]

    def _block(self, prefix):
        arrays = {name.removeprefix(prefix): x for name, x in self.arrays.items() if name.startswith(prefix)}
        return Nudged(arrays, self.n_head, equations.HEAD_EPSILON)

    def logits(self, ids):
        norms = {name: [self.arrays[f"{name}.{part}"] for part in ("weight", "bias")] for name in
                 ("blocks.0.ln0", "ln_out")}  # fmt: skip
        values = [Tape(is_recording=False).value(equations.layer_norm(self.arrays["emb.weight"][ids],
                                                                      *norms["blocks.0.ln0"]))]  # fmt: skip
        for block in self.blocks:
            values = self.layer(block, values)
        return equations.layer_norm(values[0].array, *norms["ln_out"]) @ self.arrays["head.weight"].T

    def slopes(self, ids, direction, layer, name, n_out, token):
        """How fast the sum of direction times logits grows with each output of that matrix at that token."""
        found = np.zeros((n_out, 2))
        for i in range(n_out):
            for side in range(2):
                nudge = np.zeros((len(ids), n_out))
                nudge[token, i] = (STEP, -STEP)[side]
                self.blocks[layer].nudges = {name: nudge}
                found[i, side] = (direction * self.logits(ids)).sum()
        self.blocks[layer].nudges = {}
        return (found[:, 0] - found[:, 1]) / (2 * STEP)


@pytest.fixture(params=SIZES)
def graph(request, tmp_path):
    return Graph(request.param, tmp_path)


def test_every_version_has_a_layer_and_is_tested():
    assert LAYERS.keys() == ARCHITECTURES.keys() == SIZES.keys()


def test_the_layers_are_those_of_the_numpy_graph(graph):
    expected, _ = rwkv_np.load(graph.path, engine="numpy").forward(WINDOWS[0], full_output=True)
    np.testing.assert_allclose(graph.logits(WINDOWS[0]), expected, atol=2e-4)


def test_every_matrix_has_the_mean_square_of_its_gradient_at_each_token(graph):
    found = fisher.sensitivities(graph.parameters, WINDOWS, np.random.default_rng(1))
    ids, tokens = WINDOWS[0], (1, 3)
    first_seed = int(np.random.default_rng(1).integers(2**63))
    direction = fisher.logits_gradient(graph.logits(ids), np.random.default_rng(np.random.SeedSequence(first_seed)))
    for name, s in found.items():
        _, layer, suffix = name.split(".", 2)
        suffix, n_out = suffix.removesuffix(".weight"), graph.arrays[name].shape[0]
        slopes = [graph.slopes(ids, direction, int(layer), suffix, n_out, token) for token in tokens]
        expected = [np.square(x).mean() for x in slopes]
        np.testing.assert_allclose(s[list(tokens)], expected, rtol=2e-3, atol=1e-10, err_msg=name)
        assert max(expected) > 1e-9, f"{name}: nothing was compared"


def test_there_are_weights_for_what_a_quantizer_converts(graph):
    record = ARCHITECTURES[rwkv_np.load(graph.path, engine="numpy").config.architecture]
    found = fisher.sensitivities(graph.parameters, WINDOWS, np.random.default_rng(1))
    assert list(found) == [name for name, p in graph.parameters.items() if record.is_quantizable(name, p.shape)]
    assert {(x.shape, x.dtype) for x in found.values()} == {((9,), np.dtype(np.float32))}


@pytest.mark.parametrize("version", ["v5.1", "v5.2", "v6"])
def test_decay_and_bonus_of_a_single_head_are_no_matrices(version, tmp_path):
    """In a file they have two dimensions then, (head_size, 1)."""
    sizes = TINY | SIZES[version] | {"head_size": 8}
    arrays = random_parameters(np.random.default_rng(0), architecture=version, **sizes)
    parameters = read_model_file(write_model(tmp_path / "model.bin", arrays)).parameters
    found = fisher.sensitivities(parameters, WINDOWS, np.random.default_rng(1))
    assert len(found) and not [name for name in found if name.endswith(("time_decay", "time_first", "time_faaaa"))]


def test_windows_do_not_depend_on_their_company(graph):
    """Whatever is read together, in however many threads; signs are drawn window by window."""
    together = fisher.sensitivities(graph.parameters, WINDOWS, np.random.default_rng(1), threads=2)
    rng = np.random.default_rng(1)
    alone = [fisher.sensitivities(graph.parameters, [window], rng, threads=1) for window in WINDOWS]
    one_by_one = fisher.sensitivities(graph.parameters, WINDOWS, np.random.default_rng(1), threads=1, memory=1)
    for name, s in together.items():
        np.testing.assert_allclose(s, np.concatenate([each[name] for each in alone]), rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(s, one_by_one[name], rtol=1e-4, atol=1e-9)


def test_random_gradients_have_the_second_moment_of_a_drawn_label():
    """Over all 32 vectors of signs it is exact: the sum over labels y of p_y (p - e_y)(p - e_y)T."""
    p = np.array([0.0, 0.25, 0.05, 0.5, 0.2])
    signs = 1.0 - 2 * (np.arange(32)[:, None] >> np.arange(5) & 1)
    found = fisher.spread(p[None].repeat(32, axis=0), signs)
    expected = sum(chance * np.outer(p - e, p - e) for chance, e in zip(p, np.eye(5)))
    np.testing.assert_allclose(found.T @ found / 32, expected, atol=1e-15)


def test_signs_are_even_and_different_for_every_token():
    logits = np.zeros((300, 64))  # p is even, so a gradient's entries are a sign and the mean of all signs apart
    signs = np.sign(fisher.logits_gradient(logits, np.random.default_rng(0)))
    assert abs(signs.mean()) < 0.02
    assert np.abs(signs @ signs.T / 64 - np.eye(300)).max() < 0.6


def test_progress_ends_at_its_total(graph):
    seen = []
    fisher.sensitivities(
        graph.parameters, WINDOWS, np.random.default_rng(1), lambda *step: seen.append(step), threads=1, memory=1
    )
    n_steps = len(WINDOWS) * (2 * TINY["n_layer"] + 1)  # each window goes alone through the layers and back
    assert seen == [("Fisher weights", i + 1, n_steps) for i in range(n_steps)]


@pytest.mark.parametrize(
    ("windows", "expected"), [([], "windows is empty"), ([[1, 11]], "ids from 1 to 11"), ([[-1]], "ids from -1 to -1")]
)
def test_unusable_windows_are_errors(graph, windows, expected):
    with pytest.raises(InputError, match=expected):
        fisher.sensitivities(graph.parameters, windows, np.random.default_rng(1))


def test_parameters_of_something_else_are_an_error(graph):
    with pytest.raises(InputError, match="unknown version"):
        names = ("emb.weight", "head.weight")
        fisher.sensitivities({name: graph.parameters[name] for name in names}, WINDOWS, np.random.default_rng(1))


# --- on a trained model --------------------------------------------------------------------------------


class Listening(Block):
    """A layer that remembers what each matrix read."""

    def __init__(self, arrays):
        super().__init__(arrays, 0, 0.0)
        self.read = {}

    def linear(self, name, x):
        self.read[f"{name}.weight"] = x.array
        return super().linear(name, x)


def with_matrix(file, name, weights):
    """The parameters of a file with another matrix."""
    stored = InMemory(np.ascontiguousarray(weights, np.float32).view(np.uint8).reshape(-1))
    return file.parameters | {name: Parameter(name, weights.shape, by_name("FP32"), stored)}


def logs_of(config, parameters, windows):
    graph = config.record.graph(config, parameters, 1)  # small products are slower in several threads
    logits = np.concatenate([graph.forward(ids, full_output=True)[0] for ids in windows]).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def inputs(file, windows, layer, name):
    """What that matrix of a layer of RWKV-4 reads, (tokens of all windows, n_in)."""
    embedded, found = fisher._Model(file.parameters, 0.0), []
    with ThreadPoolExecutor(1) as pool:
        blocks = [Listening(embedded.block(i, pool).arrays) for i in range(layer + 1)]
    for ids in windows:
        values = [Tape(is_recording=False).value(x) for x in embedded.embedded(ids)]
        with threadpool_limits(1, user_api="blas"):
            for block in blocks:
                values = LAYERS["v4"](block, values)
        found.append(blocks[layer].read[name])
    return np.concatenate(found)


@pytest.mark.parametrize(("layer", "name"), [(3, "ffn.value.weight"), (1, "att.receptance.weight")])
def test_fisher_weights_predict_what_rounding_costs_a_trained_model(layer, name):
    """Half of s_t times the squared error of the output, against the KL divergence from the exact model.

    With the same weight for all tokens the costs of these two matrices are in a wrong order: what the first one reads
    is large at tokens where an error of its output changes little.
    """
    file = read_model_file(demo.MODEL)
    config = model_config(file)
    text = demo.HELD_OUT.read_text(encoding="utf-8").split("<|endoftext|>")
    tokenizer = rwkv_np.load_tokenizer(demo.TOKENIZER, config.vocab_size)
    windows = [np.array(ids[:128]) for ids in map(tokenizer.encode, text[:200:10])]
    full = f"blocks.{layer}.{name}"
    s = fisher.sensitivities(file.parameters, windows, np.random.default_rng(0))[full]
    weights, q4_0 = file.parameters[full].array(), by_name("Q4_0").format
    rounded = q4_0.decode(q4_0.encode(weights.reshape(len(weights), -1, 32))).reshape(weights.shape)
    exact, ours = (logs_of(config, p, windows) for p in (file.parameters, with_matrix(file, full, rounded)))
    divergence = (np.exp(exact) * (exact - ours)).sum(axis=1).mean()
    errors = np.square(inputs(file, windows, layer, name) @ (rounded - weights).T).sum(axis=1)
    assert 0.5 < 0.5 * (s * errors).mean() / divergence < 2
    if layer == 3:
        assert 0.5 * s.mean() * errors.mean() / divergence > 4
