"""A cache of the Hugging Face hub that tests fill with files of the true names and formats."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """`root` is what HF_HUB_CACHE has to name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, repo_id: str) -> Path:
        """The snapshot of a repository, for files to be put in."""
        repo = self.root / f"models--{repo_id.replace('/', '--')}"
        snapshot = repo / "snapshots" / COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(COMMIT)
        return snapshot

    def put(self, repo_id: str, name: str, content: bytes) -> None:
        path = self.folder(repo_id) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def put_json(self, repo_id: str, name: str, content: object) -> None:
        self.put(repo_id, name, json.dumps(content).encode())

    def put_tensors(self, repo_id: str, name: str, tensors: dict[str, Tensor]) -> None:
        self.put(repo_id, name, save({key: value.contiguous() for key, value in tensors.items()}))

    def put_checkpoint(self, repo_id: str, name: str, content: dict[str, Any]) -> None:
        """In torch's own format, which several releases of SAEs use."""
        buffer = io.BytesIO()
        torch.save(content, buffer)
        self.put(repo_id, name, buffer.getvalue())


def sae_weights(d_in: int, d_sae: int, seed: int = 0) -> dict[str, Tensor]:
    """W_enc (d_in, d_sae), W_dec (d_sae, d_in) of unit rows, b_enc, b_dec and threshold."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(d_sae, d_in, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    return {
        "W_enc": decoder.T.clone(),
        "W_dec": decoder,
        "b_enc": 0.1 * torch.randn(d_sae, generator=generator),
        "b_dec": 0.1 * torch.randn(d_in, generator=generator),
        "threshold": 0.5 + torch.rand(d_sae, generator=generator),
    }


def jumprelu(pre: Tensor, threshold: Tensor | float) -> Tensor:
    return pre * (pre > threshold)
