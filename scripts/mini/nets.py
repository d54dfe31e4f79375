"""The networks of `mini`: SD3's transformer, text encoder, linear image code, decoder and classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

TEXT_DIM, CHANNELS, FACTOR, GRID = 128, 16, 8, 16
WIDTH, HEAD, DEPTH = 192, 32, 5


def transformer(width: int = WIDTH, depth: int = DEPTH) -> SD3Transformer2DModel:
    """SD3's MMDiT, initialised as DiT is (adaLN-zero), with a trained position table."""
    model = SD3Transformer2DModel(
        sample_size=GRID, patch_size=2, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=depth,
        attention_head_dim=HEAD, num_attention_heads=width // HEAD, caption_projection_dim=width,
        joint_attention_dim=TEXT_DIM, pooled_projection_dim=TEXT_DIM, pos_embed_max_size=GRID,
    )  # fmt: skip
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if "norm" in name or name == "proj_out":
                nn.init.zeros_(module.weight)
            if "embedder.linear" in name:
                nn.init.normal_(module.weight, std=0.02)
    side = model.config["pos_embed_max_size"]
    table = torch.from_numpy(position_table(side, width)[None])
    del model.pos_embed.pos_embed  # a fixed buffer of low frequencies
    model.pos_embed.register_parameter("pos_embed", nn.Parameter(table))
    model.pos_embed.proj = PatchProjection(model.pos_embed.proj)
    return model


class PatchProjection(nn.Module):
    """The patch embedding's convolution as a product of matrices, in place of it and with its weights.

    PyTorch's backward pass of the convolution takes as long on a CPU as all the rest of the transformer.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(x, self.weight.shape[-1]).permute(0, 2, 3, 1)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def position_table(side: int, width: int) -> np.ndarray:
    """Sines and cosines of row and column, float32 [side * side, width], 1/64 to 0.45 of a turn per patch.

    SD3's own table is made for 64 patches a side: over our 8, all but its highest frequencies are constant,
    and a transformer trained on it could not tell neighbours apart. This one, and its training, can.
    """
    turns = np.geomspace(1 / 64, 0.45, width // 4)
    angles = 2 * np.pi * np.arange(side)[:, None] * turns
    axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows, columns = np.repeat(axis, side, axis=0), np.tile(axis, (side, 1))
    return np.concatenate([rows, columns], axis=1).astype(np.float32)


class TextEncoder(nn.Module):
    """Word embeddings: `tokens` [batch, 12, 128] (with position, normalised), their sum `pooled` [.., 128]."""

    def __init__(self, words: int, length: int) -> None:
        super().__init__()
        self.token = nn.Embedding(words, TEXT_DIM)
        self.position = nn.Embedding(length, TEXT_DIM)
        self.norm = nn.LayerNorm(TEXT_DIM)
        nn.init.normal_(self.token.weight, std=0.3)
        nn.init.normal_(self.position.weight, std=0.1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        words = self.token(ids)
        pooled = (words * (ids != 0).unsqueeze(-1)).sum(1)
        return self.norm(words + self.position.weight), pooled


class Latents:
    """The linear image code: 8x8x3 patches in [-1, 1] times a 192x16 matrix, and its linear inverse."""

    def __init__(self, mean: np.ndarray, matrix: np.ndarray) -> None:
        self.mean, self.matrix = mean, matrix

    @classmethod
    def fit(cls, pictures: np.ndarray) -> Latents:
        """PCA of all patches; each channel over the root of its deviation, then one scale for unit variance.

        The root keeps the order of importance (whitened, noise in the last channel would cost as much as in
        the mean colour) and still lets the transformer see the small ones.
        """
        flat = np.concatenate([_patches(part).reshape(-1, 192) for part in np.array_split(pictures, 32)])
        mean = flat.mean(0)
        covariance = (flat - mean).T @ (flat - mean) / len(flat)
        values, vectors = np.linalg.eigh(covariance.astype(np.float64))
        std = np.sqrt(values[::-1][:CHANNELS])
        matrix = vectors[:, ::-1][:, :CHANNELS] / np.sqrt(std) / np.sqrt(np.mean(std))
        return cls(mean.astype(np.float32), matrix.astype(np.float32))

    @classmethod
    def load(cls, path: Path) -> Latents:
        """The code that `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["mean"], arrays["matrix"])

    def save(self, path: Path) -> None:
        """Writes the code as npz."""
        np.savez(path, mean=self.mean, matrix=self.matrix)

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """Latents float32 [batch, 16, 16, channels] of uint8 pictures [batch, 128, 128, 3]."""
        return (_patches(pictures) - self.mean) @ self.matrix

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Least-squares pictures, uint8 [batch, 128, 128, 3]: the code without a decoder's knowledge."""
        patches = latents @ np.linalg.pinv(self.matrix) + self.mean
        count, rows, columns, _ = patches.shape
        grid = patches.reshape(count, rows, columns, FACTOR, FACTOR, 3).transpose(0, 1, 3, 2, 4, 5)
        return to_uint8(grid.reshape(count, rows * FACTOR, columns * FACTOR, 3))


def _patches(pictures: np.ndarray) -> np.ndarray:
    count, height, width, _ = pictures.shape
    grid = pictures.reshape(count, height // FACTOR, FACTOR, width // FACTOR, FACTOR, 3).transpose(
        0, 1, 3, 2, 4, 5
    )
    return grid.reshape(count, height // FACTOR, width // FACTOR, -1).astype(np.float32) / 127.5 - 1


def to_uint8(pictures: np.ndarray) -> np.ndarray:
    """uint8 of pictures in [-1, 1]."""
    return np.clip(np.round((pictures + 1) * 127.5), 0, 255).astype(np.uint8)


def as_torch(latents: np.ndarray) -> Tensor:
    """float32 [batch, channels, height, width] of NHWC latents."""
    return torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 3, 1, 2))).float()


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Decoder(nn.Module):
    """Pictures [batch, 3, 128, 128] in about [-1, 1] from latents [batch, 16, 16, 16], by pixel shuffles."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(CHANNELS, 96, 3, padding=1)
        self.block1 = Residual(96)
        self.up1 = nn.Conv2d(96, 48 * 4, 1)
        self.block2 = Residual(48)
        self.block3 = Residual(48)
        self.up2 = nn.Conv2d(48, 32 * 4, 1)
        self.block4 = Residual(32)
        self.conv_out = nn.Conv2d(32, 3 * 4, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.block1(self.conv_in(z))
        x = F.pixel_shuffle(self.up1(F.silu(x)), 2)
        x = self.block3(self.block2(x))
        x = F.pixel_shuffle(self.up2(F.silu(x)), 2)
        return F.pixel_shuffle(self.conv_out(F.silu(self.block4(x))), 2)


class Classifier(nn.Module):
    """What pictures [batch, 3, 128, 128] show; `features` gives its four maps.

    Its four logits: object, background, colour of the object, position (from maps that keep the columns apart).
    """

    def __init__(self, objects: int, backgrounds: int, colours: int, positions: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(64, 96, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(96, 160, 3, stride=2, padding=1)
        self.object = nn.Linear(160 * 2, objects)
        self.background = nn.Linear(160 * 2, backgrounds)
        self.colour = nn.Linear(160 * 2, colours)
        self.position = nn.Linear(160 * 8, positions)

    def features(self, x: Tensor) -> list[Tensor]:
        maps = []
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(conv(x))
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        last = self.features(x)[-1]
        pooled = torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1)
        columns = last.mean(2).flatten(1)
        return self.object(pooled), self.background(pooled), self.colour(pooled), self.position(columns)
