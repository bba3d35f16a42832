"""Load a sparse autoencoder through sae-lens and read it as plain tensors.

sae-lens takes ten seconds and half a gigabyte to import, so it is imported only when an SAE is
loaded; chatting never does.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saif.core.spec import Site
from saif.errors import SaeError

WEIGHTS = "sae_weights.safetensors"


@dataclass(frozen=True, eq=False)
class Sae:
    """A sparse autoencoder of one residual-stream site.

    sha256: of the weights file, or of the decoder where there is no file at hand.
    """

    id: str
    sha256: str
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

    def reader(self, ids: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it takes to read these latents without the SAE: encoder rows (m, d_model),
        biases (m,) and thresholds (m,), such that a = pre where pre > threshold, else 0, with
        pre = encoder @ z + bias."""
        index = torch.as_tensor(ids)
        encoder = self._sae.W_enc.detach().T[index].float()
        bias = self._sae.b_enc.detach()[index].float()
        if self._sae.cfg.apply_b_dec_to_input:
            bias = bias - encoder @ self._sae.b_dec.detach().float()
        threshold = getattr(self._sae, "threshold", None)
        if threshold is None:
            return encoder, bias, torch.zeros_like(bias)
        return encoder, bias, threshold.detach()[index].float()


def load_sae(source: str | Path) -> Sae:
    """An SAE from a local folder in sae-lens' format, or from sae-lens' registry as RELEASE/ID.

    Raises SaeError if there is none or if it doesn't read a residual stream.
    """
    folder = Path(source)
    with _quiet():
        from sae_lens import SAE

    try:
        if folder.is_dir():
            if not (folder / "cfg.json").is_file() or not (folder / WEIGHTS).is_file():
                raise SaeError(f"{folder} is not an SAE folder: cfg.json or {WEIGHTS} is missing.")
            sae = SAE.load_from_disk(str(folder), device="cpu", dtype="float32")
            sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        else:
            release, _, sae_id = str(source).partition("/")
            sae = SAE.from_pretrained(release, sae_id, device="cpu")
            sha256 = hashlib.sha256(sae.W_dec.detach().float().numpy().tobytes()).hexdigest()
    except (OSError, ValueError, KeyError) as error:
        raise SaeError(
            f"The SAE '{source}' could not be loaded: {error}",
            hint="Give a local SAE folder, or RELEASE/ID as sae-lens names them.",
        ) from error
    return Sae(str(source), sha256, _site(sae, str(source)), sae)


def _site(sae: Any, source: str) -> Site:
    metadata = sae.cfg.metadata
    for name in (metadata.hf_hook_name, metadata.hook_name):
        with contextlib.suppress(ValueError):
            return Site.parse(name or "")
    raise SaeError(f"The SAE '{source}' does not read the residual stream after a block.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """sae-lens and what it imports print; stdout belongs to results."""
    import sys

    with contextlib.redirect_stdout(sys.stderr):
        yield
