"""The models that are known by name, and the SAEs that exist for each; importing it is free.

Counts of parameters are those of the published weights; sizes in memory follow from them. The SAEs
are named as in sae-lens' registry, which a test holds them against.
"""

from dataclasses import dataclass
from typing import Literal, get_args

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"

Quantize = Literal["none", "int8", "4bit"]

# NF4 whose scales are quantized as well takes 4.13 bits.
_QUANTIZED_BYTES: dict[Quantize, float] = {"int8": 1.0, "4bit": 0.516}

_DEPTHS = (0.5, 0.62, 0.82, 1.0)  # where instructions have been found, as a share of the blocks


@dataclass(frozen=True, slots=True)
class Size:
    """How many weights a model has. linear: in matrices that a quantizer makes smaller; other: the
    rest, the embedding above all."""

    linear: int
    other: int

    def bytes(self, quantize: Quantize, per_weight: int = 2) -> float:
        """In memory, with `per_weight` bytes for each weight that isn't quantized."""
        return self.other * per_weight + self.linear * _QUANTIZED_BYTES.get(quantize, per_weight)


@dataclass(frozen=True, slots=True)
class Saes:
    """One release of SAEs of the residual stream after blocks `layers`.

    release: in sae-lens' registry, or "" for those that ship with the presets. ids: with {layer}.
    base: trained on the base model, not on this one.
    """

    release: str
    ids: str
    layers: tuple[int, ...]
    width: str
    base: bool = False

    def source(self, layer: int) -> str:
        """RELEASE/ID, as `--sae` takes it."""
        return f"{self.release}/{self.ids.format(layer=layer)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model as it is published.

    parameters, embedding: in billions; the embedding (and the output matrix, where it is a second
    one) is never quantized. gated: its licence has to be accepted on the hub first. chat: trained
    to answer; a base model gets a plain-text template.
    """

    name: str
    id: str
    revision: str = "main"
    n_layers: int
    parameters: float
    embedding: float
    chat: bool
    gated: bool = False
    saes: tuple[Saes, ...] = ()

    @property
    def size(self) -> Size:
        billion = 1_000_000_000
        linear, other = self.parameters - self.embedding, self.embedding
        return Size(round(linear * billion), round(other * billion))

    @property
    def gigabytes(self) -> dict[Quantize, float]:
        """What the weights take in memory: in full, in 8 bits, in 4."""
        return {way: round(self.size.bytes(way) / 1e9, 1) for way in get_args(Quantize)}

    @property
    def last_layer_has_sae(self) -> bool:
        return any(self.n_layers - 1 in saes.layers for saes in self.saes)

    def default_saes(self) -> list[str]:
        """The SAEs that presets are made with unless others are named: of the first release, at
        the layers nearest to half, three fifths, four fifths and all of the depth."""
        if not self.saes or not self.saes[0].release:
            return []
        return [self.saes[0].source(layer) for layer in self.default_layers()]

    def default_layers(self) -> list[int]:
        layers = self.saes[0].layers
        wanted = [share * (self.n_layers - 1) for share in _DEPTHS]
        return sorted({min(layers, key=lambda layer: abs(layer - depth)) for depth in wanted})


def _every(n_layers: int) -> tuple[int, ...]:
    return tuple(range(n_layers))


def _gemma_scope(size: str, n_layers: int, *widths: str, base: bool = False) -> tuple[Saes, ...]:
    return tuple(
        Saes(
            f"gemma-scope-{size}-pt-res-canonical",
            f"layer_{{layer}}/width_{width}/canonical",
            _every(n_layers),
            width,
            base,
        )
        for width in widths
    )


def _gemma_3(size: str, n_layers: int, parameters: float, embedding: float) -> KnownModel:
    return KnownModel(
        name=f"gemma-3-{size}-it",
        id=f"google/gemma-3-{size}-it",
        n_layers=n_layers,
        parameters=parameters,
        embedding=embedding,
        chat=True,
        gated=True,
        saes=tuple(
            Saes(
                f"gemma-scope-2-{size}-it-res-all",
                f"layer_{{layer}}_width_{width}_l0_small",
                _every(n_layers),
                width,
            )
            for width in ("16k", "262k")
        ),
    )


def _qwen_scope(
    version: str, size: str, n_layers: int, width: str, parameters: float, embedding: float
) -> KnownModel:
    return KnownModel(
        name=f"qwen{version}-{size}-base",
        id=f"Qwen/Qwen{version}-{size.upper()}-Base",
        n_layers=n_layers,
        parameters=parameters,
        embedding=embedding,
        chat=False,
        saes=(
            Saes(
                f"qwen-scope-{version}-{size}-base-w{width}-l50",
                "layer{layer}",
                _every(n_layers),
                width,
            ),
        ),
    )


_ANDYRDT = tuple(range(3, 28, 4))

MODELS: tuple[KnownModel, ...] = (
    KnownModel(
        name="smollm2-135m-instruct",
        id=EMBEDDED,
        n_layers=30,
        parameters=0.135,
        embedding=0.028,
        chat=True,
        saes=(Saes("", "sae/{layer}", (14, 18, 24, 29), "4.6k"),),
    ),
    KnownModel(
        name="gpt2-small",
        id="openai-community/gpt2",
        n_layers=12,
        parameters=0.124,
        embedding=0.039,
        chat=False,
        saes=(
            Saes(
                "gpt2-small-resid-post-v5-32k",
                "blocks.{layer}.hook_resid_post",
                _every(12),
                "32k",
            ),
        ),
    ),
    KnownModel(
        name="gemma-2-2b",
        id="google/gemma-2-2b",
        n_layers=26,
        parameters=2.614,
        embedding=0.590,
        chat=False,
        gated=True,
        saes=_gemma_scope("2b", 26, "16k", "65k"),
    ),
    KnownModel(
        name="gemma-2-2b-it",
        id="google/gemma-2-2b-it",
        n_layers=26,
        parameters=2.614,
        embedding=0.590,
        chat=True,
        gated=True,
        saes=_gemma_scope("2b", 26, "16k", "65k", base=True),
    ),
    KnownModel(
        name="gemma-2-9b",
        id="google/gemma-2-9b",
        n_layers=42,
        parameters=9.242,
        embedding=0.918,
        chat=False,
        gated=True,
        saes=_gemma_scope("9b", 42, "16k", "131k"),
    ),
    KnownModel(
        name="gemma-2-9b-it",
        id="google/gemma-2-9b-it",
        n_layers=42,
        parameters=9.242,
        embedding=0.918,
        chat=True,
        gated=True,
        saes=(
            Saes(
                "gemma-scope-9b-it-res-canonical",
                "layer_{layer}/width_16k/canonical",
                (9, 20, 31),
                "16k",
            ),
            *_gemma_scope("9b", 42, "16k", base=True),
        ),
    ),
    _gemma_3("270m", 18, 0.268, 0.168),
    _gemma_3("1b", 26, 1.000, 0.302),
    _gemma_3("4b", 34, 4.300, 0.671),
    _gemma_3("12b", 48, 12.187, 1.007),
    KnownModel(
        name="llama-3.1-8b",
        id="meta-llama/Llama-3.1-8B",
        n_layers=32,
        parameters=8.030,
        embedding=1.051,
        chat=False,
        gated=True,
        saes=(Saes("llama_scope_lxr_8x", "l{layer}r_8x", _every(32), "32k"),),
    ),
    KnownModel(
        name="llama-3.1-8b-instruct",
        id="meta-llama/Llama-3.1-8B-Instruct",
        n_layers=32,
        parameters=8.030,
        embedding=1.051,
        chat=True,
        gated=True,
        saes=(
            Saes(
                "llama-3.1-8b-instruct-andyrdt",
                "resid_post_layer_{layer}_trainer_1",
                _ANDYRDT,
                "131k",
            ),
        ),
    ),
    KnownModel(
        name="qwen2.5-7b-instruct",
        id="Qwen/Qwen2.5-7B-Instruct",
        n_layers=28,
        parameters=7.616,
        embedding=1.090,
        chat=True,
        saes=(
            Saes(
                "qwen2.5-7b-instruct-andyrdt",
                "resid_post_layer_{layer}_trainer_1",
                _ANDYRDT,
                "131k",
            ),
        ),
    ),
    _qwen_scope("3", "1.7b", 28, "32k", 1.721, 0.311),
    _qwen_scope("3", "8b", 36, "64k", 8.191, 1.245),
    _qwen_scope("3.5", "2b", 24, "32k", 2.0, 0.5),
    _qwen_scope("3.5", "9b", 32, "64k", 9.0, 2.0),
    KnownModel(
        name="gpt-oss-20b",
        id="openai/gpt-oss-20b",
        n_layers=24,
        parameters=20.91,
        embedding=1.16,
        chat=True,
        saes=(
            Saes(
                "gpt-oss-20b-andyrdt",
                "resid_post_layer_{layer}_trainer_0",
                tuple(range(3, 24, 4)),
                "131k",
            ),
        ),
    ),
)

_BY_NAME = {model.name: model for model in MODELS}
_BY_ID = {model.id.lower(): model for model in MODELS}


def known(name_or_id: str) -> KnownModel | None:
    """The model with this name or hub id, in any case; None if it isn't known."""
    lower = name_or_id.lower()
    return _BY_NAME.get(lower) or _BY_ID.get(lower)
