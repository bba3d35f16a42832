"""Load a sparse autoencoder through sae-lens, and give out its weights as plain tensors.

sae-lens takes ten seconds and half a gigabyte to import, so it is imported only when an SAE is
loaded; chatting never does.
"""

import contextlib
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saif.core.types import Site
from saif.errors import SaeError

WEIGHTS = "sae_weights.safetensors"

ARCHITECTURES = ("standard", "jumprelu", "topk")
"""Those whose latents can be encoded one at a time; a gated or temporal SAE's, say, can't."""

_NORMALIZATIONS = ("none", "expected_average_only_in")
"""Scalings of the input that are part of the weights by the time an SAE is loaded."""


@dataclass(frozen=True, eq=False)
class Sae:
    """A sparse autoencoder of one residual-stream site."""

    id: str
    sha256: str
    """Of the weights file, or of the decoder where there is no file."""
    site: Site
    _sae: Any

    @property
    def d_sae(self) -> int:
        return self._sae.cfg.d_sae

    @property
    def d_in(self) -> int:
        return self._sae.cfg.d_in

    @torch.inference_mode()
    def encode(self, resid: Tensor) -> Tensor:
        """(…, d_model) -> latents (…, d_sae), float32."""
        return self._sae.encode(resid.to(self._sae.W_dec)).float()

    @torch.inference_mode()
    def reconstruct(self, resid: Tensor) -> Tensor:
        """decode(encode(resid)), in the residual's own dtype."""
        return self._sae.decode(self._sae.encode(resid.to(self._sae.W_dec))).to(resid)

    def decoder(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Decoder rows (m, d_model) float32, at the scale the latents' activations are in."""
        return self._sae.W_dec.detach()[torch.as_tensor(ids)].float()

    def encoder(self, ids: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it takes to encode these latents alone: encoder rows (m, d_model), biases (m,) and
        thresholds (m,), such that a = pre where pre > threshold, else 0, with
        pre = encoder @ z + bias.

        A TopK SAE also sets to zero what is not among a token's k largest, which no threshold
        can say."""
        index = torch.as_tensor(ids)
        encoder = self._sae.W_enc.detach().T[index].float()
        bias = self._sae.b_enc.detach()[index].float()
        if self._sae.cfg.apply_b_dec_to_input:
            bias = bias - encoder @ self._sae.b_dec.detach().float()
        threshold = getattr(self._sae, "threshold", None)
        if threshold is None:
            return encoder, bias, torch.zeros_like(bias)
        return encoder, bias, threshold.detach()[index].float().clamp(min=0)


def load_sae(source: str | Path) -> Sae:
    """An SAE from a local folder in sae-lens' format, or from sae-lens' registry as RELEASE/ID.

    Raises SaeError if there is none, if it doesn't read a residual stream, or if it is of a kind
    whose latents can't be encoded one by one.
    """
    from safetensors import SafetensorError

    folder = Path(source)
    # sae-lens and what it imports print; stdout belongs to results.
    quiet = contextlib.redirect_stdout(sys.stderr)
    with quiet:
        sae_class = _sae_lens()
    if folder.is_dir() and not all((folder / name).is_file() for name in ("cfg.json", WEIGHTS)):
        raise SaeError(f"{folder} is not an SAE folder: cfg.json or {WEIGHTS} is missing.")
    try:
        if folder.is_dir():
            sae = sae_class.load_from_disk(str(folder), device="cpu", dtype="float32")
            sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        else:
            release, _, sae_id = str(source).partition("/")
            with quiet:
                sae = sae_class.from_pretrained(release, sae_id, device="cpu")
            sha256 = hashlib.sha256(sae.W_dec.detach().float().numpy().tobytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise SaeError(
            f"The SAE '{source}' could not be loaded: {reason}",
            hint="Give a local SAE folder, or RELEASE/ID as sae-lens names them.",
        ) from error
    site = _site(sae, str(source))
    _check_kind(sae, str(source))
    return Sae(str(source), sha256, site, sae)


def _sae_lens() -> Any:
    """sae-lens' SAE class, made to find everything that lies in the hub's cache.

    For Gemma Scope 2 it asks the hub for the shapes inside a file, cache or not, before it fetches
    that very file; here they are read from the file.
    """
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders

    pretrained_sae_loaders.get_safetensors_tensor_shapes = _shapes
    return SAE


def _shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
    from huggingface_hub import hf_hub_download
    from safetensors import safe_open

    with safe_open(hf_hub_download(repo_id, filename), framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def _check_kind(sae: Any, source: str) -> None:
    kind, scaling = sae.cfg.architecture(), sae.cfg.normalize_activations
    if kind not in ARCHITECTURES:
        raise SaeError(
            f"The SAE '{source}' is of the kind '{kind}', which is not supported.",
            hint=f"Kinds that are: {', '.join(ARCHITECTURES)}.",
        )
    if scaling not in _NORMALIZATIONS:
        raise SaeError(
            f"The SAE '{source}' normalizes every token by itself ('{scaling}'), which is not "
            "supported."
        )
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        # Folded in, so that activations and decoder rows are in the same units.
        sae.fold_W_dec_norm()
        sae.cfg.rescale_acts_by_decoder_norm = False


def _site(sae: Any, source: str) -> Site:
    """The site that every name in the SAE's metadata means.

    Both are looked at, because a name in one style can pass for a residual stream when the other
    tells that it is an MLP's output.
    """
    metadata = sae.cfg.metadata
    names = [name for name in (metadata.hf_hook_name, metadata.hook_name) if name]
    try:
        (site,) = {Site.parse(name) for name in names}
    except ValueError as error:
        raise SaeError(
            f"The SAE '{source}' does not read the residual stream after a block"
            f" ({', '.join(names) or 'its hook is not named'})."
        ) from error
    return site
