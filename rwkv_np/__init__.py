"""RWKV language models on an ordinary computer, in pure Python.

model = rwkv_np.load("model.bin")
tokenizer = rwkv_np.load_tokenizer(vocab_size=model.config.vocab_size)
for piece in rwkv_np.generate(model, tokenizer, "In the beginning"):
    print(piece, end="", flush=True)
"""

__version__ = "0.1.0"

from rwkv_np import interrupt  # noqa: F401, I001  # before the slow imports

from pathlib import Path

# In a checkout, kernels/ is a sibling of this folder. Python finds it as rwkv_np.kernels without an install, and also
# with a plain install when it starts in the checkout. An installed package has its own copy.
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
