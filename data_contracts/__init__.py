"""One YAML file per table, in the Open Data Contract Standard 3.1, and the code that holds tables to it.

`contract(name)` reads a file and turns it into an Arrow schema; its `check` names everything that is wrong
with a table; `rules` is how each kind of clause is checked. A new column is a minor version; a column that
changes or goes is a major one, and another table.
"""

from __future__ import annotations

from .contract import NAMES, Contract, contract
from .rules import ContractError

__all__ = ["NAMES", "Contract", "ContractError", "contract"]
