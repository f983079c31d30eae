"""Runs the Textual Inversion script where torchvision may be missing, of which it uses one function.

`FACEID_SCRIPT_TEMPLATE`, where it is set, takes the place of the script's own list of prompts to learn from.

Called by path, in whatever environment the script has: it imports nothing of this project. The stand-in mirrors a
picture with a probability, at the cost of torchvision's own (a random number and a transposition).
"""

import ast
import importlib.util
import os
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


def with_template(tree: ast.Module, template: str) -> ast.Module:
    """The script with one template instead of its own list.

    Raises:
        SystemExit: it has no such list any more.
    """
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "imagenet_templates_small":
            node.value = ast.parse(repr([template]), mode="eval").body
            return ast.fix_missing_locations(tree)
    raise SystemExit("the script has no list imagenet_templates_small; is it another version?")


if __name__ == "__main__":
    if importlib.util.find_spec("torchvision") is None:
        stand_in_for_torchvision()
    sys.argv = sys.argv[1:]
    with open(sys.argv[0], encoding="utf-8") as script:
        parsed = ast.parse(script.read(), sys.argv[0])
    if os.environ.get("FACEID_SCRIPT_TEMPLATE"):
        parsed = with_template(parsed, os.environ["FACEID_SCRIPT_TEMPLATE"])
    __file__ = sys.argv[0]
    exec(compile(parsed, sys.argv[0], "exec"))
