"""Runs a Python script where torchvision may be missing, of which the Textual Inversion script uses one function.

Called by path, in whatever environment the script has: it imports nothing of this project. The stand-in mirrors a
picture with a probability, at the cost of torchvision's own (a random number and a transposition).
"""

import importlib.util
import runpy
import sys
import types


class RandomHorizontalFlip:
    """Mirror a PIL picture with probability p."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, image):
        import torch
        from PIL import Image

        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < self.p else image


def stand_in_for_torchvision() -> None:
    """Put a module in torchvision's place, after the libraries have found out that there is none."""
    # What decides by itself whether torchvision is there must have done so before.
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import transformers  # noqa: F401

    package, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
    package.__spec__ = importlib.util.spec_from_loader("torchvision", loader=None)
    transforms.RandomHorizontalFlip = RandomHorizontalFlip
    package.transforms = transforms
    sys.modules |= {"torchvision": package, "torchvision.transforms": transforms}


if __name__ == "__main__":
    if importlib.util.find_spec("torchvision") is None:
        stand_in_for_torchvision()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
