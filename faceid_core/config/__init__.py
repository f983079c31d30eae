"""The configuration of a run: `NightlyConfig`, parsed once at the edge and frozen afterwards.

Only light modules are imported here, so that `faceid run --help` needs neither torch nor prefect.
"""

from .nightly import NightlyConfig
from .parse import changed, load_config, parse_config
from .personalize import PersonalizeConfig
from .sections import GenerateConfig, S3Config, cluster_address

__all__ = [
    "GenerateConfig",
    "NightlyConfig",
    "PersonalizeConfig",
    "S3Config",
    "changed",
    "cluster_address",
    "load_config",
    "parse_config",
]
