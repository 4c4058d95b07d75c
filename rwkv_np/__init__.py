"""RWKV language models on an ordinary computer, in pure Python.

model = rwkv_np.load("model.bin")
tokenizer = rwkv_np.load_tokenizer(vocab_size=model.config.vocab_size)
for piece in rwkv_np.generate(model, tokenizer, "In the beginning"):
    print(piece, end="", flush=True)
"""

__version__ = "0.1.0"

from rwkv_np import interrupt  # noqa: F401, I001  # before what takes long to import

from pathlib import Path

# In a checkout, kernels/ lies beside this folder: Python finds rwkv_np.kernels there with no install, and beside
# a plain one, when the checkout is the folder that it starts in. An installed package has its own.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

from rwkv_np.completion import Completion, generate
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import quantize
from rwkv_np.conversion.time_state import load_time_state
from rwkv_np.errors import RwkvError
from rwkv_np.models import Model, load
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.state import State, load_state
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import Tokenizer, load_tokenizer

__all__ = [
    "Completion",
    "Model",
    "ModelConfig",
    "RwkvError",
    "SamplingParams",
    "State",
    "Tokenizer",
    "convert",
    "generate",
    "load",
    "load_state",
    "load_time_state",
    "load_tokenizer",
    "quantize",
]
