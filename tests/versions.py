"""Shared by the tests of RWKV-5 and 6: the golden files, random checkpoints, and checks for every model.

`data/golden-*` have random weights, n_embd 128 in 2 heads, 2 layers: a checkpoint, the checksums of the files that
rwkv.cpp made from it, and in `logits.npz` the logits of the official package for its tokens (float32, one by one),
and those of rwkv.cpp for each of its files.
"""

import hashlib
import lzma

import numpy as np
import torch
from conftest import official_package, shared_file
from rwkv_np.kernels.threads import most_threads

import rwkv_np
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import quantize
from rwkv_np.files.format import read_model_file
from rwkv_np.models import Run
from rwkv_np.models.architecture import Sizes
from rwkv_np.models.registry import ARCHITECTURES

FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
ENGINES = ("numpy", "fused")


def checksum(data):
    return hashlib.sha256(data).hexdigest()


def parameters(path):
    return read_model_file(path).parameters


class Golden:
    """The golden files of a version, created in `folder` when requested."""

    def __init__(self, rootpath, folder, name):
        self.source, self.folder = rootpath / "tests" / "data" / f"golden-{name}", folder
        lines = (self.source / "SHA256").read_text().splitlines()
        self.sums = {file: checksum for checksum, _, file in map(str.split, lines)}
        self.logits = np.load(self.source / "logits.npz")

    def unpacked(self, name):
        """The path of a file after unpacking."""
        target = self.folder / name
        if not target.exists():
            target.write_bytes(lzma.decompress((self.source / f"{name}.xz").read_bytes()))
        return target

    @property
    def checkpoint(self):
        return self.unpacked("model.pth")

    def file(self, data_type):
        """The path of a model file. If the data contain rwkv.cpp's FP16 file, it is used."""
        target = self.folder / f"model-{data_type}.bin"
        if target.exists():
            return target
        if (self.source / f"{target.name}.xz").exists():
            return self.unpacked(target.name)
        if data_type in FORMATS:
            quantize(self.file("FP16"), target, data_type)
        else:
            convert(self.checkpoint, target, data_type)
        return target

    def state_parts(self, layout):
        """`official_state` as parts: per layer ffn's shift, att's, and S as [key][value]."""
        n_layer, _, n_embd = layout.places["shift"].shape
        rows = self.logits["official_state"].reshape(n_layer, -1)
        shift = rows[:, : 2 * n_embd].reshape(n_layer, 2, n_embd)[:, ::-1]
        return {"shift": shift, "wkv": rows[:, 2 * n_embd :].reshape(layout.places["wkv"].shape)}


def extra(name, folder):
    """(checkpoint, official logits and their tokens) of a folder beside the checkout."""
    source = shared_file(f"versions/extra/{name}")
    (folder / "model.pth").write_bytes(lzma.decompress((source / "model.pth.xz").read_bytes()))
    return folder / "model.pth", np.load(source / "logits.npz")


def random_checkpoint(version, seed=0, n_layer=2, n_embd=64, head_size=32, dim_ffn=96, vocab_size=50, ranks=()):
    """Tensors of a random checkpoint of plausible scale."""
    sizes = Sizes(
        n_layer=n_layer, n_embd=n_embd, dim_ffn=dim_ffn, vocab_size=vocab_size, head_size=head_size, ranks=ranks
    )
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _random(name.rpartition(".")[2], name, torch.randn(shape, generator=generator))
        for name, shape in ARCHITECTURES[version].checkpoint_shapes(sizes).items()
    }


def _random(last, name, x):
    if last in ("time_decay", "time_first", "time_faaaa"):
        return x
    if last in ("time_maa_w1", "time_decay_w1"):
        return x * x.shape[0] ** -0.5
    if last in ("time_maa_w2", "time_decay_w2"):
        return x * 0.3
    if last.startswith("time_"):
        return x.sigmoid()
    if ".ln" in name or name.startswith("ln"):
        return x / 10 + (last == "weight")
    return x if name == "emb.weight" else x * x.shape[1] ** -0.5


