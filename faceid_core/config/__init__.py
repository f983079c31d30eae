"""The configuration of a run: `NightlyConfig`, parsed once at the edge and frozen afterwards.

Only light modules are imported here, so that `faceid run --help` loads neither torch nor prefect.
"""

from .execution import S3Config, cluster_address
from .nightly import NightlyConfig
from .parse import changed, format_setting, load_config, parse_config, parse_setting, store_options
from .personalize import PersonalizeConfig
from .sections import GenerateConfig

__all__ = [
    "GenerateConfig",
    "NightlyConfig",
    "PersonalizeConfig",
    "S3Config",
    "changed",
    "cluster_address",
    "format_setting",
    "load_config",
    "parse_config",
    "parse_setting",
    "store_options",
]
