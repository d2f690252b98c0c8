"""Areas, masks and weighted prompts, inside the host's Python."""

from functools import partial
from typing import Any

from chain import NodeChain, nodes, pack


def frames() -> dict[str, Any]:
    """Return what a network sees and says of areas beside its grid."""
    import torch

    pack()
    from pack.nodes.host.constants import Frame, framed, mirrored, on_grid

    drawn = torch.Generator().manual_seed(0)
    x, seen = torch.rand(1, 2, 3, 19, generator=drawn), []
    grid, frame = on_grid((3, 19, 16, 21), 8)

    def look(y: Any) -> Any:
        seen.append(y)
        return 2 * y

    said = framed(look, x, frame)
    (y,) = seen
    return {
        "grid": grid,
        "frame": tuple(frame),
        "seen": list(y.shape),
        "inside": bool((y[:, :, :3, 5:24] == x).all()),
        "said": bool((said == 2 * x).all()),
        "edge": bool((y[:, :, :3, 4] == x[..., 1]).all()),
        "mirrored": mirrored(3, 2, 4).tolist(),
        "single": mirrored(1, 1, 2).tolist(),
        "whole": on_grid((16, 8, 0, 24), 8)[1] == Frame(),
    }


def kept_pixels() -> dict[str, Any]:
    """Return which pixels outside a mask are not the original's to the last bit, and inside."""
    import torch

    keep = nodes()["WuerstchenKeepPixels"].execute
    drawn = torch.Generator().manual_seed(0)
    painted, original = (torch.rand(2, 40, 50, 3, generator=drawn) for _ in range(2))
    mask = torch.zeros(1, 40, 50)
    mask[:, 10:30, 5:45] = 1
    (image,) = keep(painted, original, mask, 4).result
    (hard,) = keep(painted, original, mask, 0).result
    inside, middle = mask[0] == 1, torch.zeros(40, 50, dtype=torch.bool)
    middle[14:26, 9:41] = True
    return {
        "outside": int((image != original)[:, ~inside].sum()),
        "middle": int((image != painted)[:, middle].sum()),
        "hard inside": int((hard != painted)[:, inside].sum()),
        "edge that is neither": int(
            ((image != painted) & (image != original))[:, inside & ~middle].sum()
        ),
        "edge": int((inside & ~middle).sum()) * 6,
    }


def masks() -> dict[str, Any]:
    """Return how far masks of a batch are from those of its pictures alone, and what a path keeps."""
    import torch

    chain, drawn = NodeChain(), torch.Generator().manual_seed(0)
    image, mask = torch.rand(2, 256, 256, 3, generator=drawn), torch.zeros(2, 256, 256)
    mask[0, :, :128], mask[1, :128] = 1, 1
    encode = partial(chain.call, "StageCEncode")
    ((both,), *alone) = (
        encode(image[rows], chain.compressor, mask[rows])
        for rows in (slice(2), slice(1), slice(1, 2))
    )
    ends = [one for (one,) in alone]
    (path,) = chain.call("InterpolateLatents", *ends, 3)
    apart = both["noise_mask"] - torch.cat([one["noise_mask"] for one in ends])
    return {
        "apart": float(apart.abs().max()),
        "differ": bool((both["noise_mask"][0] != both["noise_mask"][1]).any()),
        "path": sorted({"samples", "noise_mask"} & set(path)),
    }


def weighting() -> dict[str, Any]:
    """Return how far the package's features are from the host's, relative to the largest."""
    chain = NodeChain()
    from pack.wuerstchen.checkpoints.sources import MINI
    from pack.wuerstchen.placement import Placement
    from pack.wuerstchen.towers import load_text_tower

    found, placement = {}, Placement()
    for folder, clip in (("wuerstchen-prior", chain.clip), ("wuerstchen", chain.clip_b)):
        tower = load_text_tower(MINI / folder, placement)
        for prompt in WEIGHTED:
            theirs = chain.call("TextEncode", clip, prompt)[0][0][0]
            ours = tower.encode([prompt])
            apart = float((ours - theirs).abs().max() / theirs.abs().max())
            found[f"{folder}, {prompt}"] = (ours.shape == theirs.shape, apart)
    return found


WEIGHTED = (
    "a (large:1.3) red circle",
    "(a (red:1.5) circle:2) on (blue:sky)",
    r"a (small) ((green)) \(star\) (on:0.4) white",
    "a large red circle on a blue background and " * 11 + "a small (green:1.4) star",
    "red " * 73 + "(a large star:1.3) on blue",
)