def as_checkpoint(arrays):
    """The tensors that a converter turns into these arrays of RWKV-7."""
    tensors = {}
    for name, x in arrays.items():
        x = torch.from_numpy(x)
        if name.endswith("x_rwkvag"):
            tensors |= {name.replace("rwkvag", letter): x[i : i + 1] for i, letter in enumerate("rwkvag")}
        else:
            tensors[name] = x.T.contiguous() if name[-2:-1] in "wavg" and name[-1] in "12" else x
    return tensors


def converted(tensors, folder, data_type="FP32"):
    """A model file of these tensors."""
    torch.save(tensors, folder / "model.pth")
    convert(folder / "model.pth", folder / f"model-{data_type}.bin", data_type, overwrite=True)
    return folder / f"model-{data_type}.bin"


def check_agrees_with_the_official_package(tensors, folder, atol=2e-5):
    """The logits of 20 tokens of a random checkpoint, on both engines."""
    package, path = official_package(), converted(tensors, folder)
    tokens = np.random.default_rng(1).integers(0, len(tensors["emb.weight"]), 20).tolist()
    official = package.RWKV(str(folder / "model"), "cpu fp32", verbose=False)
    state, rows = None, []
    for token in tokens:  # the package reads sequences of RWKV-5 with another formula
        row, state = official.forward([token], state)
        rows.append(row.numpy())
    for engine in ENGINES:
        logits, _ = rwkv_np.load(path, engine=engine).forward(tokens, full_output=True)
        np.testing.assert_allclose(logits, np.stack(rows), rtol=1e-5, atol=atol, err_msg=engine)


def check_both_engines_agree(path, n_tokens=30, atol=3e-5):
    """Logits and states of the NumPy graph and the kernels, from a state that is not empty."""
    numpy_graph, fused = (rwkv_np.load(path, engine=engine) for engine in ENGINES)
    tokens = np.random.default_rng(2).integers(0, fused.config.vocab_size, n_tokens)
    _, start = numpy_graph.forward(tokens[::-1])
    expected, expected_state = numpy_graph.forward(tokens, start, full_output=True)
    logits, state = fused.forward(tokens, start, full_output=True)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=atol)
    for name, part in state.parts.items():
        np.testing.assert_allclose(part, expected_state.parts[name], rtol=1e-4, atol=1e-4)


def check_company_and_cuts_change_no_bit(model, alone, seed):
    """Passes of several sequences of any lengths, compared with each sequence alone in one pass."""
    rng = np.random.default_rng(seed)
    pool = model.new_pool(5)
    slots, read = [pool.take() for _ in range(5)], [[] for _ in range(5)]
    for _ in range(4):
        chosen = rng.permutation(5)[: rng.integers(1, 6)]
        lengths = [int(rng.choice([1, 2, 5, rng.integers(1, 40), rng.integers(120, 140)])) for _ in chosen]
        ids = [rng.integers(0, model.config.vocab_size, length) for length in lengths]
        found = model.read([Run(tokens, slots[i], "all") for i, tokens in zip(chosen, ids)], pool)
        for i, tokens in zip(chosen, ids):
            read[i].extend(tokens)
            expected = alone.forward(read[i], full_output=True)[0][-len(tokens) :]
            np.testing.assert_array_equal(found[: len(tokens)], expected)
            found = found[len(tokens) :]
    for slot, tokens in zip(slots, read):
        state = alone.forward(tokens)[1] if tokens else alone.initial_state()
        np.testing.assert_array_equal(pool.state(slot).data, state.data)


def check_one_by_one_gives_the_same_bits(model, tokens):
    """Every token alone, compared with all at once."""
    together, after = model.forward(tokens, full_output=True)
    state, rows = model.initial_state(), []
    for token in tokens:
        rows.append(model.advance(int(token), state))
    np.testing.assert_array_equal(together, np.stack(rows))
    np.testing.assert_array_equal(after.data, state.data)


def two_threads():
    return min(2, most_threads())
